//! The record of the answers that a process gets: one line for each, which is written at once, so that it
//! survives the process.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};
use libos_ipc::Identity;
use rustix::time::{ClockId, clock_gettime};

use crate::common::send;

/// Returns the time of the host's monotonic clock, which all processes share, in nanoseconds.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Defines the events with numbers; each is written as its name and its numbers.
macro_rules! events {
    ($($(#[$doc:meta])* $name:ident { $($field:ident),* },)*) => {
        /// An event of a process.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(crate) enum Event {
            $($(#[$doc])* $name { $($field: u64),* },)*
            /// The process has prepared a child.
            Child(Identity),
            /// The number of changes of the shared value by each process.
            Value(Vec<u64>),
            /// Something that must not happen.
            Fault(String),
        }

        impl fmt::Display for Event {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Event::$name { $($field),* } => {
                        f.write_str(stringify!($name))?;
                        $(write!(f, " {}", $field)?;)*
                        Ok(())
                    })*
                    Event::Child(identity) => write!(f, "Child {identity}"),
                    Event::Value(changes) => {
                        f.write_str("Value")?;
                        changes.iter().try_for_each(|changes| write!(f, " {changes}"))
                    }
                    Event::Fault(what) => write!(f, "Fault {}", what.replace('\n', " ")),
                }
            }
        }

        impl FromStr for Event {
            type Err = Error;
            fn from_str(text: &str) -> Result<Event> {
                let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
                let mut words = rest.split_whitespace().map(str::parse::<u64>);
                Ok(match name {
                    $(stringify!($name) => Event::$name {
                        $($field: words.next().context(stringify!($field))??,)*
                    },)*
                    "Child" => Event::Child(rest.parse()?),
                    "Value" => Event::Value(words.collect::<Result<_, _>>()?),
                    "Fault" => Event::Fault(rest.to_owned()),
                    _ => bail!("{text:?} is no event"),
                })
            }
        }
    };
}

events!(
    /// The process has joined the family.
    Joined { vmid, pid },
    /// The process follows that leader, which may be itself.
    Follows { leader },
    /// The heir of the leader in the last list of heirs that the process has received: 0 for none.
    Heir { vmid },
    /// An outage: the times of the last answer before the change of leader, and of the first one after it.
    Outage { leader, last, first },
    /// The process has got an ID.
    Took { id },
    /// The process is going to release the ID.
    ReleasesId { id },
    /// The process has got the lock of a file.
    Locked { file },
    /// The process is going to unlock the file.
    Unlocks { file },
    /// The process has got the shared value to change it.
    Acquired {},
    /// The process is going to release the value.
    ReleasesValue {},
    /// The process has changed the value `count` times; other processes have had `seen` of these changes.
    Changed { count, seen },
    /// The process is going to send a signal to a process, 0 for all.
    Signals { to },
    /// The signal was accepted; it was sent at that time.
    Signalled { to, begin },
    /// A signal was delivered. `to_all` is 1 if it was for all, and 0 if it was for this process alone.
    GotSignal { from, to_all },
    /// The process was notified that a child has ended.
    Notified { pid },
    /// The process has reaped a child.
    Reaped { pid, code, signal },
    /// The process has stopped working.
    Stopped {},
    /// The process is going to end.
    Ends { code },
    /// The process has left the family, so many microseconds after it began to end.
    Left { microseconds },
);

/// An event and its time.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// In nanoseconds, as [`now`] returns it.
    pub(crate) time: u64,
    pub(crate) event: Event,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.time, self.event)
    }
}

impl FromStr for Entry {
    type Err = Error;
    fn from_str(line: &str) -> Result<Entry> {
        let (time, event) = line.split_once(' ').context("no time")?;
        Ok(Entry {
            time: time.parse()?,
            event: event.parse()?,
        })
    }
}

/// Reports an event of this process.
pub(crate) fn report(event: Event) {
    let time = now();
    send(&Entry { time, event });
}
