//! Open files that one member gives to another one, and their arrival.

use super::quotas::OPEN_FILES;
use super::{FREE, HoldState, MAX_IN_TRANSIT, NoticeState, OpenFileTable, Reference};
use crate::Vmid;
use crate::invariant::{Count, OrBroken};
use crate::parts;
use crate::store::Portion;

impl OpenFileTable<'_> {
    /// Records that the member has the open file: one that was sent to it has arrived. Returns
    /// false if the table is full.
    pub(in crate::file_locks) fn accept(&mut self, open_file: u64, vmid: Vmid) -> bool {
        if self.find_held(open_file, vmid).is_some()
            && let Some(arrived) = self.find_first_sent(open_file, vmid)
        {
            self.remove(arrived);
        }
        self.hold(open_file, vmid)
    }

    /// Transfers the open file from the member `by` to a process that inherits it, or to a member
    /// to which it is sent. `by` holds the open file from now on if it did not before. Returns
    /// false, and changes nothing, if the table is full, or the open file is in transit to the member
    /// [`MAX_IN_TRANSIT`] times.
    pub(in crate::file_locks) fn transfer(
        &mut self,
        open_file: u64,
        by: Vmid,
        to: Vmid,
        inherits: bool,
    ) -> bool {
        let is_new = to != by && !(inherits && self.find_held(open_file, to).is_some());
        if is_new && !inherits && self.is_in_transit_too_often(open_file, to) {
            return false;
        }
        let is_held = self.find_from(open_file, by, 0).is_some();
        let needed = usize::from(is_new).plus(usize::from(!is_held));
        if self.slots.remaining() < needed
            || needed > 0 && !self.quotas.may_grow(by, OPEN_FILES, needed)
            || !self.hold(open_file, by)
        {
            return false;
        }
        let state = if inherits {
            HoldState::Inherited {
                by,
                has_joined: false,
            }
        } else {
            HoldState::Sent { by }
        };
        !is_new
            || self.add(
                by,
                Reference {
                    open_file,
                    vmid: Some(to),
                    state,
                    notice: NoticeState::Withheld,
                    ..FREE
                },
            )
    }

    /// Returns true if the open file is in transit to the member so often that it is not sent once
    /// more.
    pub(super) fn is_in_transit_too_often(&self, open_file: u64, to: Vmid) -> bool {
        let first = self.find_first_sent(open_file, to);
        first.is_some_and(|first| self.at(first).in_transit >= MAX_IN_TRANSIT)
    }

    /// Withdraws a transfer from `by` to `to` that failed. If it was the last reference to the open
    /// file, that is closed: its locks are still to be released.
    pub(in crate::file_locks) fn retract(&mut self, open_file: u64, by: Vmid, to: Vmid) {
        let inherited = HoldState::Inherited {
            by,
            has_joined: false,
        };
        let held = self.find_held(open_file, to);
        let transferred = held
            .filter(|slot| self.at(*slot).state == inherited)
            .or_else(|| self.find_sent(open_file, to, by.get()));
        let Some(slot) = transferred else { return };
        if self.is_last(slot) {
            self.remove_from_index(slot);
            self.set(slot, HoldState::Closing, NoticeState::Confirmed);
            self.insert_into_index(slot);
            self.list_closed(slot);
        } else {
            self.remove(slot);
        }
    }

    /// Records that the member, whose process is connected, has the open file itself.
    pub(in crate::file_locks) fn mark_open_file_joined(&mut self, open_file: u64, vmid: Vmid) {
        if !parts::GIVEN_FILES {
            return;
        }
        let mut found = self.find_from(open_file, vmid, 0);
        while let Some(slot) = found {
            self.mark_joined(slot);
            found = self.next_of(slot, vmid);
        }
    }

    /// Records that the process which has inherited the reference, if any, has joined.
    fn mark_joined(&mut self, slot: u32) {
        let Reference { state, notice, .. } = *self.at(slot);
        if let HoldState::Inherited { by, .. } = state {
            let has_joined = true;
            self.set(slot, HoldState::Inherited { by, has_joined }, notice);
        }
    }

    /// Records of a portion of the references that the member's process has joined: the open files that it
    /// has inherited are its own; and, if `allows_notices`, that it may get notices. Returns what is left to
    /// do.
    pub(in crate::file_locks) fn confirm_portion(
        &mut self,
        vmid: Vmid,
        left: u64,
        allows_notices: bool,
    ) -> u64 {
        if !parts::GIVEN_FILES || self.unjoined == 0 && (self.withheld == 0 || !allows_notices) {
            return 0;
        }
        let mut portion = Portion::new();
        // Upward, since notices are sent in this order.
        for slot in u64::MAX.minus(left)..self.slots.high_water().into() {
            if !portion.take_slot() {
                return u64::MAX.minus(slot);
            }
            let slot = u32::try_from(slot).or_broken(u32::MAX);
            if self.at(slot).vmid != Some(vmid) {
                continue;
            }
            self.mark_joined(slot);
            let Reference { state, notice, .. } = *self.at(slot);
            if allows_notices && notice == NoticeState::Withheld {
                self.set(slot, state, NoticeState::Pending);
            }
        }
        0
    }
}
