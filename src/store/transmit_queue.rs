//! The queue of the slots of a table that have something to transmit.

use core::hash::Hasher;

use super::{Arena, Digest, NONE, Table, bytes_for, entry, image, list_length};
use crate::invariant::Count;

/// The place of a slot in the queue.
#[derive(Clone, Copy)]
struct QueueLink {
    prev: u32,
    next: u32,
    is_queued: bool,
}

const UNLINKED: QueueLink = QueueLink {
    prev: NONE,
    next: NONE,
    is_queued: false,
};

/// The first and the last slot of a list.
#[derive(Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

const EMPTY: Ends = Ends {
    first: NONE,
    last: NONE,
};

entry!(QueueLink {
    prev,
    next,
    is_queued
});
entry!(Ends { first, last });

image!(TransmitQueue<'_> {
    fields { due, deferred, used }
    tables { links: *used as usize => UNLINKED }
    valid { *used as usize <= links.len() }
});

/// The slots of a table that have something to transmit, first come, first served. A slot whose receiver
/// has no room is *deferred*: it is passed over until there may be room again. Each slot is in the queue at
/// most once, so the queue never overflows. Every operation takes a constant number of steps.
pub(crate) struct TransmitQueue<'m> {
    links: Table<'m, QueueLink>,
    due: Ends,
    deferred: Ends,
    /// The highest slot that was ever queued, plus one.
    used: u32,
}

impl<'m> TransmitQueue<'m> {
    pub(crate) const fn bytes(capacity: usize) -> usize {
        bytes_for::<QueueLink>(capacity)
    }

    pub(crate) fn new(arena: &mut Arena<'m>, capacity: usize) -> Self {
        TransmitQueue {
            links: arena.alloc_filled(capacity, &UNLINKED),
            due: EMPTY,
            deferred: EMPTY,
            used: 0,
        }
    }

