//! The members that were gone before they had returned a file that was recalled. Such a member gets
//! no delegation when it comes back under the same VMID: the next one that wants the file would wait
//! as long again.

use crate::Vmid;
use crate::store::{Arena, Digest, Table, bytes_for, close_gap, image};

/// How many such members the table remembers: the last ones.
const MEMBERS: usize = 32;

/// The last members that did not return a recalled file.
pub(super) struct OverdueMembers<'m> {
    /// The one that was added first stands first.
    members: Table<'m, Option<Vmid>>,
}

image!(OverdueMembers<'_> {
    tables { members: members.len() => None }
});

impl<'m> OverdueMembers<'m> {
    /// Returns the length of the table, for a lock table with room for that many files.
    const fn length(files: usize) -> usize {
        if files == 0 { 0 } else { MEMBERS }
    }

    pub(super) const fn bytes(files: usize) -> usize {
        bytes_for::<Option<Vmid>>(Self::length(files))
    }

    pub(super) fn new(arena: &mut Arena<'m>, files: usize) -> Self {
        OverdueMembers {
            members: arena.alloc_filled(Self::length(files), &None),
        }
    }

    pub(super) fn digest(&self, digest: &mut Digest) {
        digest.add_all(self.members.iter());
    }

    pub(super) fn contains(&self, vmid: Vmid) -> bool {
        self.members.contains(&Some(vmid))
    }

    pub(super) fn add(&mut self, vmid: Vmid) {
        if self.contains(vmid) {
            return;
        }
        close_gap(&mut self.members);
        if let Some(last) = self.members.last_mut() {
            *last = Some(vmid);
        }
    }
}
