//! The statistics, the events and the pending calls of a node.

use super::{Node, PendingCall};
use crate::Wait;
use crate::counters::{Pools, Statistics};
use crate::events::Events;
use crate::pal::{Pal, Time};

/// # Diagnosis
///
/// None of these calls waits.
impl<P: Pal> Node<'_, P> {
    /// Returns the counters and the usage of the pools. Holds no lock during I/O.
    #[inline(never)]
    pub fn statistics(&self) -> Statistics {
        let limits = &self.config.capacities;
        let mut pools = Pools::of(limits);
        let mut refused_by_quota = 0;
        if let Some(leader) = self.leading() {
            let leader = leader.lock();
            let (ranges, processes) = (leader.ranges(), leader.processes());
            pools.ranges.set((ranges.len(), ranges.peak()));
            pools.processes.set((processes.len(), processes.peak()));
            pools.queued_signals.set(processes.signals.usage());
            let locks = leader.locks();
            pools.locks.set(locks.lock_usage());
            pools.locked_files.set(locks.file_usage());
            pools.waiting_for_locks.set(locks.waiting_usage());
            pools.lock_handles.set(locks.open_file_usage());
            pools.delegations.set(locks.delegation_usage());
            pools.delegations.limit = locks.delegation_limit();
            pools.served_handles.set(leader.leases().handle_usage());
            pools.sync_clients.set(leader.leases().client_usage());
            refused_by_quota = leader.refused_by_quota();
        }
        {
            let own = self.own_ids.lock();
            pools.own_ranges.set((own.len(), own.peak()));
        }
        let queues = self.peers.queue_usage();
        pools.peers.set(self.peers.usage());
        pools.waiters.set(self.waiters.usage());
        pools.children.set(self.children.lock().usage());
        pools
            .delegated_files
            .set(self.delegated_files.lock().usage());
        pools.sync_handles.set(self.sync_handles.usage());
        pools.send_queue.set((queues.now, queues.peak));
        let mut statistics = self.counters.read(queues.accepted, pools, refused_by_quota);
        let (ops, bytes) = self.log_lag();
        statistics.succession.lag_ops = ops;
        statistics.succession.lag_bytes = bytes;
        statistics
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

    /// Returns true if the tables of the leader are consistent. Slow: for tests and self-checks.
    pub fn check_invariants(&self) -> bool {
        let leader = self.leading();
        leader.is_none_or(|leader| leader.lock().check_invariants())
    }
}
