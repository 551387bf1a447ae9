//! Recalls: files that are to come back, and the borrowers that are still to be sent that.

use super::table::Loan;
use crate::Vmid;
use crate::file_locks::Locks;
use crate::store::NONE;

impl Locks<'_> {
    /// The file is to come back.
    pub(in crate::file_locks) fn recall(&mut self, file: u32, wanted_by: Vmid) {
        let hash = self.file_at(file).hash;
        let Some(loan) = self.file_at(file).loan.filter(|loan| !loan.is_recalled) else {
            return;
        };
        self.lending.contention.start_quarrel(hash, wanted_by);
        let number = self.lending.last_recall.saturating_add(1);
        self.lending.last_recall = number;
        let last = self.lending.last_recalled;
        self.with_loan(file, |changed| {
            *changed = Loan {
                is_recalled: true,
                recall: number,
                before: last,
                ..loan
            };
        });
        self.with_loan(last, |last| last.behind = file);
        if last == NONE {
            self.lending.first_recalled = file;
        }
        self.lending.last_recalled = file;
        self.lending.to_tell = self.lending.to_tell.saturating_add(1);
    }

    /// Whether borrowers are to be told that they are to give something back.
    pub fn has_recalls(&self) -> bool {
        self.lending.to_tell > 0
    }

    /// The first recall behind the one with that number that is still to be sent: its number, the
    /// borrower, and what the borrower calls the file. It stays until [`Locks::recall_was_sent`].
    pub fn next_recall(&self, last: u64) -> Option<(u64, Vmid, u64)> {
        if self.lending.to_tell == 0 {
            return None;
        }
        let mut file = self.lending.first_recalled;
        while let Some(loan) = self.file_at(file).loan {
            if !loan.is_told && loan.recall > last {
                return Some((loan.recall, loan.to, loan.number));
            }
            file = loan.behind;
        }
        None
    }

    /// The number of the last recall. Later recalls have higher numbers.
    pub fn last_recall(&self) -> u64 {
        self.lending.last_recall
    }

    /// The oldest recall whose file has not come back: its number, and the borrower.
    pub fn first_recall(&self) -> Option<(u64, Vmid)> {
        let loan = self.file_at(self.lending.first_recalled).loan?;
        Some((loan.recall, loan.to))
    }

    /// The borrower was told.
    pub fn recall_was_sent(&mut self, to: Vmid, number: u64) {
        if let Some(file) = self.by_number(to, number)
            && let Some(loan) = self.file_at(file).loan
            && loan.is_recalled
            && !loan.is_told
        {
            self.with_loan(file, |loan| loan.is_told = true);
            self.lending.to_tell = self.lending.to_tell.saturating_sub(1);
        }
    }
}
