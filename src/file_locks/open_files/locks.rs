//! Open files and their locks together: a lock of an open file goes with its last holder.

use crate::Vmid;
use crate::file_locks::{LockTable, Owner};

impl LockTable<'_> {
    /// The member says that it has the open file: if that was [sent](LockTable::send_open_file) to it, it has
    /// arrived. False if there is no room to note that.
    pub fn accept_open_file(&mut self, vmid: Vmid, handle: u64) -> bool {
        self.open_files.accept(handle, vmid)
    }

    /// The member, which has the open file, starts a process that inherits it, and holds it from now on
    /// until it closes it or is gone. More than once is as good as once. False if there is no room to
    /// note that; then nothing was noted.
    pub fn inherit_open_file(&mut self, vmid: Vmid, child: Vmid, handle: u64) -> bool {
        self.open_files.transfer(handle, vmid, child, true)
    }

    /// The member, which has the open file, sends it to another, which holds it from now on: until it
    /// [has arrived](LockTable::accept_open_file) and is closed, or that member is gone. Each that is sent counts.
    /// False if there is no room to note that; then nothing was noted.
    pub fn send_open_file(&mut self, vmid: Vmid, to: Vmid, handle: u64) -> bool {
        self.open_files.transfer(handle, vmid, to, false)
    }

    /// The member could not send the open file, or the process that it started will not come. If the
    /// receiver has it already, this does nothing.
    pub fn retract_open_file(&mut self, vmid: Vmid, from: Vmid, handle: u64) {
        if self.open_files.retract(handle, vmid, from) {
            self.release_open_file(handle);
        }
        self.release_closed();
    }

    /// The member's process is there: what it has inherited stays with it when its parent goes.
    pub fn mark_joined(&mut self, vmid: Vmid) {
        self.open_files.mark_joined(vmid);
    }

    /// The member is going: what its children that have not come, and never will, have inherited is
    /// void.
    pub fn reclaim_abandoned(&mut self, vmid: Vmid, is_unjoined: impl Fn(Vmid) -> bool) {
        let mut at = 0;
        while let Some((handle, is_free)) =
            self.open_files.take_abandoned(vmid, &mut at, &is_unjoined)
        {
            if is_free {
                self.release_open_file(handle);
            }
        }
        self.release_closed();
    }

    /// The member has closed the open file: when it was the last that had it, its locks go. A
    /// request of the member that waits for a lock of it goes on, as a system call does in another
    /// thread; the lock that it gets goes at once, if nobody else has the open file then.
    pub fn close_open_file(&mut self, vmid: Vmid, handle: u64) {
        if self.open_files.close(handle, vmid) {
            self.release_open_file(handle);
        }
        self.release_closed();
    }

    pub(in crate::file_locks) fn release_open_file(&mut self, handle: u64) {
        for owner in [Owner::Open(handle), Owner::Flock(handle)] {
            self.release_owner(owner);
        }
    }

    /// Drops the open files that were closed while a request waited, if none does any more. Each may
    /// serve a request that waited for another.
    pub(in crate::file_locks) fn release_closed(&mut self) {
        while let Some((handle, is_free)) = self.open_files.take_closed() {
            if is_free {
                self.release_open_file(handle);
            }
        }
    }

    /// The member can be told what it was handed, with [`LockTable::next_notice`].
    pub fn allow_notices(&mut self, vmid: Vmid) {
        self.open_files.allow_notices(vmid);
    }

    /// The next open file that a member was handed and is to be told of: any member, or that one. It is
    /// said again until [`LockTable::mark_notice_sent`].
    pub fn next_notice(&self, to: Option<Vmid>) -> Option<(Vmid, u64)> {
        self.open_files.next_notice(to)
    }

    /// There was no room to tell the member: others are to be told first.
    pub fn defer_notice(&mut self, vmid: Vmid, handle: u64) {
        self.open_files.defer_notice(vmid, handle);
    }

    /// The member was told of the open file.
    pub fn mark_notice_sent(&mut self, vmid: Vmid, handle: u64) {
        self.open_files.mark_notice_sent(vmid, handle);
    }
}
