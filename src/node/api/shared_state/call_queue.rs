//! The queue of the calls of this process that wait for one sync handle.
//!
//! Calls that want to use the handle are queued in the order of their arrival, and only the first
//! may acquire it; a reader that has acquired it wakes the next call. A reader that waits to become
//! the writer holds the handle already, so it precedes the queue. Calls that wait for a change of
//! the value or for a close do not use the handle: they are observers, which are only counted.

use crate::invariant::OrBroken;
use crate::store::{Arena, Table, bytes_for};
use crate::sync::{AtomicU32, Ordering};
use crate::wire::SyncState;

/// The event that a call waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum WaitKind {
    /// To use the handle in that state.
    Use(SyncState),
    /// To become the writer, as the only reader.
    Upgrade,
    /// A change of the value.
    Change,
    /// The server's confirmation of a close.
    Close,
}

/// A waiting call: the names of its neighbours in the queue, and the access it wants.
struct WaitLink {
    prev: AtomicU32,
    next: AtomicU32,
    wants: AtomicU32,
}

const READS: u32 = 0;
const WRITES: u32 = 1;
const OBSERVES: u32 = 2;

/// The links of all waiting calls of a node. A call waits for one handle at a time, so it needs one
/// link.
pub(super) struct WaitLinks<'m>(Table<'m, WaitLink>);

impl<'m> WaitLinks<'m> {
    pub(super) const fn bytes(waiters: usize) -> usize {
        bytes_for::<WaitLink>(waiters)
    }

    pub(super) fn new(arena: &mut Arena<'m>, waiters: usize) -> Self {
        let link = |_| WaitLink {
            prev: AtomicU32::new(0),
            next: AtomicU32::new(0),
            wants: AtomicU32::new(READS),
        };
        WaitLinks(arena.alloc_table(waiters, link))
    }

    /// Returns true if the call of that name is an observer; the answer for a call that has ended
    /// may be either.
    pub(super) fn is_observer(&self, name: u32) -> bool {
        self.of(name)
            .is_some_and(|link| get(&link.wants) == OBSERVES)
    }

    fn of(&self, name: u32) -> Option<&WaitLink> {
        self.0.get(name.checked_sub(1)? as usize)
    }
}

/// The waiting calls of one handle. The lock of the handle's client guards all fields. A call is
/// known by the name of its waiter; 0 means none.
pub(super) struct CallQueue {
    first: AtomicU32,
    last: AtomicU32,
    upgrader: AtomicU32,
    /// The number of observers.
    observers: AtomicU32,
    /// The number of all waiting calls.
    all: AtomicU32,
}

/// The calls to wake.
#[derive(Clone, Copy, Default)]
pub(super) struct WakeSet {
    pub(super) first: u32,
    pub(super) upgrader: u32,
    pub(super) observers: bool,
}

impl CallQueue {
    pub(super) fn new() -> CallQueue {
        CallQueue {
            first: AtomicU32::new(0),
            last: AtomicU32::new(0),
            upgrader: AtomicU32::new(0),
            observers: AtomicU32::new(0),
            all: AtomicU32::new(0),
        }
    }

    pub(super) fn enqueue(&self, links: &WaitLinks<'_>, name: u32, kind: WaitKind) {
        add(&self.all, 1);
        let Some(link) = links.of(name) else { return };
        let wants = match kind {
            WaitKind::Use(SyncState::Exclusive) | WaitKind::Upgrade => WRITES,
            WaitKind::Use(_) => READS,
            WaitKind::Change | WaitKind::Close => OBSERVES,
        };
        put(&link.wants, wants);
        match kind {
            WaitKind::Use(_) => {
                let last = get(&self.last);
                put(&link.prev, last);
                put(&link.next, 0);
                put(links.of(last).map_or(&self.first, |link| &link.next), name);
                put(&self.last, name);
            }
            WaitKind::Upgrade => put(&self.upgrader, name),
            WaitKind::Change | WaitKind::Close => add(&self.observers, 1),
        }
    }

