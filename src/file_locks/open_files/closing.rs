//! Open files that members close, at once or when their last request for a lock has ended.

use super::{HoldState, OpenFileTable};
use crate::Vmid;
use crate::invariant::Count;

impl OpenFileTable<'_> {
    /// Records that the member has closed the open file, or, if it has not reported it yet, one
    /// that was sent to it. If a request of the member still waits for a lock of the open file, the
    /// reference stays until the request ends. Returns whether it was the last reference to the
    /// open file.
    pub(in crate::file_locks) fn close(&mut self, open_file: u64, vmid: Vmid) -> bool {
        if let Some(slot) = self.find_open(open_file, vmid)
            && self.at(slot).requests > 0
        {
            self.set(slot, HoldState::Closing, self.at(slot).notice);
            return false;
        }
        let slot = self.find_removed_by_close(open_file, vmid);
        slot.is_some_and(|slot| self.remove(slot))
    }

    pub(super) fn find_open(&self, open_file: u64, vmid: Vmid) -> Option<u32> {
        let held = self.find_held(open_file, vmid);
        held.filter(|slot| !self.at(*slot).is_closing())
    }

    /// Returns the reference that a close removes.
    pub(super) fn find_removed_by_close(&self, open_file: u64, vmid: Vmid) -> Option<u32> {
        let held = self.find_open(open_file, vmid);
        let slot = held.or_else(|| self.find_first_sent(open_file, vmid))?;
        Some(slot).filter(|slot| self.at(*slot).requests == 0)
    }

    /// Returns true if a close removes the last reference to the open file.
    pub(in crate::file_locks) fn is_last_holder(&self, open_file: u64, vmid: Vmid) -> bool {
        let slot = self.find_removed_by_close(open_file, vmid);
        slot.is_some_and(|slot| self.is_last(slot))
    }

    /// Records that a request of the member, which holds the open file, waits for a lock of it.
    pub(in crate::file_locks) fn request_waits(&mut self, open_file: u64, vmid: Vmid) {
        if let Some(slot) = self.find_held(open_file, vmid)
            && let Some(reference) = self.at_mut(slot)
        {
            reference.requests.increment();
        }
    }

    /// Records that such a request has ended.
    pub(in crate::file_locks) fn request_ended(&mut self, open_file: u64, vmid: Vmid) {
        let Some(slot) = self.find_held(open_file, vmid) else {
            return;
        };
        let Some(reference) = self.at_mut(slot) else {
            return;
        };
        reference.requests.decrement();
        if reference.requests == 0 && reference.is_closing() {
            self.list_closed(slot);
        }
    }

    /// Adds a reference that is closed to the list of those whose locks are to be released.
    pub(in crate::file_locks) fn list_closed(&mut self, slot: u32) {
        if let Some(reference) = self.references.get_mut(slot as usize)
            && !reference.is_listed
            && let Some(free) = self.closed.get_mut(self.listed)
        {
            *free = slot;
            self.listed.increment();
            reference.is_listed = true;
        }
    }

    /// Takes a reference that is closed, and without waiting requests, out of the list. Returns its
    /// slot and its open file.
    pub(in crate::file_locks) fn take_closed(&mut self) -> Option<(u32, u64)> {
        loop {
            self.listed = self.listed.checked_sub(1)?;
            let slot = *self.closed.get(self.listed)?;
            let reference = self.at_mut(slot)?;
            reference.is_listed = false;
            // The member may wait for another lock by now, or use the open file again.
            if reference.requests == 0 && reference.is_closing() {
                return Some((slot, reference.open_file));
            }
        }
    }

    /// Returns true if locks of a closed open file are still to be released.
    pub(in crate::file_locks) fn has_closed(&self) -> bool {
        self.listed > 0
    }
}
