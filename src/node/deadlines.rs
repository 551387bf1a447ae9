//! The time limits of numbered events that the leader's tables, which have no clock, keep in order.

use core::time::Duration;

use super::Node;
use super::reclaim::AtomicReclaim;
use crate::invariant::Count;
use crate::leader::Leader;
use crate::pal::{Deadline, Pal, Time};
use crate::store::{Contended, Rank, SpinLock, close_gap};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::{Vmid, parts};

/// The number of times that are kept separately. If more events are outstanding, the youngest of
/// them share the latest time.
const MARKS: usize = 16;

/// How many messages of the outbox, besides answers, are handled in one poll iteration. Each may cost a
/// write to another stream.
const MESSAGES_PER_ITERATION: u32 = 32;

/// The time limits that the leader's worker enforces, and what its node counts in a poll iteration. It is beside the
/// leader's tables, which have no clock.
pub(in crate::node) struct LeaderLimits {
    /// Recalls of delegated files.
    pub(in crate::node) recalls: EventLimits,
    /// Revocations of leases that others wait for, if there is a limit for them.
    pub(in crate::node) revocations: EventLimits,
    /// Processes that are being started and have lost their parent.
    pub(in crate::node) starts: EventLimits,
    /// The work that remains to reclaim the resources of the start whose time has passed.
    pub(in crate::node) overdue_start: AtomicReclaim,
    /// How many messages of the outbox, besides answers, were handled in this poll iteration.
    sent_in_iteration: AtomicU32,
    /// The poll iteration in which the last signal for all came from a peer.
    pub(in crate::node) broadcast_iteration: AtomicU64,
}

impl LeaderLimits {
    pub(in crate::node) fn new(contended: Contended) -> Self {
        LeaderLimits {
            recalls: EventLimits::new(contended),
            revocations: EventLimits::new(contended),
            starts: EventLimits::new(contended),
            overdue_start: AtomicReclaim::default(),
            sent_in_iteration: AtomicU32::new(0),
            broadcast_iteration: AtomicU64::new(0),
        }
    }
}

impl LeaderLimits {
    /// Returns true if an event of any kind may be outstanding.
    #[inline]
    fn is_any_armed(&self) -> bool {
        let mut all = [&self.recalls, &self.revocations, &self.starts].into_iter();
        // All of them are for processes that know the extensions.
        parts::EXTENSIONS && all.any(|limits| limits.is_armed.load(Ordering::SeqCst))
    }

    /// Begins a poll iteration.
    pub(in crate::node) fn begin_iteration(&self) {
        self.sent_in_iteration.store(0, Ordering::Relaxed);
    }

    /// Returns true if one more portion of work on the tables may be done in this poll iteration. A portion counts as half
    /// of the messages of an iteration.
    pub(in crate::node) fn take_portion(&self) -> bool {
        self.sent_in_iteration
            .fetch_add(MESSAGES_PER_ITERATION / 2, Ordering::Relaxed)
            < MESSAGES_PER_ITERATION
    }

    /// Returns true if one more message of the outbox may be handled in this poll iteration.
    pub(in crate::node) fn take_message(&self) -> bool {
        self.sent_in_iteration.fetch_add(1, Ordering::Relaxed) < MESSAGES_PER_ITERATION
    }
}

/// The time limits of one kind of events.
pub(in crate::node) struct EventLimits {
    /// The worker checks the limits: an event may be outstanding.
    pub(in crate::node) is_armed: AtomicBool,
    pub(in crate::node) deadlines: SpinLock<Deadlines>,
}

impl EventLimits {
    fn new(contended: Contended) -> Self {
        EventLimits {
            is_armed: AtomicBool::new(false),
            deadlines: SpinLock::new(Rank::Deadlines, contended, Deadlines::new()),
        }
    }
}

/// The outstanding events of a kind: the number of the oldest with the member whose time runs, and the number of
/// the youngest so far.
pub(in crate::node) type Outstanding = (Option<(u64, Vmid)>, u64);

