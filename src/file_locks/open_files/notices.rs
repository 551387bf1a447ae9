//! Notices that tell receivers of the open files that were transferred to them.

use super::{Notice, OpenFileTable, Reference};
use crate::Vmid;
use crate::store::NONE;

impl OpenFileTable<'_> {
    /// Adds the reference at the end of the list of pending notices.
    pub(super) fn link_notice(&mut self, place: u32) {
        let last = self.last_pending;
        self.with_share(place, |reference| {
            (reference.prev, reference.next) = (last, NONE);
        });
        self.with_share(last, |last| last.next = place);
        if last == NONE {
            self.first_pending = place;
        }
        self.last_pending = place;
    }

    pub(super) fn unlink_notice(&mut self, place: u32) {
        let Reference { prev, next, .. } = *self.at(place);
        self.with_share(prev, |prev| prev.next = next);
        self.with_share(next, |next| next.prev = prev);
        if prev == NONE {
            self.first_pending = next;
        }
        if next == NONE {
            self.last_pending = prev;
        }
        self.with_share(place, |reference| {
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
        let at = |place: u32| self.references.get(place as usize);
        core::iter::successors(at(self.first_pending), move |reference| at(reference.next))
    }

    /// The next pending notice: the receiver and the open file. With `to`, only notices for that
    /// member.
    pub(super) fn next_notice(&self, to: Option<Vmid>) -> Option<(Vmid, u64)> {
        let mut pending = self.pending();
        let reference = pending.find(|reference| to.is_none() || reference.vmid == to)?;
        Some((reference.vmid?, reference.handle))
    }

    /// Moves the notice to the end of the list, because there was no room to send it.
    pub(super) fn defer_notice(&mut self, vmid: Vmid, handle: u64) {
        let is_pending = |reference: &Reference| {
            reference.vmid == Some(vmid) && reference.notice == Notice::Pending
        };
        if let Some(place) = self.find(handle, is_pending) {
            self.unlink_notice(place);
            self.link_notice(place);
        }
    }

    /// Records that the notice was sent.
    pub(super) fn mark_notice_sent(&mut self, vmid: Vmid, handle: u64) {
        let is_pending = |reference: &Reference| {
            reference.vmid == Some(vmid) && reference.notice == Notice::Pending
        };
        while let Some(place) = self.find(handle, is_pending) {
            self.change(place, |reference| reference.notice = Notice::Sent);
        }
    }
}