    /// Adds the slots in their order.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        for list in [self.due, self.deferred] {
            for slot in self.list(list.first) {
                digest.write_u32(slot);
            }
            digest.write_u32(NONE);
        }
    }

    fn link(&self, slot: u32) -> QueueLink {
        self.links.get(slot as usize).copied().unwrap_or(UNLINKED)
    }

    fn change(&mut self, slot: u32, change: impl FnOnce(&mut QueueLink)) {
        if let Some(link) = self.links.get_mut(slot as usize) {
            change(link);
        }
    }

    fn list(&self, first: u32) -> impl Iterator<Item = u32> {
        let in_use = |slot: &u32| *slot != NONE;
        core::iter::successors(Some(first).filter(in_use), move |slot| {
            Some(self.link(*slot).next).filter(in_use)
        })
    }

    /// Returns the slots that are due, in their order.
    pub(crate) fn due(&self) -> impl Iterator<Item = u32> {
        self.list(self.due.first)
    }

    /// Returns the slots that are deferred, in their order.
    pub(crate) fn deferred(&self) -> impl Iterator<Item = u32> {
        self.list(self.deferred.first)
    }

    /// Returns true if a slot is due.
    pub(crate) fn has_due(&self) -> bool {
        self.due.first != NONE
    }

    /// Returns true if the slot is due or deferred.
    pub(crate) fn contains(&self, slot: u32) -> bool {
        self.link(slot).is_queued
    }

    /// Puts the slot at the end of a list, of which it is no part.
    fn append(&mut self, ends: Ends, slot: u32) -> Ends {
        self.used = self.used.max(slot.plus(1));
        self.change(slot, |link| {
            *link = QueueLink {
                prev: ends.last,
                next: NONE,
                is_queued: true,
            };
        });
        self.change(ends.last, |last| last.next = slot);
        Ends {
            first: if ends.first == NONE { slot } else { ends.first },
            last: slot,
        }
    }

    /// Makes the slot due, behind the others, if it is neither due nor deferred.
    pub(crate) fn push(&mut self, slot: u32) {
        if !self.contains(slot) && (slot as usize) < self.links.len() {
            self.due = self.append(self.due, slot);
        }
    }

    /// Removes the slot.
    pub(crate) fn remove(&mut self, slot: u32) {
        let QueueLink {
            prev,
            next,
            is_queued,
        } = self.link(slot);
        if !is_queued {
            return;
        }
        self.change(prev, |prev| prev.next = next);
        self.change(next, |next| next.prev = prev);
        for ends in [&mut self.due, &mut self.deferred] {
            if ends.first == slot {
                ends.first = next;
            }
            if ends.last == slot {
                ends.last = prev;
            }
        }
        self.change(slot, |link| *link = UNLINKED);
    }

    /// Puts a slot that is due behind the others. A deferred slot becomes due.
    pub(crate) fn rotate(&mut self, slot: u32) {
        if self.contains(slot) {
            self.remove(slot);
            self.push(slot);
        }
    }

    /// Passes the slot over until [`TransmitQueue::resume`].
    pub(crate) fn defer(&mut self, slot: u32) {
        if self.contains(slot) {
            self.remove(slot);
            self.deferred = self.append(self.deferred, slot);
        }
    }

    /// Makes all deferred slots due, behind the others.
    pub(crate) fn resume(&mut self) {
        let deferred = core::mem::replace(&mut self.deferred, EMPTY);
        if deferred.first == NONE {
            return;
        }
        let last = self.due.last;
        self.change(deferred.first, |first| first.prev = last);
        self.change(last, |last| last.next = deferred.first);
        if self.due.first == NONE {
            self.due.first = deferred.first;
        }
        self.due.last = deferred.last;
    }

    /// Returns true if the two lists have all slots that are queued. The links of a loaded image may be wrong.
    pub(crate) fn is_valid(&self) -> bool {
        let queued = self.links.iter().filter(|link| link.is_queued).count();
        let is_list = |ends: Ends, most: usize| {
            let mut prev = NONE;
            let length = list_length(ends.first, most, |slot| {
                self.links.get(slot as usize).map(|link| link.next)
            })?;
            for slot in self.list(ends.first) {
                let link = self.link(slot);
                if link.prev != prev || !link.is_queued {
                    return None;
                }
                prev = slot;
            }
            (prev == ends.last).then_some(length)
        };
        let due = is_list(self.due, queued);
        let deferred = due.and_then(|due| is_list(self.deferred, queued.checked_sub(due)?));
        let both = due.zip(deferred);
        both.is_some_and(|(due, deferred)| due.checked_add(deferred) == Some(queued))
    }

    /// Returns true if the slots for which `has_output` is true, and no others, are in the two lists. It is slow, and
    /// meant for tests.
    pub(crate) fn check_invariants(&self, has_output: impl Fn(u32) -> bool) -> bool {
        let listed = self.due().chain(self.deferred()).count();
        let slots = (0..).zip(self.links.iter());
        let mut queued = 0_usize;
        for (slot, link) in slots {
            if link.is_queued != has_output(slot) {
                return false;
            }
            queued = queued.plus(usize::from(link.is_queued));
        }
        listed == queued
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::boxed::Box;
    use std::collections::VecDeque;

    use super::*;

    const SLOTS: u32 = 5;

    #[test]
    fn queue_keeps_the_order_that_two_lists_of_a_model_have() {
        let mut memory = Box::new_uninit_slice(TransmitQueue::bytes(SLOTS as usize));
        let mut queue = TransmitQueue::new(&mut Arena::new(&mut memory), SLOTS as usize);
        let (mut due, mut deferred) = (VecDeque::new(), VecDeque::new());
        let mut rng = fastrand::Rng::with_seed(1);
        for step in 0..20_000 {
            let slot = rng.u32(..=SLOTS);
            let is_queued = due.contains(&slot) || deferred.contains(&slot);
            let action = rng.u8(..5);
            if action > 0 && action < 4 && is_queued {
                due.retain(|other| *other != slot);
                deferred.retain(|other| *other != slot);
            }
            match action {
                0 => {
                    queue.push(slot);
                    if !is_queued && slot < SLOTS {
                        due.push_back(slot);
                    }
                }
                1 => queue.remove(slot),
                2 => {
                    queue.rotate(slot);
                    due.extend(is_queued.then_some(slot));
                }
                3 => {
                    queue.defer(slot);
                    deferred.extend(is_queued.then_some(slot));
                }
                _ => {
                    queue.resume();
                    due.append(&mut deferred);
                }
            }
            assert_eq!(queue.due().collect::<VecDeque<_>>(), due, "step {step}");
            assert_eq!(
                queue.deferred().collect::<VecDeque<_>>(),
                deferred,
                "{step}"
            );
            let is_queued = |slot| due.contains(&slot) || deferred.contains(&slot);
            assert!(queue.check_invariants(is_queued), "step {step}");
        }
    }
}
