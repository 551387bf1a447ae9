//! The locks of open files: a lock of an open file is released with the last holder of the open
//! file.

use crate::Vmid;
use crate::file_locks::{LockTable, Owner};
use crate::store::Portion;

impl LockTable<'_> {
    /// Records that the member has the open file. If the open file was
    /// [sent](LockTable::send_open_file) to the member, it has arrived. Returns false if the table
    /// is full.
    pub fn accept_open_file(&mut self, vmid: Vmid, open_file: u64) -> bool {
        self.open_files.accept(open_file, vmid)
    }

    /// Records that a process which the member starts inherits the open file, and holds it until it
    /// closes it or is gone. Repeated calls change nothing. Returns false, and changes nothing, if
    /// the table is full.
    pub fn inherit_open_file(&mut self, vmid: Vmid, child: Vmid, open_file: u64) -> bool {
        self.open_files.transfer(open_file, vmid, child, true)
    }

    /// Records that the member sends the open file to another member, which holds it until the open
    /// file [has arrived](LockTable::accept_open_file) and is closed, or the receiver is gone. Each
    /// transfer counts. Returns false, and changes nothing, if the table is full, or the open file is in
    /// transit to the other member 256 times.
    pub fn send_open_file(&mut self, vmid: Vmid, to: Vmid, open_file: u64) -> bool {
        self.open_files.transfer(open_file, vmid, to, false)
    }

    /// Withdraws a transfer: the member could not send the open file, or the process that it
    /// started will never join. It changes nothing if the receiver has the open file already.
    pub fn retract_open_file(&mut self, vmid: Vmid, from: Vmid, open_file: u64) {
        self.search.begin();
        self.open_files.retract(open_file, vmid, from);
        self.release_closed();
    }

    /// Records that the member's process has joined: it keeps the open file when its parent is gone.
    pub(crate) fn mark_open_file_joined(&mut self, vmid: Vmid, open_file: u64) {
        self.open_files.mark_open_file_joined(open_file, vmid);
    }

    /// Allows the notice of an open file for the member, which knows the extensions.
    pub(crate) fn allow_notice(&mut self, vmid: Vmid, open_file: u64) {
        self.open_files.allow_notice(open_file, vmid);
    }

    /// Records of a portion of the open files that the member's process has joined: it keeps what it has
    /// inherited when its parent is gone. If `allows_notices`, allows notices for the member, which
    /// [`LockTable::next_notice`] returns from now on. The caller begins with `u64::MAX`, and goes on with
    /// what is returned until that is 0.
    pub fn confirm_portion(&mut self, vmid: Vmid, left: u64, allows_notices: bool) -> u64 {
        self.open_files.confirm_portion(vmid, left, allows_notices)
    }

    /// Releases a portion of the locks of the open file. Returns whether that was all.
    pub(in crate::file_locks) fn release_open_file(
        &mut self,
        open_file: u64,
        portion: &mut Portion,
    ) -> bool {
        self.release_owner(Owner::Open(open_file), portion)
            && self.release_owner(Owner::Flock(open_file), portion)
    }

    /// Releases a portion of the locks of the open files that were closed while a request waited,
    /// once no request waits any more. Each release may serve a request that waited for another open
    /// file. The rest follows with the next operations.
    #[inline]
    pub(in crate::file_locks) fn release_closed(&mut self) {
        if self.open_files.has_closed() {
            self.release_some_closed();
        }
    }

    fn release_some_closed(&mut self) {
        let mut portion = Portion::new();
        while portion.take_slot()
            && let Some((slot, open_file)) = self.open_files.take_closed()
        {
            let is_last = self.open_files.is_last(slot);
            if is_last && !self.release_open_file(open_file, &mut portion) {
                self.open_files.list_closed(slot);
                return;
            }
            self.open_files.remove(slot);
        }
    }

    /// Returns true if locks of an open file that is closed are still to be released, or requests to be
    /// resumed that were deferred until the return of a delegation, or requests to be tried whose blocker
    /// was removed.
    pub fn has_releases(&self) -> bool {
        self.open_files.has_closed() || self.has_resuming() || self.is_serving
    }

    /// Releases a portion of these locks, or resumes or tries a portion of these requests.
    pub fn release_portion(&mut self) {
        self.search.begin();
        if self.is_serving {
            self.serve_portion();
        } else if self.open_files.has_closed() {
            self.release_closed();
        } else {
            self.resume_next();
        }
    }

    /// Returns the next notice to send: the member, and the open file that it was given. A notice
    /// stays until [`LockTable::mark_notice_sent`].
    pub fn next_notice(&self) -> Option<(Vmid, u64)> {
        self.open_files.next_notice()
    }

    /// Returns the next notice to send to that member, deferred or not.
    pub fn next_notice_for(&self, to: Vmid) -> Option<(Vmid, u64)> {
        self.open_files.next_notice_for(to)
    }

    /// Passes a notice over until [`LockTable::resume_output`], because it could not be sent for lack of
    /// room.
    pub fn defer_notice(&mut self, vmid: Vmid, open_file: u64) {
        self.open_files.defer_notice(vmid, open_file);
    }

    /// Records that the member was sent the notice of the open file.
    pub fn mark_notice_sent(&mut self, vmid: Vmid, open_file: u64) {
        self.open_files.mark_notice_sent(vmid, open_file);
    }

    /// Records that the member has confirmed the notice of the open file.
    pub fn confirm_notice(&mut self, vmid: Vmid, handle: u64) {
        self.open_files.confirm_notice(vmid, handle);
    }

    /// Returns true if the member was given the open file, and has not confirmed the notice of that
    /// yet.
    pub fn is_notice_unconfirmed(&self, vmid: Vmid, handle: u64) -> bool {
        self.open_files.is_notice_unconfirmed(vmid, handle)
    }
}
