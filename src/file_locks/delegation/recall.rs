//! Recalls: the delegations that have to be returned, and the recalls that are still to be sent.

use super::table::Delegation;
use crate::Vmid;
use crate::file_locks::LockTable;
use crate::invariant::Count;
use crate::store::NONE;

impl LockTable<'_> {
    /// Recalls the delegation of the file.
    pub(in crate::file_locks) fn recall(&mut self, file: u32, wanted_by: Vmid) {
        let hash = self.file_at(file).hash;
        let Some(delegation) = self
            .file_at(file)
            .delegation
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
        self.delegations.unsent_recalls.increment();
    }

    /// Returns true while the table has a recall that the leader has not sent yet.
    pub fn has_recalls(&self) -> bool {
        self.delegations.unsent_recalls > 0
    }

    /// The first unsent recall after the one with that number: its number, the delegation holder,
    /// and the holder's number for the file. It stays until [`LockTable::mark_recall_sent`].
    pub fn next_recall(&self, last: u64) -> Option<(u64, Vmid, u64)> {
        if self.delegations.unsent_recalls == 0 {
            return None;
        }
        let mut file = self.delegations.first_recalled;
        while let Some(delegation) = self.file_at(file).delegation {
            if !delegation.is_recall_sent && delegation.recall > last {
                return Some((delegation.recall, delegation.to, delegation.number));
            }
            file = delegation.next;
        }
        None
    }

    /// The number of the last recall. Later recalls have higher numbers.
    pub fn last_recall(&self) -> u64 {
        self.delegations.last_recall
    }

    /// The oldest recall whose file has not been returned: its number, and the delegation holder.
    pub fn first_recall(&self) -> Option<(u64, Vmid)> {
        let delegation = self.file_at(self.delegations.first_recalled).delegation?;
        Some((delegation.recall, delegation.to))
    }

    /// Records that the recall was sent to the delegation holder.
    pub fn mark_recall_sent(&mut self, to: Vmid, number: u64) {
        if let Some(file) = self.find_delegation(to, number)
            && let Some(delegation) = self.file_at(file).delegation
            && delegation.is_recalled
            && !delegation.is_recall_sent
        {
            self.update_delegation(file, |delegation| delegation.is_recall_sent = true);
            self.delegations.unsent_recalls.decrement();
        }
    }
}
