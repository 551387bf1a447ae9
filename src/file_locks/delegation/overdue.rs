//! The members that were gone before they had returned a file that was recalled. Such a member gets
//! no delegation when it comes back under the same VMID: the next one that wants the file would wait
//! as long again.

use core::hash::Hash;

use crate::Vmid;
use crate::store::Digest;

/// How many such members the table remembers: the last ones.
const MEMBERS: usize = 32;

/// The last members that did not return a recalled file.
pub(super) struct OverdueMembers {
    members: [Option<Vmid>; MEMBERS],
    next: usize,
}

impl OverdueMembers {
    pub(super) const NONE: OverdueMembers = OverdueMembers {
        members: [None; MEMBERS],
        next: 0,
    };

    pub(super) fn digest(&self, digest: &mut Digest) {
        (self.members, self.next).hash(digest);
    }

    pub(super) fn contains(&self, vmid: Vmid) -> bool {
        self.members.contains(&Some(vmid))
    }

    pub(super) fn add(&mut self, vmid: Vmid) {
        if self.contains(vmid) {
            return;
        }
        if let Some(oldest) = self.members.get_mut(self.next) {
            *oldest = Some(vmid);
        }
        self.next = self.next.wrapping_add(1) % MEMBERS;
    }
}
