//! The rules of a platform, as the documentation of [`pal`](crate::pal) states them.

use core::fmt;

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident, $name:literal, $item:literal, $text:literal;)*) => {
        /// A rule of the platform traits.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $(#[doc = concat!("Stated by `", $item, "`: see [`Rule::text`].")] $rule,)*
        }

        impl Rule {
            /// All rules.
            pub const ALL: &[Rule] = &[$(Rule::$rule,)*];

            /// Returns the name of the rule.
            pub const fn name(self) -> &'static str {
                match self { $(Rule::$rule => $name,)* }
            }

            /// Returns the item of [`pal`](crate::pal) whose documentation states the rule.
            pub const fn item(self) -> &'static str {
                match self { $(Rule::$rule => $item,)* }
            }

            /// Returns the words of that documentation.
            pub const fn text(self) -> &'static str {
                match self { $(Rule::$rule => $text,)* }
            }
        }
    };
}

rules! {
    ClockStands, "clock-stands", "Pal::now", "It does not stand still";
    ClockGoesBack, "clock-goes-back", "Pal::now", "never goes back, in any thread";
    ClockUnit, "clock-unit", "Pal::now", "The clock counts nanoseconds.";
    EventState, "event-state", "Event", "set or clear, and clear at first. It stays set until it is cleared.";
    EventSetBefore, "event-set-before", "Pal::wait_event", "also if the event was set before the call";
    EventTime, "event-time", "Pal::wait_event", "Waits until `event` is set or the wait is over at `until`, and returns at once then";
    EventWakesAll, "event-wakes-all", "Event::set", "Sets it and wakes the threads that wait for it.";
    WaitTime, "wait-time", "Pal::wait", "the wait is over at `until`";
    WakeBefore, "wake-before", "Pal::wake", "or the next one if there is none";
    WakeDuring, "wake-during", "Pal::wake", "Ends the [`Pal::wait`] under way";
    ReadyCount, "ready-count", "READY_AT_ONCE", "The greatest number of ready streams that one [`Pal::wait`] reports.";
    Readiness, "readiness", "Interest", "the readiness that [`Pal::wait`] reports for it: never more than the watch is interested in.";
    Connect, "connect", "Pal::connect", "Opens a stream to the process with that VMID, without blocking.";
    Accept, "accept", "Pal::accept", "Accepts the next stream to this node, without blocking.";
    NothingToAccept, "nothing-to-accept", "AcceptError::WouldBlock", "No stream is waiting to be accepted.";
    NotListening, "not-listening", "ConnectError::NotListening", "No process listens under that VMID: there is none, or none any more.";
    Backlog, "backlog", "ConnectError::Busy", "The peer's backlog is full, or the platform lacks resources at present.";
    NeverAccepted, "never-accepted", "Pal::connect", "if the peer never does, it reads as closed";
    WouldBlock, "would-block", "pal", "Reads and writes never block.";
    Order, "order", "Stream", "Bytes arrive once, in the order in which they were written.";
    ReadCount, "read-count", "Stream::read", "Reads at most `buffer.len()` bytes without blocking and returns their number";
    WriteCount, "write-count", "Stream::write", "Writes the bytes of `parts`, in order, as many as possible without blocking, and returns their number.";
    End, "end", "Stream::read", "0 means that the peer has closed its end and all bytes were read.";
    DropEnds, "drop-ends", "Stream", "Dropping it ends the stream for the peer, too, which can still read the bytes that were written before.";
    ReaderGone, "reader-gone", "Stream::write", "A write to a stream whose reader has closed its end fails with [`StreamError::Closed`]";
    Independent, "independent", "pal", "A stream that is not read holds up no other stream.";
    Readable, "readable", "Interest::READ", "Bytes, or the end of the stream, can be read.";
    Writable, "writable", "Interest::WRITE", "Bytes can be written.";
    Level, "level", "pal", "every [`Pal::wait`] reports a stream that is ready and watched, until it is no longer ready or no longer watched.";
    Interest, "interest", "Interest", "never more than the watch is interested in.";
    EmptyInterest, "empty-interest", "Interest", "For an empty interest a PAL may report one hang-up all the same, once after each [`Pal::watch`] or [`Pal::rewatch`]";
    HangUp, "hang-up", "Interest", "A hang-up is reported for each of the three interests";
    Token, "token", "Pal::watch", "Begins to watch `stream`, which is not watched yet, under the name `token`.";
    Rewatch, "rewatch", "Pal::rewatch", "Changes the token and the interest of a watched stream.";
    Unwatch, "unwatch", "Pal::unwatch", "Ends the watch.";
    Dropped, "dropped", "Pal::unwatch", "Its token is not reported for any other stream.";
    InTurn, "in-turn", "READY_AT_ONCE", "each ready stream is reported in turn, even if the others stay ready.";
    Listener, "listener", "Token::LISTENER", "Reported when a stream waits to be accepted.";
    WatchListener, "watch-listener", "Pal::watch_listener", "Turns the report of [`Token::LISTENER`] on or off.";
    WatchDuring, "watch-during", "Pal::watch", "The watch also takes effect for a [`Pal::wait`] under way.";
    RewatchDuring, "rewatch-during", "Pal::rewatch", "The change also takes effect for a [`Pal::wait`] under way.";
    WaitReadable, "wait-readable", "Pal::wait_readable", "Waits until `stream` is readable or hung up";
    WaitReadableEvent, "wait-readable-event", "Pal::wait_readable", "`event` is set, or the wait is over at `until`, and returns at once in each of the three cases";
    WaitReadableTime, "wait-readable-time", "Pal::wait_readable", "the wait is over at `until`, and returns at once in each of the three cases";
    ReadWaiting, "read-waiting", "Pal::read_waiting", "Waits as [`Pal::wait_readable`] does, and reads.";
    Contended, "contended", "Pal::contended", "So the function returns soon, does not sleep for long, and makes no call of the node.";
    Threads, "threads", "pal", "All methods may be called from any thread at any time";
    Family, "family", "pal", "A [`Pal`] gives a node one-way byte streams to and from its peers";
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec::Vec;

    use super::Rule;

    /// Joins the lines of documentation.
    fn words(text: &str) -> String {
        let lines = text.lines().map(|line| {
            let line = line.trim_start().trim_start_matches('/');
            line.trim_start_matches('!')
        });
        let words: Vec<_> = lines.flat_map(str::split_whitespace).collect();
        words.join(" ")
    }

    #[test]
    fn the_documentation_of_the_platform_states_each_rule() {
        let documentation = words(concat!(
            include_str!("../../pal/mod.rs"),
            include_str!("../../pal/stream.rs")
        ));
        for rule in Rule::ALL {
            assert!(
                documentation.contains(&words(rule.text())),
                "{rule}: {}",
                rule.text()
            );
        }
    }

    #[test]
    fn each_rule_has_a_name_of_its_own() {
        let mut names: Vec<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Rule::ALL.len());
    }
}
