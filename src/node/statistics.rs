//! The statistics, the events and the pending calls of a node.

use super::{Node, PendingCall};
use crate::Wait;
use crate::counters::{Pools, Statistics, Usage};
use crate::events::Events;
use crate::pal::{Pal, Time};

/// # Diagnosis
///
/// None of these calls waits.
impl<P: Pal> Node<'_, P> {
    /// Returns the counters and the usage of the pools. Holds no lock during I/O.
    pub fn statistics(&self) -> Statistics {
        let limits = &self.config.capacities;
        let fill = |(now, peak): (usize, usize), limit| Usage { now, peak, limit };
        let leader = self.leading().map(|leader| {
            let leader = leader.lock();
            let ranges = (leader.ranges().len(), leader.ranges().peak());
            let processes = (leader.processes().len(), leader.processes().peak());
            let signals = leader.processes().signals.usage();
            let locks = leader.locks();
            let delegation_limit = locks.delegation_limit();
            let locks = [
                locks.lock_usage(),
                locks.file_usage(),
                locks.waiting_usage(),
                locks.open_file_usage(),
                locks.delegation_usage(),
            ];
            let leases = leader.leases();
            let leases = (leases.handle_usage(), leases.client_usage());
            let refused = leader.refused_by_quota();
            let locks = (locks, delegation_limit);
            (ranges, processes, signals, locks, leases, refused)
        });
        let (
            ranges,
            processes,
            signals,
            ([locks, files, waiting, handles, delegations], delegation_limit),
            (served, clients),
            refused_by_quota,
        ) = leader.unwrap_or_default();
        let own = {
            let own = self.own_ids.lock();
            (own.len(), own.peak())
        };
        let children = self.children.lock().usage();
        let delegated_files = self.delegated_files.lock().usage();
        let queues = self.peers.queue_usage();
        let pools = Pools {
            peers: fill(self.peers.fill(), limits.peers),
            waiters: fill(self.waiters.fill(), limits.waiters),
            ranges: fill(ranges, limits.ranges),
            processes: fill(processes, limits.processes),
            queued_signals: fill(signals, limits.queued_signals),
            children: fill(children, limits.children),
            locks: fill(locks, limits.locks.locks),
            locked_files: fill(files, limits.locks.files),
            waiting_for_locks: fill(waiting, limits.locks.waiting),
            lock_handles: fill(handles, limits.locks.open_files),
            delegations: fill(delegations, delegation_limit),
            sync_handles: fill(self.sync_handles.usage(), limits.sync_handles),
            served_handles: fill(served, limits.leases.handles),
            sync_clients: fill(clients, limits.leases.clients),
            delegated_files: fill(delegated_files, limits.max_delegated_files()),
            own_ranges: fill(own, limits.own_ranges),
            send_queue: fill((queues.now, queues.most), limits.send_queue / 2),
        };
        self.counters.read(queues.accepted, pools, refused_by_quota)
    }

    /// Returns the last events, oldest first, as far as newer ones have not overwritten them. Takes
    /// no lock.
    pub fn events(&self) -> Events<'_> {
        Events::of(&self.events, self.pal.now())
    }

    /// Returns the time, and makes it the time of the events from now on.
    pub(crate) fn now(&self) -> Time {
        let now = self.pal.now();
        self.events.set_time(now);
        now
    }

    /// Makes the present time that of the events from now on, if it is cheap to ask for it.
    #[inline]
    pub(crate) fn update_event_time(&self) {
        if P::CLOCK_IS_CHEAP && self.events.is_enabled() {
            self.now();
        }
    }

    /// Returns the time at which a call begins. If it needs the time only for its records, and it is not cheap to ask
    /// for it, that is the time at which the node last asked.
    #[inline]
    pub(crate) fn begin_time(&self, wait: Wait<'_>) -> Time {
        if P::CLOCK_IS_CHEAP || wait.has_duration() || !self.config.spin.is_zero() {
            self.now()
        } else {
            self.events.time()
        }
    }

    /// Returns the calls of this node that are waiting, in no order: at most
    /// [`Capacities::waiters`](crate::Capacities::waiters).
    pub fn pending_calls(&self) -> impl Iterator<Item = PendingCall> {
        self.waiters.all(self.pal.now())
    }

    /// Whether the tables of the leader are consistent. Slow: for
    /// tests and self-checks.
    pub fn check_invariants(&self) -> bool {
        let leader = self.leading();
        leader.is_none_or(|leader| leader.lock().check_invariants())
    }
}