    pub(super) fn dequeue(&self, links: &WaitLinks<'_>, name: u32, kind: WaitKind) {
        add(&self.all, -1);
        match kind {
            WaitKind::Use(_) => {
                let Some(link) = links.of(name) else { return };
                let (prev, next) = (get(&link.prev), get(&link.next));
                put(links.of(prev).map_or(&self.first, |link| &link.next), next);
                put(links.of(next).map_or(&self.last, |link| &link.prev), prev);
            }
            WaitKind::Upgrade => put(&self.upgrader, 0),
            WaitKind::Change | WaitKind::Close => add(&self.observers, -1),
        }
    }

    pub(super) fn is_first(&self, name: u32) -> bool {
        get(&self.first) == name
    }

    /// Returns the access that the first call in the queue wants.
    pub(super) fn head_request(&self, links: &WaitLinks<'_>) -> Option<SyncState> {
        let link = links.of(get(&self.first))?;
        Some(if get(&link.wants) == WRITES {
            SyncState::Exclusive
        } else {
            SyncState::Shared
        })
    }

    /// Returns true if any call waits.
    #[inline]
    pub(super) fn has_waiters(&self) -> bool {
        get(&self.all) != 0
    }

    /// Returns the calls that may proceed.
    pub(super) fn wakes(&self) -> WakeSet {
        WakeSet {
            first: get(&self.first),
            upgrader: get(&self.upgrader),
            observers: get(&self.observers) != 0,
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
    put(to, get(to).checked_add_signed(change).or_broken(get(to)));
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use super::*;

    const READ: WaitKind = WaitKind::Use(SyncState::Shared);
    const WRITE: WaitKind = WaitKind::Use(SyncState::Exclusive);

    fn with(then: impl FnOnce(&CallQueue, &WaitLinks<'_>)) {
        let mut memory = Box::new_uninit_slice(WaitLinks::bytes(8));
        let links = WaitLinks::new(&mut Arena::new(&mut memory), 8);
        then(&CallQueue::new(), &links);
    }

    /// Removes all calls from the queue and returns them in order.
    fn order(call_queue: &CallQueue, links: &WaitLinks<'_>) -> Vec<(u32, Option<SyncState>)> {
        let mut order = Vec::new();
        while call_queue.wakes().first != 0 {
            let name = call_queue.wakes().first;
            order.push((name, call_queue.head_request(links)));
            call_queue.dequeue(links, name, READ);
        }
        assert!(!call_queue.has_waiters() && get(&call_queue.last) == 0);
        order
    }

    #[test]
    fn queued_calls_keep_the_order_of_their_arrival() {
        let (shared, exclusive) = (Some(SyncState::Shared), Some(SyncState::Exclusive));
        with(|call_queue, links| {
            for (name, kind) in [(3, READ), (1, WRITE), (8, READ), (2, READ)] {
                call_queue.enqueue(links, name, kind);
            }
            assert!(call_queue.is_first(3) && !call_queue.is_first(1));
            let expected = [(3, shared), (1, exclusive), (8, shared), (2, shared)];
            assert_eq!(order(call_queue, links), expected);
        });
    }

    #[test]
    fn dequeued_call_keeps_the_order_of_the_others() {
        for gone in [4, 5, 6] {
            with(|call_queue, links| {
                for name in [4, 5, 6] {
                    call_queue.enqueue(links, name, WRITE);
                }
                call_queue.dequeue(links, gone, WRITE);
                call_queue.enqueue(links, 7, WRITE);
                let names: Vec<u32> = order(call_queue, links)
                    .iter()
                    .map(|(name, _)| *name)
                    .collect();
                let left: Vec<u32> = (4..=7).filter(|name| *name != gone).collect();
                assert_eq!(names, left);
            });
        }
    }

    #[test]
    fn calls_that_do_not_use_the_handle_are_observers() {
        with(|call_queue, links| {
            call_queue.enqueue(links, 1, WaitKind::Change);
            call_queue.enqueue(links, 2, WaitKind::Upgrade);
            assert!(call_queue.has_waiters() && call_queue.wakes().first == 0);
            assert!(call_queue.wakes().observers && call_queue.wakes().upgrader == 2);
            call_queue.enqueue(links, 3, WRITE);
            call_queue.dequeue(links, 1, WaitKind::Change);
            call_queue.dequeue(links, 2, WaitKind::Upgrade);
            assert!(!call_queue.wakes().observers && call_queue.wakes().upgrader == 0);
            assert_eq!(order(call_queue, links).len(), 1);
        });
    }
}
