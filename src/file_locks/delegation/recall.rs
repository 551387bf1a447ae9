//! Files that are to come back: who is to be told of it, and who has been for too long.

use core::time::Duration;

use super::table::Loan;
use crate::Vmid;
use crate::file_locks::Locks;
use crate::pal::Time;
use crate::store::NONE;

/// Which borrower is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// None, and no recall is under way.
    Nobody,
    /// None yet: the next may be then.
    NotBefore(Time),
    /// This one.
    Member(Vmid),
}

impl Locks<'_> {
    /// The file is to come back.
    pub(in crate::file_locks) fn recall(&mut self, file: u32, wanted_by: Vmid) {
        let hash = self.file_at(file).hash;
        let Some(loan) = self.file_at(file).loan.filter(|loan| !loan.is_recalled) else {
            return;
        };
        self.lending.contention.start_quarrel(hash, wanted_by);
        let last = self.lending.last_recalled;
        self.with_loan(file, |changed| {
            *changed = Loan {
                is_recalled: true,
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

    /// Begins to tell borrowers: each comes up once until the next such call.
    pub fn begin_recalls(&mut self) {
        self.lending.round = self.lending.round.wrapping_add(1).max(1);
    }

    /// The next borrower that is to be told, and the number of what it is to give back. It comes
    /// again in the next round, unless [`Locks::recall_was_sent`].
    pub fn next_recall(&mut self) -> Option<(Vmid, u64)> {
        if self.lending.to_tell == 0 {
            return None;
        }
        let round = self.lending.round;
        let mut file = self.lending.first_recalled;
        while let Some(loan) = self.file_at(file).loan {
            if !loan.is_told && loan.tried != round {
                self.with_loan(file, |loan| loan.tried = round);
                return Some((loan.to, loan.number));
            }
            file = loan.behind;
        }
        None
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

    /// Which borrower has been asked for longer than `limit`. From the first time that it is asked
    /// after a recall, that counts.
    pub fn overdue(&mut self, now: Time, limit: Duration) -> Overdue {
        let file = self.lending.first_recalled;
        let Some(loan) = self.file_at(file).loan else {
            return Overdue::Nobody;
        };
        let since = loan.since.unwrap_or(now);
        let mut unseen = self.lending.last_recalled;
        while let Some(loan) = self
            .file_at(unseen)
            .loan
            .filter(|loan| loan.since.is_none())
        {
            self.with_loan(unseen, |loan| loan.since = Some(now));
            unseen = loan.before;
        }
        if now.since(since) >= limit {
            Overdue::Member(loan.to)
        } else {
            Overdue::NotBefore(since + limit)
        }
    }
}
