//! The tables that the first process of a family keeps for all: VMIDs, owners of IDs, processes,
//! signals through the leader, file locks, leases of shared values.
//!
//! The leader is a state machine. Its state changes in one way: [`Leader::apply`] applies an
//! [`Op`], which any process may request, and returns an [`Outcome`]. It has no clock, no stream
//! and no lock, and nothing in it depends on addresses or on chance. So a second leader that
//! applies the same operations gives the same outcomes.

mod apply;
#[cfg(debug_assertions)]
mod bounds;
mod broadcast;
mod capacities;
mod codec;
mod departed;
mod forwarding;
mod ids;
mod image;
mod lock_requests;
mod op;
mod outbox;
mod processes;
mod reclaim;
mod requests;
mod roster;
mod sent_frames;
mod signals;

use crate::error::Error;
use crate::store::{Arena, Digested, HAS_REPLICAS, memory_sum};
use crate::{Id, Vmid};

use crate::file_locks::LockTable;
use crate::shared_state::Server;
pub use crate::store::{ImageCursor, MalformedImage, SMALLEST_SLICE};
pub(crate) use broadcast::Broadcast;
pub use capacities::LeaderCapacities;
use departed::Departed;
pub use ids::{Alloc, Ranges};
use ids::{PendingGrants, Vmids};
pub use op::{Op, OpObserver, Outcome, Presence};
use outbox::Outbox;
pub(crate) use outbox::outgoing_frame;
pub use outbox::{Content, Outgoing, OutgoingId};
pub use processes::{ExitNotice, Notice, Processes, SIGPWR};
use roster::Roster;
pub use sent_frames::SentFrames;
pub use signals::OutgoingSignal;
pub(crate) use signals::{MAX_UNANSWERED, QUEUED, SEND_DIRECTLY, Signals, is_signal};
pub use signals::{SIGNAL_MAX, SignalLimits};

/// The leader's answer to a member that gave an open file to another one, which has not confirmed
/// it yet.
pub(crate) const UNCONFIRMED: u32 = 1;

/// The greatest number of observers of the operations.
const OBSERVERS: usize = if HAS_REPLICAS { 2 } else { 0 };

/// The leader's tables.
pub struct Leader<'m> {
    ranges: Ranges<'m>,
    pending_grants: Digested<PendingGrants<'m>>,
    processes: Digested<Processes<'m>>,
    locks: Digested<LockTable<'m>>,
    leases: Digested<Server<'m>>,
    outbox: Outbox,
    vmids: Digested<Vmids<'m>>,
    departed: Digested<Departed<'m>>,
    roster: Digested<Roster<'m>>,
    /// The number of processes that have led the family.
    epoch: u32,
    /// The number of operations that were applied.
    ops: u64,
    /// The signal for all that the last operation was about.
    broadcast: Option<Broadcast>,
    /// The log of a family that outlives its leader, and that of a test.
    observers: [Option<&'m (dyn OpObserver + 'm)>; OBSERVERS],
}

impl<'m> Leader<'m> {
    /// Returns the memory of the tables in bytes.
    pub const fn bytes(capacities: &LeaderCapacities) -> usize {
        memory_sum!(
            Ranges::shared_bytes(capacities.ranges, capacities.id_members),
            Vmids::bytes(
                Vmids::capacity(capacities.ranges, capacities.processes),
                capacities.members
            ),
            PendingGrants::bytes(capacities.ranges, capacities.members),
            Processes::bytes(capacities.processes, &capacities.signals),
            LockTable::bytes(&capacities.locks),
            Departed::bytes(),
            Roster::bytes(capacities.roster),
            Server::bytes(&capacities.leases, capacities.sync_data),
            LockTable::quota_bytes(capacities.members),
            Processes::quota_bytes(capacities.members),
            Server::quota_bytes(capacities.members),
        )
    }

