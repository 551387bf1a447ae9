//! Notices that tell receivers of the open files that were transferred to them.

use super::{NoticeState, OpenFileTable, Reference};
use crate::Vmid;
use crate::parts;

impl OpenFileTable<'_> {
    /// Allows the notice of the open file for the member.
    pub(super) fn allow_notice(&mut self, open_file: u64, vmid: Vmid) {
        self.change_notices(
            open_file,
            vmid,
            &[NoticeState::Withheld],
            NoticeState::Pending,
        );
    }

    /// Sets the notices of the member's references to the open file that are one of `from`.
    fn change_notices(
        &mut self,
        open_file: u64,
        vmid: Vmid,
        from: &[NoticeState],
        to: NoticeState,
    ) {
        if !parts::GIVEN_FILES {
            return;
        }
        let mut found = self.find_from(open_file, vmid, 0);
        while let Some(slot) = found {
            let Reference { state, notice, .. } = *self.at(slot);
            if from.contains(&notice) {
                self.set(slot, state, to);
            }
            found = self.next_of(slot, vmid);
        }
    }

    fn notice_at(&self, slot: u32) -> Option<(Vmid, u64)> {
        let reference = self.references.get(slot as usize)?;
        Some((reference.vmid?, reference.open_file))
    }

    /// Returns the next notice to send: the receiver and the open file.
    pub(super) fn next_notice(&self) -> Option<(Vmid, u64)> {
        if !self.has_notices() {
            return None;
        }
        self.outbox.due().find_map(|slot| self.notice_at(slot))
    }

    /// Returns the next notice for that member.
    pub(super) fn next_notice_for(&self, to: Vmid) -> Option<(Vmid, u64)> {
        if !parts::GIVEN_FILES {
            return None;
        }
        let mut pending = self.outbox.due().chain(self.outbox.deferred());
        pending.find_map(|slot| self.notice_at(slot).filter(|(vmid, _)| *vmid == to))
    }

    /// Passes the notice over until [`OpenFileTable::resume_notices`], because there was no room to send
    /// it.
    pub(super) fn defer_notice(&mut self, vmid: Vmid, open_file: u64) {
        if parts::GIVEN_FILES
            && let Some(slot) = self.find_with_notice(open_file, vmid, &[NoticeState::Pending])
        {
            self.outbox.defer(slot);
        }
    }

    pub(in crate::file_locks) fn has_notices(&self) -> bool {
        parts::GIVEN_FILES && self.outbox.has_due()
    }

    pub(in crate::file_locks) fn resume_notices(&mut self) {
        if parts::GIVEN_FILES {
            self.outbox.resume();
        }
    }

    /// Records that the notice was sent.
    pub(super) fn mark_notice_sent(&mut self, vmid: Vmid, open_file: u64) {
        self.change_notices(open_file, vmid, &[NoticeState::Pending], NoticeState::Sent);
    }

    /// Records that the member knows that it holds the open file. It needs no other notice of it.
    pub(super) fn confirm_notice(&mut self, vmid: Vmid, handle: u64) {
        self.change_notices(handle, vmid, &UNCONFIRMED, NoticeState::Confirmed);
    }

    /// Returns true if the member is still to confirm a notice of the open file.
    pub(super) fn is_notice_unconfirmed(&self, vmid: Vmid, handle: u64) -> bool {
        self.find_unconfirmed(vmid, handle).is_some()
    }

    fn find_unconfirmed(&self, vmid: Vmid, handle: u64) -> Option<u32> {
        self.find_with_notice(handle, vmid, &UNCONFIRMED)
    }
}

/// The notices that the member is still to confirm.
const UNCONFIRMED: [NoticeState; 2] = [NoticeState::Pending, NoticeState::Sent];
