//! Work in portions. A table behind a spinlock may have more entries to change than may be changed
//! while the lock is held: each portion changes a bounded number of them.

use crate::invariant::Count;

/// How many entries one portion ends at most.
const ENTRIES: usize = 64;

/// How many slots one portion looks at to find those of a member.
const SLOTS: usize = 1024;

/// The work that a portion may still do.
pub(crate) struct Portion {
    entries: usize,
    slots: usize,
}

impl Portion {
    pub(crate) fn new() -> Portion {
        Portion {
            entries: ENTRIES,
            slots: SLOTS,
        }
    }

    /// Without limit.
    pub(crate) fn whole() -> Portion {
        Portion {
            entries: usize::MAX,
            slots: usize::MAX,
        }
    }

    /// Returns true if another entry may be ended.
    pub(crate) fn take_entry(&mut self) -> bool {
        take_one(&mut self.entries)
    }

    pub(crate) fn take_slot(&mut self) -> bool {
        take_one(&mut self.slots)
    }

    /// Records that the end of an entry has visited this many slots.
    pub(crate) fn charge_slots(&mut self, slots: usize) {
        self.slots = self.slots.minus(slots.min(self.slots));
    }
}

/// Takes one of what is left. Returns false if there is none.
fn take_one(left: &mut usize) -> bool {
    let is_any = *left > 0;
    if is_any {
        left.decrement();
    }
    is_any
}
