//! The calls of this process that wait for a sync handle, and the order in which they are served.
//!
//! Calls that want to use the handle stand in a line in the order of their arrival, and only the first
//! of them may take it; a reader that has taken it wakes the next. A reader that waits to become the
//! writer has something already, so it goes before the line. Calls that wait for a change of the data,
//! or for a close, use nothing and stand aside.

use crate::error::Error;
use crate::store::{Arena, Table, bytes_for};
use crate::sync::{AtomicU32, Ordering};
use crate::wire::SyncState;

/// What a call waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// Its turn to use the handle in that state.
    Use(SyncState),
    /// That it can become the writer.
    Upgrade,
    /// Another value.
    Change,
    /// The server's word that the handle is closed.
    Close,
}

/// A call that waits: its neighbours in the line, by name, and what it wants.
struct Link {
    before: AtomicU32,
    next: AtomicU32,
    wants: AtomicU32,
}

const READS: u32 = 0;
const WRITES: u32 = 1;
const STANDS_ASIDE: u32 = 2;

/// The links of all calls of a node that wait. A call waits for one handle at a time, so it needs one
/// link.
pub(super) struct Links<'m>(Table<'m, Link>);

impl<'m> Links<'m> {
    pub(super) const fn bytes(waiters: usize) -> usize {
        bytes_for::<Link>(waiters)
    }

    pub(super) fn new(arena: &mut Arena<'m>, waiters: usize) -> Result<Self, Error> {
        let link = |_| {
            Ok(Link {
                before: AtomicU32::new(0),
                next: AtomicU32::new(0),
                wants: AtomicU32::new(READS),
            })
        };
        Ok(Links(arena.table(waiters, link)?))
    }

    /// Whether the call of that name stands aside; for one that has gone that may be so or not.
    pub(super) fn is_aside(&self, name: u32) -> bool {
        self.of(name)
            .is_some_and(|link| get(&link.wants) == STANDS_ASIDE)
    }

    fn of(&self, name: u32) -> Option<&Link> {
        self.0.get(name.checked_sub(1)? as usize)
    }
}

/// Who waits for one handle. All is changed with the lock of the handle's client held, which orders
/// it; calls are known by the names of their waiters, and 0 is nobody.
pub(super) struct Line {
    first: AtomicU32,
    last: AtomicU32,
    upgrader: AtomicU32,
    /// How many stand aside.
    aside: AtomicU32,
    /// How many wait in any way.
    all: AtomicU32,
}

/// Who is to look again.
#[derive(Clone, Copy, Default)]
pub(super) struct Wakes {
    pub(super) first: u32,
    pub(super) upgrader: u32,
    pub(super) aside: bool,
}

impl Line {
    pub(super) fn new() -> Line {
        Line {
            first: AtomicU32::new(0),
            last: AtomicU32::new(0),
            upgrader: AtomicU32::new(0),
            aside: AtomicU32::new(0),
            all: AtomicU32::new(0),
        }
    }

    pub(super) fn join(&self, links: &Links<'_>, name: u32, what: For) {
        add(&self.all, 1);
        let Some(link) = links.of(name) else { return };
        let wants = match what {
            For::Use(SyncState::Exclusive) | For::Upgrade => WRITES,
            For::Use(_) => READS,
            For::Change | For::Close => STANDS_ASIDE,
        };
        put(&link.wants, wants);
        match what {
            For::Use(_) => {
                let last = get(&self.last);
                put(&link.before, last);
                put(&link.next, 0);
                put(links.of(last).map_or(&self.first, |link| &link.next), name);
                put(&self.last, name);
            }
            For::Upgrade => put(&self.upgrader, name),
            For::Change | For::Close => add(&self.aside, 1),
        }
    }