    /// Makes empty tables, allocated from `arena`.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn new(arena: &mut Arena<'m>, capacities: &LeaderCapacities) -> Result<Self, Error> {
        arena.checked(|arena| Self::make(arena, capacities))
    }

    pub(crate) fn make(arena: &mut Arena<'m>, capacities: &LeaderCapacities) -> Self {
        let LeaderCapacities {
            ranges,
            members,
            id_members,
            ..
        } = *capacities;
        Leader {
            ranges: Ranges::make(arena, ranges, capacities.wrap_ids, id_members),
            pending_grants: Digested::new(PendingGrants::new(arena, ranges, members)),
            processes: Digested::new(Processes::new(arena, capacities)),
            locks: Digested::new(LockTable::make(arena, &capacities.locks, members)),
            leases: Digested::new(Server::make(
                arena,
                &capacities.leases,
                capacities.sync_data,
                members,
            )),
            outbox: Outbox::EMPTY,
            vmids: Digested::new(Vmids::new(
                arena,
                Vmids::capacity(capacities.ranges, capacities.processes),
                members,
            )),
            departed: Digested::new(Departed::new(arena)),
            roster: Digested::new(Roster::new(arena, capacities.roster)),
            epoch: 1,
            ops: 0,
            broadcast: None,
            observers: [None; OBSERVERS],
        }
    }

    /// Returns the number of requests that were refused because of a quota.
    pub fn refused_by_quota(&self) -> u64 {
        self.ranges
            .refused_by_quota()
            .wrapping_add(self.pending_grants.quotas().refused_by_quota())
            .wrapping_add(self.vmids.quotas().refused_by_quota())
            .wrapping_add(self.processes.refused_by_quota())
            .wrapping_add(self.locks.refused_by_quota())
            .wrapping_add(self.leases.refused_by_quota())
    }

    /// Returns the next VMID for a process that `by` is about to start; `None` when all are used up, or too
    /// many are not used yet. The caller skips one that a process uses without having been given it.
    fn new_vmid(&mut self, by: Vmid) -> Option<Vmid> {
        let vmid = self.vmids.issue(by)?;
        // A process that used it before was another one.
        self.clear_departed(vmid);
        Some(vmid)
    }

    /// Records that a process is connected.
    fn on_connected(&mut self, vmid: Vmid) {
        self.clear_departed(vmid);
        self.vmids.on_connected(vmid);
        self.roster.add(vmid);
    }

    /// Returns true if a process may connect with that VMID. `is_known` demands that the VMID was given out
    /// or announced; without it a process may also use one that was not given out yet. A VMID that was given
    /// out is used by one process.
    pub fn admits(&self, vmid: Vmid, is_known: bool) -> bool {
        self.vmids.is_unused(vmid) || !is_known && self.vmids.is_ahead(vmid)
    }

    /// Returns true if a process with that VMID was a [member](Leader::is_member), and has left.
    pub(crate) fn has_left(&self, vmid: Vmid) -> bool {
        !self.vmids.is_unused(vmid) && !self.vmids.is_ahead(vmid) && !self.roster.has(vmid)
    }

    /// Returns the process that leads.
    pub fn own(&self) -> Vmid {
        self.processes.own
    }

    /// Returns the number of the process that leads: 1 for the family's first leader, 2 for the second one.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Returns true if the process is connected with the leader, or was with the former leader and has
    /// neither come back nor left since. False for all if the capacities have no roster.
    pub fn is_member(&self, vmid: Vmid) -> bool {
        self.roster.has(vmid)
    }

    /// Returns true if that is a [member](Leader::is_member) that knows the extensions of the
    /// protocol.
    pub fn is_extended_member(&self, vmid: Vmid) -> bool {
        self.roster.is_extended(vmid)
    }

    /// Returns the [member](Leader::is_member) with the lowest VMID above `after`.
    pub fn next_member(&self, after: Option<Vmid>) -> Option<Vmid> {
        self.roster.next(after)
    }

    /// Returns the number of the member's counted frames that were applied: requests for a change, messages
    /// to the server of shared values, signals for all, and answers to signals through the leader.
    pub fn taken(&self, vmid: Vmid) -> Option<u64> {
        self.roster.taken(vmid)
    }

    /// Returns the number of messages that were queued for the member: those of the outbox that are no
    /// answers, and the refusals of messages to the server of shared values.
    pub fn given(&self, vmid: Vmid) -> Option<u64> {
        self.roster.given(vmid)
    }

    /// Makes another process the leader.
    fn succeed(&mut self, to: Vmid) {
        self.epoch = self.epoch.wrapping_add(1);
        self.roster.remove(to);
        self.processes.set_own(to);
        self.leases.end_limits_of(to);
    }

    /// Returns the table of processes.
    pub fn processes(&self) -> &Processes<'m> {
        &self.processes
    }

    /// Adds an observer, which is called with each further operation.
    pub(crate) fn observe(&mut self, observer: &'m (dyn OpObserver + 'm)) {
        let free = self.observers.iter_mut().find(|place| place.is_none());
        if let Some(place) = free {
            *place = Some(observer);
        }
    }

    /// Returns true if no slot of the tables was lost. It is slow, and meant for tests.
    pub fn check_invariants(&mut self) -> bool {
        self.ranges.check_invariants()
            && self.pending_grants.quotas().check_quotas()
            && self.vmids.quotas().check_quotas()
            && self.processes.check_invariants()
            && self.locks.check_invariants()
            && self.leases.check_invariants()
            && self.has_output() == self.poll_transmit().is_some()
    }

    /// Returns true if the charges of the members agree with the tables, and the quotas leave to each
    /// member what they promise. It is slow, and meant for tests.
    pub fn check_shares(&self) -> bool {
        self.ranges.check_quotas()
            && self.pending_grants.quotas().check_quotas()
            && self.vmids.quotas().check_quotas()
            && self.processes.check_quotas()
            && self.locks.check_quotas()
            && self.leases.check_quotas()
    }

    /// Returns how many ranges, IDs given to processes that have not connected, and VMIDs the member pays
    /// for.
    pub fn id_charges_of(&self, vmid: Vmid) -> [usize; 3] {
        [
            self.ranges.charge_of(vmid),
            self.pending_grants.quotas().charge_of(vmid),
            self.vmids.quotas().charge_of(vmid),
        ]
    }

    /// Returns the table of ID ranges.
    pub fn ranges(&self) -> &Ranges<'m> {
        &self.ranges
    }

    /// Returns the owner of an ID; none if it has no owner.
    pub fn owner_of(&mut self, id: Id) -> Option<Vmid> {
        self.ranges.owner_of(id)
    }

    /// Returns what [`Op::ReclaimRanges`] has to do at first to reclaim the ranges of a process.
    pub fn ranges_to_reclaim(&mut self, owner: Vmid) -> u64 {
        self.ranges.begin_reclaim(owner)
    }

    /// Returns the table of file locks.
    pub fn locks(&self) -> &LockTable<'m> {
        &self.locks
    }

    /// Returns the leases of the shared values.
    pub fn leases(&self) -> &Server<'m> {
        &self.leases
    }
}

#[cfg(test)]
mod tests;