impl<P: Pal> Node<'_, P> {
    /// As the leader: has the worker enforce the limits of a kind of events, one of which is outstanding now.
    pub(in crate::node) fn enforce(&self, limits: &EventLimits) {
        if parts::EXTENSIONS && !limits.is_armed.swap(true, Ordering::SeqCst) {
            self.wake();
        }
    }

    /// As a new leader: begins the limits of all outstanding events anew.
    pub(in crate::node) fn enforce_all(&self) {
        let limits = self.leader_limits;
        for limits in [&limits.recalls, &limits.revocations, &limits.starts] {
            self.enforce(limits);
        }
    }

    /// Enforces the limits of all kinds of events, in the worker. Returns when to run again, if before `until`.
    #[inline]
    pub(in crate::node) fn poll_limits(&self, until: Deadline) -> Deadline {
        if self.leader_limits.is_any_armed() {
            self.poll_each_limit(until)
        } else {
            until
        }
    }

    #[inline(never)]
    fn poll_each_limit(&self, until: Deadline) -> Deadline {
        let until = self.poll_recalls(until);
        let until = self.poll_revocations(until);
        self.poll_starts(until)
    }

    /// As the leader: closes the connection of the member whose event is the oldest outstanding one, if its time
    /// is over. Returns when to run again, if before `until`.
    pub(in crate::node) fn disconnect_late(
        &self,
        limits: &EventLimits,
        limit: Duration,
        until: Deadline,
        outstanding: fn(&Leader<'_>) -> Outstanding,
    ) -> Deadline {
        let Some(leader) = self.leading() else {
            return until;
        };
        if !limits.is_armed.load(Ordering::SeqCst) {
            return until;
        }
        let now = self.pal.now();
        let (first, last) = {
            let leader = leader.lock();
            let (first, last) = outstanding(&leader);
            if first.is_none() {
                limits.is_armed.store(false, Ordering::SeqCst);
            }
            (first, last)
        };
        let Some((first, vmid)) = first else {
            return until;
        };
        let then = limits.deadlines.lock().of(first, last, now, limit);
        if then > now {
            return until.min(Deadline::At(then));
        }
        match self.peers.find(vmid) {
            Some(peer) => self.disconnect_overdue(&peer),
            None => self.reclaim_absent(vmid),
        }
        until
    }
}

/// The time limits of events. The time of an event counts from the first call that sees it.
pub(in crate::node) struct Deadlines {
    /// The first `count` marks are in use: each has the limit of all events up to its number that
    /// no mark before it covers. Both numbers and times rise.
    marks: [(u64, Time); MARKS],
    count: usize,
}

impl Deadlines {
    pub(in crate::node) const fn new() -> Self {
        Deadlines {
            marks: [(0, Time(0)); MARKS],
            count: 0,
        }
    }

    /// Returns the limit of the event `first`, the oldest that is outstanding; `last` is the
    /// youngest so far at `now`.
    pub(in crate::node) fn of(
        &mut self,
        first: u64,
        last: u64,
        now: Time,
        limit: Duration,
    ) -> Time {
        while self.count > 0
            && self
                .marks
                .first()
                .is_some_and(|(number, _)| *number < first)
        {
            close_gap(&mut self.marks);
            self.count.decrement();
        }
        let newest = self.count.checked_sub(1);
        let newest = newest.and_then(|newest| self.marks.get(newest));
        let until = now + limit;
        if newest.is_none_or(|(number, _)| *number < last) {
            self.count = self.count.plus(1).min(MARKS);
            if let Some(mark) = self.marks.get_mut(self.count.minus(1)) {
                *mark = (last, until);
            }
        }
        let oldest = self.marks.first().filter(|_| self.count > 0);
        oldest.map_or(until, |(_, until)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_nanos(100);

    #[test]
    fn each_event_has_its_limit_from_the_first_look_at_it() {
        let mut deadlines = Deadlines::new();
        assert_eq!(deadlines.of(1, 2, Time(5), LIMIT), Time(105));
        assert_eq!(deadlines.of(1, 3, Time(8), LIMIT), Time(105));
        assert_eq!(deadlines.of(2, 3, Time(9), LIMIT), Time(105));
        assert_eq!(deadlines.of(3, 3, Time(20), LIMIT), Time(108));
        // All events were over for a while.
        assert_eq!(deadlines.of(7, 9, Time(50), LIMIT), Time(150));
    }

    #[test]
    fn events_beyond_the_marks_have_at_least_their_limit_and_at_most_twice_that() {
        let mut deadlines = Deadlines::new();
        for number in 1..=40 {
            assert_eq!(deadlines.of(1, number, Time(number), LIMIT), Time(101));
        }
        for number in 1..=15 {
            let until = deadlines.of(number, 40, Time(60), LIMIT);
            assert_eq!(until, Time(number + 100));
        }
        assert_eq!(deadlines.of(16, 40, Time(60), LIMIT), Time(140));
        assert_eq!(deadlines.of(40, 41, Time(70), LIMIT), Time(140));
        assert_eq!(deadlines.of(41, 41, Time(71), LIMIT), Time(170));
    }
}
