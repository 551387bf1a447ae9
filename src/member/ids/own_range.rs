//! A range of IDs that this process owns.

use crate::Id;
use crate::invariant::{Count, OrBroken};
use crate::wire::IdRange;

/// One range of this process. Bit 0 is its first ID.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OwnRange {
    pub(super) start: Id,
    pub(super) end: Id,
    pub(super) in_use: u32,
    /// IDs in transfer: the leader has not answered yet.
    pub(super) in_transfer: u32,
}

impl OwnRange {
    pub(super) fn bit(&self, id: Id) -> u32 {
        1_u32.checked_shl(id.wrapping_sub(self.start)).or_broken(0)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_use == 0 && self.in_transfer == 0
    }

    /// Returns the first ID that is neither in use nor in transfer.
    pub(super) fn first_free(&self) -> Option<Id> {
        let taken = self.in_use | self.in_transfer;
        let id = self.start.plus(taken.trailing_ones());
        (id <= self.end).then_some(id)
    }

    pub(super) fn range(&self) -> IdRange {
        IdRange {
            start: self.start,
            end: self.end,
        }
    }

    /// Returns the part from `start` to `end`; `None` if it is empty.
    pub(super) fn part(&self, start: Id, end: Id) -> Option<OwnRange> {
        let length = end.checked_sub(start)?.checked_add(1)?;
        // The part is in the range, which has at most 32 IDs: no shift is too long.
        let from = start.wrapping_sub(self.start);
        let mask = u32::MAX.wrapping_shr(u32::BITS.wrapping_sub(length));
        let extract = |bits: u32| bits.wrapping_shr(from) & mask;
        Some(OwnRange {
            start,
            end,
            in_use: extract(self.in_use),
            in_transfer: extract(self.in_transfer),
        })
    }
}
