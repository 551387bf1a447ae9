//! Open files and their locks together: a lock of an open file goes with its last holder.

use crate::Vmid;
use crate::file_locks::{Locks, Owner};

impl Locks<'_> {
    /// The member says that it has the open file: if that was [sent](Locks::send_handle) to it, it has
    /// arrived. False if there is no room to note that.
    pub fn hold_handle(&mut self, vmid: Vmid, handle: u64) -> bool {
        self.handles.accept(handle, vmid)
    }

    /// The member, which has the open file, starts a process that inherits it, and holds it from now on
    /// until it closes it or is gone. More than once is as good as once. False if there is no room to
    /// note that; then nothing was noted.
    pub fn hold_handle_for(&mut self, vmid: Vmid, child: Vmid, handle: u64) -> bool {
        self.handles.give(handle, vmid, child, true)
    }

    /// The member, which has the open file, sends it to another, which holds it from now on: until it
    /// [has arrived](Locks::hold_handle) and is closed, or that member is gone. Each that is sent counts.
    /// False if there is no room to note that; then nothing was noted.
    pub fn send_handle(&mut self, vmid: Vmid, to: Vmid, handle: u64) -> bool {
        self.handles.give(handle, vmid, to, false)
    }

    /// The member could not send the open file, or the process that it started will not come. If the
    /// receiver has it already, this does nothing.
    pub fn take_back_handle(&mut self, vmid: Vmid, from: Vmid, handle: u64) {
        if self.handles.take_back(handle, vmid, from) {
            self.drop_handle(handle);
        }
        self.drop_closed();
    }

    /// The member's process is there: what it has inherited stays with it when its parent goes.
    pub fn has_come(&mut self, vmid: Vmid) {
        self.handles.come(vmid);
    }

    /// The member is going: what its children that have not come, and never will, have inherited is
    /// void.
    pub fn forget_unborn(&mut self, vmid: Vmid, is_unborn: impl Fn(Vmid) -> bool) {
        let mut at = 0;
        while let Some((handle, is_free)) = self.handles.take_unborn(vmid, &mut at, &is_unborn) {
            if is_free {
                self.drop_handle(handle);
            }
        }
        self.drop_closed();
    }

    /// The member has closed the open file: when it was the last that had it, its locks go. A
    /// request of the member that waits for a lock of it goes on, as a system call does in another
    /// thread; the lock that it gets goes at once, if nobody else has the open file then.
    pub fn close_handle(&mut self, vmid: Vmid, handle: u64) {
        if self.handles.close(handle, vmid) {
            self.drop_handle(handle);
        }
        self.drop_closed();
    }

    pub(in crate::file_locks) fn drop_handle(&mut self, handle: u64) {
        for owner in [Owner::Open(handle), Owner::Flock(handle)] {
            self.drop_all(owner);
        }
    }

    /// Drops the open files that were closed while a request waited, if none does any more. Each may
    /// serve a request that waited for another.
    pub(in crate::file_locks) fn drop_closed(&mut self) {
        while let Some((handle, is_free)) = self.handles.take_closed() {
            if is_free {
                self.drop_handle(handle);
            }
        }
    }

    /// The member can be told what it was handed, with [`Locks::next_note`].
    pub fn can_be_told(&mut self, vmid: Vmid) {
        self.handles.can_be_told(vmid);
    }

    /// The next open file that a member was handed and is to be told of: any member, or that one. It is
    /// said again until [`Locks::was_told`].
    pub fn next_note(&self, to: Option<Vmid>) -> Option<(Vmid, u64)> {
        self.handles.next_note(to)
    }

    /// There was no room to tell the member: others are to be told first.
    pub fn put_note_off(&mut self, vmid: Vmid, handle: u64) {
        self.handles.put_note_off(vmid, handle);
    }

    /// The member was told of the open file.
    pub fn was_told(&mut self, vmid: Vmid, handle: u64) {
        self.handles.was_told(vmid, handle);
    }
}
