//! Whether an ID was ever held by two members at once: each member logs when it gets an ID and
//! when it lets go of it, and the logs are laid side by side afterwards.
//!
//! A hold is logged *after* it began and *before* it ends, so what is logged is never longer than
//! what was: if two overlap, two members did hold the ID at once.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use libos_ipc::{Id, Vmid};
use rustix::time::{ClockId, clock_gettime};

/// The time in nanoseconds, on the clock that all processes share.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// What happened to an ID at a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It was taken.
    Taken = 1,
    /// It came from another member.
    Adopted = 2,
    /// It is about to be released.
    Released = 3,
    /// It is about to be handed to another member.
    Given = 4,
    /// The leader did not agree to that: it is still here.
    Kept = 5,
}

impl Event {
    const ALL: [Event; 5] = [
        Event::Taken,
        Event::Adopted,
        Event::Released,
        Event::Given,
        Event::Kept,
    ];

    fn begins(self) -> bool {
        matches!(self, Event::Taken | Event::Adopted | Event::Kept)
    }
}

/// One entry of a log: 16 bytes, little-endian: the time, the ID, the event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    time: u64,
    pub(crate) id: Id,
    pub(crate) event: Event,
}

const RECORD: usize = 16;

/// A member's log. Each record is one write: a process that is killed loses none it has written.
pub(crate) struct Log(File);

impl Log {
    pub(crate) fn create(path: &Path) -> io::Result<Log> {
        File::create_new(path).map(Log)
    }

    pub(crate) fn write(&mut self, event: Event, id: Id) -> io::Result<()> {
        let record = u128::from(now()) | u128::from(id) << 64 | (event as u128) << 96;
        self.0.write_all(&record.to_le_bytes())
    }
}

/// Some bytes of a record.
fn field<const LENGTH: usize>(record: &[u8; RECORD], at: usize) -> [u8; LENGTH] {
    std::array::from_fn(|index| record[at + index])
}

/// Reads a member's log.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Record>> {
    let bytes = fs::read(path)?;
    let (records, _) = bytes.as_chunks::<RECORD>();
    records
        .iter()
        .map(|record| {
            let code = field::<1>(record, 12)[0];
            let event = Event::ALL.into_iter().find(|known| *known as u8 == code);
            Ok(Record {
                time: u64::from_le_bytes(field(record, 0)),
                id: Id::from_le_bytes(field(record, 8)),
                event: event
                    .ok_or_else(|| io::Error::other(format!("bad log {}", path.display())))?,
            })
        })
        .collect()
}

/// The IDs that a member held at the end of its log.
pub(crate) fn held_at_end(records: &[Record]) -> Vec<Id> {
    let mut last = HashMap::new();
    for record in records {
        last.insert(record.id, record.event);
    }
    last.into_iter()
        .filter(|(_, event)| event.begins())
        .map(|(id, _)| id)
        .collect()
}

struct Hold {
    id: Id,
    from: u64,
    until: u64,
    who: Vmid,
}

/// All holds of all members.
#[derive(Default)]
pub(crate) struct Holds {
    holds: Vec<Hold>,
    wrong: Vec<String>,
}

impl Holds {
    /// Adds a member's log. What it still held at its end it held until `death`, or until its last
    /// record: a signal takes a moment to arrive.
    pub(crate) fn add(&mut self, who: Vmid, records: &[Record], death: Option<u64>) {
        let mut open: HashMap<Id, u64> = HashMap::new();
        for record in records {
            let Record { time, id, event } = *record;
            if event.begins() {
                if open.insert(id, time).is_some() {
                    self.wrong
                        .push(format!("member {who} got ID {id}, which it held already"));
                }
            } else if let Some(from) = open.remove(&id) {
                self.holds.push(Hold {
                    id,
                    from,
                    until: time,
                    who,
                });
            } else {
                self.wrong.push(format!(
                    "member {who} let go of ID {id}, which it did not hold"
                ));
            }
        }
        let last = records.last().map_or(0, |record| record.time);
        match death {
            Some(death) => {
                let until = last.max(death);
                self.holds.extend(open.into_iter().map(|(id, from)| Hold {
                    id,
                    from,
                    until,
                    who,
                }));
            }
            None if !open.is_empty() => {
                self.wrong
                    .push(format!("member {who} kept {} IDs to the end", open.len()));
            }
            None => {}
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.holds.len()
    }

    /// What is wrong with them: most of all, two members that held one ID at once.
    pub(crate) fn check(mut self) -> Vec<String> {
        self.holds
            .sort_unstable_by_key(|hold| (hold.id, hold.from, hold.until));
        for pair in self.holds.windows(2) {
            if let [a, b] = pair
                && a.id == b.id
                && b.from < a.until
            {
                self.wrong.push(format!(
                    "ID {} was held by member {} from {} to {} ns and by member {} from {} ns",
                    a.id, a.who, a.from, a.until, b.who, b.from
                ));
            }
        }
        self.wrong
    }
}
