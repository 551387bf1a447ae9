//! Telling receivers that they were handed an open file.

use super::{Handles, Note, Share};
use crate::Vmid;
use crate::store::NONE;

impl Handles<'_> {
    /// Puts the share behind all that are due.
    pub(super) fn enlist_note(&mut self, place: u32) {
        let last = self.last_due;
        self.with_share(place, |share| {
            (share.before, share.behind) = (last, NONE);
        });
        self.with_share(last, |last| last.behind = place);
        if last == NONE {
            self.first_due = place;
        }
        self.last_due = place;
    }

    pub(super) fn unlist_note(&mut self, place: u32) {
        let Share { before, behind, .. } = *self.at(place);
        self.with_share(before, |before| before.behind = behind);
        self.with_share(behind, |behind| behind.before = before);
        if before == NONE {
            self.first_due = behind;
        }
        if behind == NONE {
            self.last_due = before;
        }
        self.with_share(place, |share| (share.before, share.behind) = (NONE, NONE));
    }

    /// The member can be told what it was handed from now on.
    pub(super) fn can_be_told(&mut self, vmid: Vmid) {
        if self.untold == 0 {
            return;
        }
        self.change_all(|share| {
            if share.vmid == Some(vmid) && share.note == Note::None {
                share.note = Note::Due;
            }
        });
    }

    pub(super) fn due(&self) -> impl Iterator<Item = &Share> {
        let at = |place: u32| self.shares.get(place as usize);
        core::iter::successors(at(self.first_due), move |share| at(share.behind))
    }

    /// The open file of which its receiver is to be told next: any member, or that one.
    pub(super) fn next_note(&self, to: Option<Vmid>) -> Option<(Vmid, u64)> {
        let mut due = self.due();
        let share = due.find(|share| to.is_none() || share.vmid == to)?;
        Some((share.vmid?, share.handle))
    }

    /// There was no room to tell the member of the open file: others come first.
    pub(super) fn put_note_off(&mut self, vmid: Vmid, handle: u64) {
        let is_due = |share: &Share| share.vmid == Some(vmid) && share.note == Note::Due;
        if let Some(place) = self.find(handle, is_due) {
            self.unlist_note(place);
            self.enlist_note(place);
        }
    }

    /// The member was told of the open file.
    pub(super) fn was_told(&mut self, vmid: Vmid, handle: u64) {
        let is_due = |share: &Share| share.vmid == Some(vmid) && share.note == Note::Due;
        while let Some(place) = self.find(handle, is_due) {
            self.change(place, |share| share.note = Note::Sent);
        }
    }
}
