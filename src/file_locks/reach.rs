//! The highest end of the locks in a subtree, by which a search skips the subtree.

use crate::store::{NONE, entry};

/// The highest ends of the locks in a subtree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Reach {
    /// The highest end.
    pub(super) end: u64,
    /// The highest end among the other holders.
    pub(super) second_end: u64,
    /// The holder with the highest end; [`NONE`] if there is no lock.
    pub(super) holder: u32,
    /// A holder with the second highest end; [`NONE`] if there is only one holder.
    pub(super) second_holder: u32,
}

entry!(Reach {
    end,
    second_end,
    holder,
    second_holder
});

impl Reach {
    pub(super) const EMPTY: Reach = Reach {
        end: 0,
        second_end: 0,
        holder: NONE,
        second_holder: NONE,
    };

    /// Returns the reach of one lock.
    pub(super) const fn of(end: u64, holder: u32) -> Reach {
        Reach {
            end,
            holder,
            ..Reach::EMPTY
        }
    }

    /// Adds an end of that holder.
    pub(super) fn extend(mut self, end: u64, holder: u32) -> Reach {
        if holder == NONE {
            return self;
        }
        if holder == self.holder {
            self.end = self.end.max(end);
        } else if self.holder == NONE || end > self.end {
            (self.second_end, self.second_holder) = (self.end, self.holder);
            (self.end, self.holder) = (end, holder);
        } else if self.second_holder == NONE || end > self.second_end {
            (self.second_end, self.second_holder) = (end, holder);
        }
        self
    }

    /// Returns true if a lock of another holder than `mine` may reach that byte.
    pub(super) fn extends_to(&self, byte: u64, mine: u32) -> bool {
        let (end, holder) = if self.holder == mine {
            (self.second_end, self.second_holder)
        } else {
            (self.end, self.holder)
        };
        holder != NONE && end >= byte
    }
}
