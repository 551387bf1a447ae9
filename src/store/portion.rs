//! Work in portions. A table behind a spinlock may have more entries to change than may be changed
//! while the lock is held: each portion changes a bounded number of them.

use crate::invariant::Count;

/// The most entries that one portion removes.
const ENTRIES: usize = 64;

/// The most slots that one portion visits to find the entries of a member.
const SLOTS: usize = 1024;

/// The work that a portion may still do.
pub(crate) struct Portion {
    entries: usize,
    slots: usize,
}

impl Portion {
    /// Makes a portion with the limits above.
    pub(crate) fn new() -> Portion {
        Portion {
            entries: ENTRIES,
            slots: SLOTS,
        }
    }

    /// Makes a portion without limits.
    pub(crate) fn whole() -> Portion {
        Portion {
            entries: usize::MAX,
            slots: usize::MAX,
        }
    }

    /// Counts an entry. Returns false if the portion may remove no more.
    pub(crate) fn take_entry(&mut self) -> bool {
        take_one(&mut self.entries)
    }

    /// Counts a visited slot. Returns false if the portion may visit no more.
    pub(crate) fn take_slot(&mut self) -> bool {
        take_one(&mut self.slots)
    }

    /// Counts the slots that the removal of an entry has visited.
    pub(crate) fn charge_slots(&mut self, slots: usize) {
        self.slots = self.slots.minus(slots.min(self.slots));
    }
}

/// Takes one from a count. Returns false if the count is 0.
fn take_one(left: &mut usize) -> bool {
    let is_any = *left > 0;
    if is_any {
        left.decrement();
    }
    is_any
}
