//! Which files several members used lately: such a file is not lent before one has used it alone
//! for long.

use crate::Vmid;
use crate::error::Error;
use crate::store::{Arena, Table, bytes_for};

/// How many locks in a row a single member has to ask for, where others were in its way lately,
/// before the file is lent to it.
const PEACE: u32 = 32;

/// Files that several members used lately. Two whose names' hashes meet here forget each other.
// The model checker has little room on its stacks.
const QUARRELS: usize = if cfg!(loom) { 1 } else { 64 };

/// A file that several members use.
#[derive(Clone, Copy)]
struct Quarrel {
    hash: u64,
    last: Option<Vmid>,
    streak: u32,
}

const NO_QUARREL: Quarrel = Quarrel {
    hash: 0,
    last: None,
    streak: 0,
};

/// The files that several members used lately.
pub(in crate::file_locks) struct Contention<'m>(Table<'m, Quarrel>);

impl<'m> Contention<'m> {
    /// The length of the table, for a lock table with room for that many files.
    const fn length(files: usize) -> usize {
        if files == 0 { 0 } else { QUARRELS }
    }

    pub(super) const fn bytes(files: usize) -> usize {
        bytes_for::<Quarrel>(Self::length(files))
    }

    pub(super) fn new(arena: &mut Arena<'m>, files: usize) -> Result<Self, Error> {
        let quarrels = arena.alloc_table(Self::length(files), |_| Ok(NO_QUARREL))?;
        Ok(Contention(quarrels))
    }

    fn quarrel(&mut self, hash: u64) -> Option<&mut Quarrel> {
        let place = hash.checked_rem(QUARRELS as u64)?;
        self.0.get_mut(usize::try_from(place).ok()?)
    }

    /// Somebody else uses the file, too; or the borrower can't go on alone.
    pub(super) fn start_quarrel(&mut self, hash: u64, by: Vmid) {
        if let Some(quarrel) = self.quarrel(hash) {
            *quarrel = Quarrel {
                hash,
                last: Some(by),
                streak: 0,
            };
        }
    }

    /// A member uses the file. True if there was peace long enough to lend it.
    pub(in crate::file_locks) fn note_use(&mut self, hash: u64, by: Vmid) -> bool {
        let Some(quarrel) = self.quarrel(hash) else {
            return false;
        };
        if quarrel.last.is_none() || quarrel.hash != hash {
            return true;
        }
        quarrel.streak = if quarrel.last == Some(by) {
            quarrel.streak.saturating_add(1)
        } else {
            0
        };
        quarrel.last = Some(by);
        quarrel.streak >= PEACE
    }
}
