//! What a node tells about itself.

use super::{Node, PendingCall};
use crate::counters::{Pools, Statistics, Usage};
use crate::events::Events;
use crate::pal::{Pal, Time};

impl<P: Pal> Node<'_, P> {
    /// What was counted so far, and how full the pools are. Takes no lock over I/O.
    pub fn statistics(&self) -> Statistics {
        let limits = &self.config.capacities;
        let fill = |(now, peak): (usize, usize), limit| Usage { now, peak, limit };
        let leader = self.leader.as_ref().map(|leader| {
            let leader = leader.lock();
            let ranges = (leader.ranges().len(), leader.ranges().peak());
            let processes = (leader.processes().len(), leader.processes().peak());
            let signals = leader.processes().signals.fill();
            let locks = leader.locks();
            let delegation_limit = locks.delegation_limit();
            let locks = [
                locks.lock_usage(),
                locks.file_usage(),
                locks.waiting_usage(),
                locks.open_file_usage(),
                locks.delegation_usage(),
            ];
            (ranges, processes, signals, locks, delegation_limit)
        });
        let (
            ranges,
            processes,
            signals,
            [locks, files, waiting, handles, delegations],
            delegation_limit,
        ) = leader.unwrap_or_default();
        let own = {
            let own = self.own_ids.lock();
            (own.len(), own.peak())
        };
        let served = self.server.as_ref().map(|server| {
            let server = server.lock();
            (server.handle_usage(), server.client_usage())
        });
        let (served, clients) = served.unwrap_or_default();
        self.counters.read(Pools {
            peers: fill(self.peers.fill(), limits.peers),
            waiters: fill(self.waiters.fill(), limits.waiters),
            ranges: fill(ranges, limits.ranges),
            processes: fill(processes, limits.processes),
            queued_signals: fill(signals, limits.queued_signals),
            children: fill(self.children.lock().usage(), limits.children),
            locks: fill(locks, limits.locks.locks),
            locked_files: fill(files, limits.locks.files),
            waiting_for_locks: fill(waiting, limits.locks.waiting),
            lock_handles: fill(handles, limits.locks.handles),
            delegations: fill(delegations, delegation_limit),
            sync_handles: fill(self.sync_handles.usage(), limits.sync_handles),
            served_handles: fill(served, limits.leases.handles),
            sync_clients: fill(clients, limits.leases.clients),
            delegated_files: fill(
                self.delegated_files.lock().usage(),
                limits.max_delegated_files(),
            ),
            own_ranges: fill(own, limits.own_ranges),
            send_queue: fill(self.peers.queue_fill(), limits.send_queue / 2),
        })
    }

    /// The last events, oldest first, as far as they were not overwritten meanwhile. Takes no lock.
    pub fn events(&self) -> Events<'_> {
        Events::of(&self.events, self.pal.now())
    }

    /// What time it is; events from now on bear it.
    pub(crate) fn now(&self) -> Time {
        let now = self.pal.now();
        self.events.set_time(now);
        now
    }

    /// The calls of this node that wait just now, in no order: at most
    /// [`Capacities::waiters`](crate::Capacities::waiters).
    pub fn pending_calls(&self) -> impl Iterator<Item = PendingCall> {
        self.waiters.all(self.pal.now())
    }

    /// Whether no node of the leader's table was lost. Slow: for tests and self-checks.
    pub fn is_sound(&self) -> bool {
        let leader = self.leader.as_ref();
        let server = self.server.as_ref();
        leader.is_none_or(|leader| leader.lock().is_sound())
            && server.is_none_or(|server| server.lock().check_invariants())
    }
}
