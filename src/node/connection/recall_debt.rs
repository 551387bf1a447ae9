//! The time for which a member makes others wait for files that are delegated to it. A member that returns a
//! recalled file late, though in time for the recall limit, gets no delegation until that time is paid off.
//!
//! A request that waits for a lock can be made to wait by a lock on the file just as well. If its sender competes with
//! the holder for the file and for one processor, each of them waits half of the time. So such requests may wait a
//! little longer.

use crate::file_locks::AwaitedBy;
use crate::pal::Time;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// A member may make others wait for one part in so many of the time.
const PARTS: u64 = 64;

/// The time, in nanoseconds, for which it may make them wait besides: the processor may be busy.
const FREE: u64 = 20_000_000;

/// The time, in nanoseconds, for which requests that may wait for a lock do not count as waiting for a return.
const GRACE: u64 = 10_000_000;

/// The time for which a member has made others wait for the returns of its delegations, in nanoseconds of the leader's clock.
#[derive(Default)]
pub(crate) struct RecallDebt {
    /// The recalls that were sent and not answered.
    outstanding: AtomicU32,
    /// Since when the member makes others wait, while a recall is outstanding.
    since: AtomicU64,
    /// When the time for which the member has made others wait is paid off.
    paid_off: AtomicU64,
}

impl RecallDebt {
    /// Clears the debt, because another process gets the slot in the table of peers.
    pub(super) fn clear(&self) {
        self.outstanding.store(0, Ordering::Relaxed);
        self.paid_off.store(0, Ordering::Relaxed);
    }

    /// Records that a recall was sent to the member.
    pub(in crate::node) fn note_recall(&self, now: Time) {
        if self.outstanding.fetch_add(1, Ordering::Relaxed) == 0 {
            self.since.store(now.0, Ordering::Relaxed);
        }
    }

    /// Records that the member has returned a recalled file, for which these requests waited.
    pub(in crate::node) fn note_return(&self, now: Time, awaited_by: AwaitedBy) {
        let outstanding = self.outstanding.load(Ordering::Relaxed);
        // A previous leader may have sent the recall.
        if let Some(left) = outstanding.checked_sub(1) {
            // What waits for another file may be a request of any kind.
            let grace = match awaited_by {
                AwaitedBy::Waiters if left == 0 => GRACE,
                _ => 0,
            };
            let paid_off = self.paid_off(now, grace);
            self.paid_off.store(paid_off, Ordering::Relaxed);
            self.since.store(now.0, Ordering::Relaxed);
            self.outstanding.store(left, Ordering::Relaxed);
        }
    }

    /// Returns the time at which the debt is paid off if the member returns a file now, and the first `grace` nanoseconds of
    /// the wait do not count.
    #[inline(never)]
    fn paid_off(&self, now: Time, grace: u64) -> u64 {
        let before = self.paid_off.load(Ordering::Relaxed).max(now.0);
        if self.outstanding.load(Ordering::Relaxed) == 0 {
            return before;
        }
        let since = self.since.load(Ordering::Relaxed).wrapping_add(grace);
        let since = since.min(now.0);
        // The clock does not count as many years as would be too many.
        before.wrapping_add(now.0.wrapping_sub(since).wrapping_mul(PARTS))
    }

    /// Returns true if a file may be delegated to the member.
    pub(in crate::node) fn allows_delegation(&self, now: Time) -> bool {
        self.paid_off(now, 0).wrapping_sub(now.0) <= PARTS.wrapping_mul(FREE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn at(milliseconds: u64) -> Time {
        Time(milliseconds * MILLISECOND)
    }

    #[test]
    fn member_that_returns_a_file_late_gets_none_until_the_time_is_paid_off() {
        let debt = RecallDebt::default();
        debt.note_recall(at(1000));
        assert!(debt.allows_delegation(at(1015)));
        assert!(!debt.allows_delegation(at(1025)));
        debt.note_return(at(1900), AwaitedBy::Others);
        let paid_off = 1900 + 880 * PARTS;
        assert!(!debt.allows_delegation(at(paid_off - 1)));
        assert!(debt.allows_delegation(at(paid_off)));
    }

    #[test]
    fn member_that_returns_files_soon_gets_others() {
        let debt = RecallDebt::default();
        assert!(debt.allows_delegation(at(0)));
        for number in 0..1000 {
            debt.note_recall(at(100 * number));
            debt.note_return(at(100 * number + 1), AwaitedBy::Others);
            assert!(debt.allows_delegation(at(100 * number + 1)));
        }
    }

    #[test]
    fn files_that_were_recalled_at_once_make_others_wait_until_the_last_is_returned() {
        let debt = RecallDebt::default();
        for _ in 0..2 {
            debt.note_recall(at(0));
        }
        debt.note_return(at(1), AwaitedBy::Waiters);
        assert!(!debt.allows_delegation(at(500)));
        debt.note_return(at(500), AwaitedBy::Others);
        assert!(!debt.allows_delegation(at(480 * PARTS)));
        assert!(debt.allows_delegation(at(500 * PARTS)));
        debt.note_return(at(90_000), AwaitedBy::Others);
        assert!(debt.allows_delegation(at(90_000)));
    }

    #[test]
    fn requests_that_may_wait_for_a_lock_do_not_count_if_the_file_is_returned_soon_enough() {
        let debt = RecallDebt::default();
        for number in 0..1000 {
            debt.note_recall(at(20 * number));
            debt.note_return(at(20 * number + 10), AwaitedBy::Waiters);
            assert!(debt.allows_delegation(at(20 * number + 10)));
        }
        debt.note_recall(at(30_000));
        debt.note_return(at(30_031), AwaitedBy::Waiters);
        assert!(!debt.allows_delegation(at(30_031)));
    }

    #[test]
    fn requests_that_may_wait_for_a_lock_count_while_others_wait_for_another_file() {
        let debt = RecallDebt::default();
        debt.note_recall(at(0));
        for number in 0..3 {
            debt.note_recall(at(10 * number));
            debt.note_return(at(10 * number + 9), AwaitedBy::Waiters);
        }
        assert!(!debt.allows_delegation(at(29)));
    }
}
