//! Checks that no ID was ever held by two members at once: each member logs when it gets an ID and
//! when it gives it up, and the logs are compared afterwards.
//!
//! A hold is logged *after* it began and *before* it ends, so a logged hold is never longer than
//! the real one: if two overlap, two members did hold the ID at once.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use libos_ipc::{Id, Vmid};
use rustix::time::{ClockId, clock_gettime};

/// Returns the time in nanoseconds, on the clock that all processes share.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// An event of an ID at a member. The values are the codes in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The ID was allocated.
    Taken = 1,
    /// The ID was received from another member.
    Accepted = 2,
    /// The ID is about to be released.
    Released = 3,
    /// The ID is about to be transferred to another member.
    Transferred = 4,
    /// The leader has refused the transfer: the member still holds the ID.
    Kept = 5,
}

impl Event {
    const ALL: [Event; 5] = [
        Event::Taken,
        Event::Accepted,
        Event::Released,
        Event::Transferred,
        Event::Kept,
    ];

    /// Returns true if the member holds the ID from this event on.
    fn begins_hold(self) -> bool {
        matches!(self, Event::Taken | Event::Accepted | Event::Kept)
    }
}

/// One entry of a log. It takes 16 bytes, little-endian: the time, the ID, the event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// In nanoseconds, as [`now`] returns it.
    time: u64,
    pub(crate) id: Id,
    pub(crate) event: Event,
}

/// The length of a record in bytes.
const RECORD_LENGTH: usize = 16;

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

/// Returns the bytes of a record from `offset` on.
fn field<const LENGTH: usize>(record: &[u8; RECORD_LENGTH], offset: usize) -> [u8; LENGTH] {
    std::array::from_fn(|index| record[offset + index])
}

/// Reads a member's log.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Record>> {
    let bytes = fs::read(path)?;
    let (records, _) = bytes.as_chunks::<RECORD_LENGTH>();
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

/// Returns the IDs that a member held at the end of its log.
pub(crate) fn held_at_end(records: &[Record]) -> Vec<Id> {
    let mut last = HashMap::new();
    for record in records {
        last.insert(record.id, record.event);
    }
    last.into_iter()
        .filter(|(_, event)| event.begins_hold())
        .map(|(id, _)| id)
        .collect()
}

/// The time in which a member held an ID, in nanoseconds, as [`now`] returns it.
struct Hold {
    id: Id,
    from: u64,
    until: u64,
    member: Vmid,
}

/// All holds of all members.
#[derive(Default)]
pub(crate) struct Holds {
    holds: Vec<Hold>,
    faults: Vec<String>,
}

impl Holds {
    /// Adds a member's log. Holds that are open at its end lasted until `death`, or until the last
    /// record: the member may have written more before the signal arrived.
    pub(crate) fn add(&mut self, member: Vmid, records: &[Record], death: Option<u64>) {
        let mut open: HashMap<Id, u64> = HashMap::new();
        for record in records {
            let Record { time, id, event } = *record;
            if event.begins_hold() {
                if open.insert(id, time).is_some() {
                    self.faults.push(format!(
                        "member {member} got ID {id}, which it held already"
                    ));
                }
            } else if let Some(from) = open.remove(&id) {
                self.holds.push(Hold {
                    id,
                    from,
                    until: time,
                    member,
                });
            } else {
                self.faults.push(format!(
                    "member {member} released ID {id}, which it did not hold"
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
                    member,
                }));
            }
            None if !open.is_empty() => {
                self.faults.push(format!(
                    "member {member} kept {} IDs to the end",
                    open.len()
                ));
            }
            None => {}
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.holds.len()
    }

    /// Returns the faults: those of single members, and each ID that two members held at once.
    pub(crate) fn check(mut self) -> Vec<String> {
        self.holds
            .sort_unstable_by_key(|hold| (hold.id, hold.from, hold.until));
        for pair in self.holds.windows(2) {
            if let [first, second] = pair
                && first.id == second.id
                && second.from < first.until
            {
                self.faults.push(format!(
                    "ID {} was held by member {} from {} to {} ns and by member {} from {} ns",
                    first.id, first.member, first.from, first.until, second.member, second.from
                ));
            }
        }
        self.faults
    }
}