    pub(super) fn leave(&self, links: &Links<'_>, name: u32, what: For) {
        add(&self.all, -1);
        match what {
            For::Use(_) => {
                let Some(link) = links.of(name) else { return };
                let (before, next) = (get(&link.before), get(&link.next));
                put(
                    links.of(before).map_or(&self.first, |link| &link.next),
                    next,
                );
                put(
                    links.of(next).map_or(&self.last, |link| &link.before),
                    before,
                );
            }
            For::Upgrade => put(&self.upgrader, 0),
            For::Change | For::Close => add(&self.aside, -1),
        }
    }

    pub(super) fn is_first(&self, name: u32) -> bool {
        get(&self.first) == name
    }

    /// What the first in line wants.
    pub(super) fn first_wants(&self, links: &Links<'_>) -> Option<SyncState> {
        let link = links.of(get(&self.first))?;
        Some(if get(&link.wants) == WRITES {
            SyncState::Exclusive
        } else {
            SyncState::Shared
        })
    }

    /// Whether anybody waits.
    #[inline]
    pub(super) fn is_waited_for(&self) -> bool {
        get(&self.all) != 0
    }

    /// Everybody who may look again.
    pub(super) fn wakes(&self) -> Wakes {
        Wakes {
            first: get(&self.first),
            upgrader: get(&self.upgrader),
            aside: get(&self.aside) != 0,
        }
    }
}

#[inline]
fn get(of: &AtomicU32) -> u32 {
    of.load(Ordering::Relaxed)
}

fn put(to: &AtomicU32, value: u32) {
    to.store(value, Ordering::Relaxed);
}

fn add(to: &AtomicU32, change: i32) {
    put(to, get(to).saturating_add_signed(change));
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use super::*;

    const READ: For = For::Use(SyncState::Shared);
    const WRITE: For = For::Use(SyncState::Exclusive);

    fn with(then: impl FnOnce(&Line, &Links<'_>)) {
        let mut memory = Box::new_uninit_slice(Links::bytes(8));
        let links = Links::new(&mut Arena::new(&mut memory), 8).unwrap();
        then(&Line::new(), &links);
    }

    /// The calls in line, in order; all leave.
    fn order(line: &Line, links: &Links<'_>) -> Vec<(u32, Option<SyncState>)> {
        let mut order = Vec::new();
        while line.wakes().first != 0 {
            let name = line.wakes().first;
            order.push((name, line.first_wants(links)));
            line.leave(links, name, READ);
        }
        assert!(!line.is_waited_for() && get(&line.last) == 0);
        order
    }

    #[test]
    fn calls_are_served_in_the_order_of_their_arrival() {
        let (shared, exclusive) = (Some(SyncState::Shared), Some(SyncState::Exclusive));
        with(|line, links| {
            for (name, what) in [(3, READ), (1, WRITE), (8, READ), (2, READ)] {
                line.join(links, name, what);
            }
            assert!(line.is_first(3) && !line.is_first(1));
            let expected = [(3, shared), (1, exclusive), (8, shared), (2, shared)];
            assert_eq!(order(line, links), expected);
        });
    }

    #[test]
    fn a_call_that_gives_up_leaves_the_order_of_the_others() {
        for gone in [4, 5, 6] {
            with(|line, links| {
                for name in [4, 5, 6] {
                    line.join(links, name, WRITE);
                }
                line.leave(links, gone, WRITE);
                line.join(links, 7, WRITE);
                let names: Vec<u32> = order(line, links).iter().map(|(name, _)| *name).collect();
                let left: Vec<u32> = (4..=7).filter(|name| *name != gone).collect();
                assert_eq!(names, left);
            });
        }
    }

    #[test]
    fn calls_that_use_nothing_stand_aside() {
        with(|line, links| {
            line.join(links, 1, For::Change);
            line.join(links, 2, For::Upgrade);
            assert!(line.is_waited_for() && line.wakes().first == 0);
            assert!(line.wakes().aside && line.wakes().upgrader == 2);
            line.join(links, 3, WRITE);
            line.leave(links, 1, For::Change);
            line.leave(links, 2, For::Upgrade);
            assert!(!line.wakes().aside && line.wakes().upgrader == 0);
            assert_eq!(order(line, links).len(), 1);
        });
    }
}
