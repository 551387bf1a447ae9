//! Recalls: the delegations that have to be returned, and the recalls that are still to be sent.

use super::table::Delegation;
use crate::Vmid;
use crate::file_locks::LockTable;
use crate::invariant::Count;
use crate::parts;
use crate::store::NONE;

impl LockTable<'_> {
    /// Recalls the delegation of the file.
    pub(in crate::file_locks) fn recall(&mut self, file: u32, wanted_by: Vmid) {
        let hash = self.file_at(file).hash;
        let Some(delegation) = self
            .delegation_of(file)
            .filter(|delegation| !delegation.is_recalled)
        else {
            return;
        };
        self.delegations
            .contention
            .record_contention(hash, wanted_by);
        let number = self.delegations.last_recall.plus(1);
        self.delegations.last_recall = number;
        let last = self.delegations.last_recalled;
        self.update_delegation(file, |changed| {
            *changed = Delegation {
                is_recalled: true,
                recall: number,
                prev: last,
                ..delegation
            };
        });
        self.update_delegation(last, |last| last.next = file);
        if last == NONE {
            self.delegations.first_recalled = file;
        }
        self.delegations.last_recalled = file;
        self.delegations.outbox.push(file);
    }

    /// Returns the next recall to send: the delegation holder, and the holder's number for the file.
    /// It stays until [`LockTable::mark_recall_sent`].
    pub fn next_recall(&self) -> Option<(Vmid, u64)> {
        if !parts::DELEGATIONS {
            return None;
        }
        let mut due = self.delegations.outbox.due();
        due.find_map(|file| {
            let delegation = self.delegation_of(file)?;
            Some((delegation.to, delegation.number))
        })
    }

    /// Passes a recall over until [`LockTable::resume_output`], because it could not be sent for lack of
    /// room.
    pub fn defer_recall(&mut self, to: Vmid, number: u64) {
        if let Some(file) = self.find_delegation(to, number) {
            self.delegations.outbox.defer(file);
        }
    }

    /// Makes the recalls and the notices about open files that were passed over due again.
    pub fn resume_output(&mut self) {
        if parts::DELEGATIONS {
            self.delegations.outbox.resume();
        }
        self.open_files.resume_notices();
    }

    /// Returns true if the leader has a completion, a recall or a notice about an open file to
    /// send, or [locks to release](LockTable::has_releases).
    pub fn has_output(&self) -> bool {
        self.has_completions()
            || parts::DELEGATIONS && self.delegations.outbox.has_due()
            || self.open_files.has_notices()
            || self.has_releases()
    }

    /// Returns the number of the last recall. Later recalls have higher numbers.
    pub fn last_recall(&self) -> u64 {
        self.delegations.last_recall
    }

    /// Returns the oldest recall whose file has not been returned: its number, and the delegation
    /// holder.
    pub fn first_recall(&self) -> Option<(u64, Vmid)> {
        let delegation = self.delegation_of(self.delegations.first_recalled)?;
        Some((delegation.recall, delegation.to))
    }

    /// Records that the recall was sent to the delegation holder.
    pub fn mark_recall_sent(&mut self, to: Vmid, number: u64) {
        if let Some(file) = self.find_delegation(to, number) {
            self.delegations.outbox.remove(file);
        }
    }
}
