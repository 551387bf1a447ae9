//! Notices that tell receivers of the open files that were transferred to them.

use super::{Notice, OpenFileTable, Reference};
use crate::Vmid;
use crate::store::NONE;

impl OpenFileTable<'_> {
    /// Adds the reference at the end of the list of pending notices.
    pub(super) fn link_notice(&mut self, slot: u32) {
        let last = self.last_pending;
        self.with_share(slot, |reference| {
            (reference.prev, reference.next) = (last, NONE);
        });
        self.with_share(last, |last| last.next = slot);
        if last == NONE {
            self.first_pending = slot;
        }
        self.last_pending = slot;
    }

    pub(super) fn unlink_notice(&mut self, slot: u32) {
        let Reference { prev, next, .. } = *self.at(slot);
        self.with_share(prev, |prev| prev.next = next);
        self.with_share(next, |next| next.prev = prev);
        if prev == NONE {
            self.first_pending = next;
        }
        if next == NONE {
            self.last_pending = prev;
        }
        self.with_share(slot, |reference| {
            (reference.prev, reference.next) = (NONE, NONE);
        });
    }

    /// Allows notices for the member from now on.
    pub(super) fn allow_notices(&mut self, vmid: Vmid) {
        if self.withheld == 0 {
            return;
        }
        self.change_all(|reference| {
            if reference.vmid == Some(vmid) && reference.notice == Notice::Withheld {
                reference.notice = Notice::Pending;
            }
        });
    }

    pub(super) fn pending(&self) -> impl Iterator<Item = &Reference> {
        let at = |slot: u32| self.references.get(slot as usize);
        core::iter::successors(at(self.first_pending), move |reference| at(reference.next))
    }

    /// The next pending notice: the receiver and the open file. With `to`, only notices for that
    /// member.
    pub(super) fn next_notice(&self, to: Option<Vmid>) -> Option<(Vmid, u64)> {
        let mut pending = self.pending();
        let reference = pending.find(|reference| to.is_none() || reference.vmid == to)?;
        Some((reference.vmid?, reference.open_file))
    }

    /// Moves the notice to the end of the list, because there was no room to send it.
    pub(super) fn defer_notice(&mut self, vmid: Vmid, open_file: u64) {
        let is_pending = |reference: &Reference| reference.notice == Notice::Pending;
        if let Some(slot) = self.find_matching(open_file, vmid, is_pending) {
            self.unlink_notice(slot);
            self.link_notice(slot);
        }
    }

    /// Records that the notice was sent.
    pub(super) fn mark_notice_sent(&mut self, vmid: Vmid, open_file: u64) {
        let is_pending = |reference: &Reference| reference.notice == Notice::Pending;
        while let Some(slot) = self.find_matching(open_file, vmid, is_pending) {
            self.change(slot, |reference| reference.notice = Notice::Sent);
        }
    }

    /// Records that the member knows that it holds the open file. It needs no other notice of it.
    pub(super) fn confirm_notice(&mut self, vmid: Vmid, handle: u64) {
        while let Some(slot) = self.find_unconfirmed(vmid, handle) {
            self.change(slot, |reference| reference.notice = Notice::Confirmed);
        }
    }

    /// Whether the member is still to confirm a notice of the open file.
    pub(super) fn is_notice_unconfirmed(&self, vmid: Vmid, handle: u64) -> bool {
        self.find_unconfirmed(vmid, handle).is_some()
    }

    fn find_unconfirmed(&self, vmid: Vmid, handle: u64) -> Option<u32> {
        self.find_matching(handle, vmid, |reference| {
            matches!(reference.notice, Notice::Pending | Notice::Sent)
        })
    }
}
