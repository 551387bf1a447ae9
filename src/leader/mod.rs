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
mod codec;
mod forwarding;
mod ids;
mod image;
mod op;
mod outbox;
mod processes;
mod roster;
mod sent_frames;
mod signals;

use core::hash::Hasher;

use crate::error::{Errno, Error, Invalid, Resource};
use crate::store::{Arena, Digest, Digested, Table, bytes_for, total};
use crate::wire::{Hello, IdRange};
use crate::{Id, Vmid};

use crate::file_locks::{LockLimits, LockTable};
use crate::shared_state::{LeaseLimits, Server};
pub use crate::store::{ImageCursor, Malformed, SMALLEST_SLICE};
pub use ids::{Alloc, Ranges};
use ids::{PendingGrants, Vmids};
pub use op::{Op, OpObserver, Outcome, Presence};
use outbox::Outbox;
pub(crate) use outbox::outgoing_frame;
pub use outbox::{Content, Outgoing, OutgoingId};
pub use processes::{ExitNotice, Notice, Processes, SIGPWR};
use roster::Roster;
pub(crate) use sent_frames::SentFrames;
pub use signals::OutgoingSignal;
pub(crate) use signals::{QUEUED, SEND_DIRECTLY, Signals, is_signal};
pub use signals::{SIGNAL_MAX, SignalLimits};

/// The leader's answer to a member that gave an open file to another one, which has not confirmed
/// it yet.
pub(crate) const UNCONFIRMED: u32 = 1;

/// The number of departed members that are remembered: more than can leave while a request is under
/// way.
const MAX_DEPARTED: usize = 256;

/// The greatest number of IDs that one call reclaims.
const GRANTS_PER_STEP: usize = 64;

/// How much a leader has room for, and how it gives out IDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaderCapacities {
    /// ID ranges.
    pub ranges: usize,
    /// Processes, zombies, and names of groups and sessions.
    pub processes: usize,
    /// Processes that may be alive at once, besides the leader's own: no more are started.
    pub peers: usize,
    /// Signals that go through the leader.
    pub signals: SignalLimits,
    /// File locks.
    pub locks: LockLimits,
    /// Shared values.
    pub leases: LeaseLimits,
    /// The largest length of a shared value, in bytes.
    pub sync_data: usize,
    /// Whether IDs that were released are given out again, as in [`Ranges::new`].
    pub wrap_ids: bool,
    /// The most members, the leader included, between which the tables are shared by quotas; 0: there
    /// are no quotas.
    pub members: usize,
    /// The same for the table of ranges. A family that keeps the ranges of dead members has no quotas of
    /// ranges, since nobody would pay for those.
    pub id_members: usize,
    /// The most members whose frames are counted, so that another process can lead the family later; 0: no
    /// other process leads it.
    pub roster: usize,
    /// Whether the process that leads takes over orphans when the family's first process is gone.
    pub adopts: bool,
}

impl LeaderCapacities {
    /// Room for nothing.
    pub const NONE: LeaderCapacities = LeaderCapacities {
        ranges: 0,
        processes: 0,
        peers: usize::MAX,
        signals: SignalLimits::NONE,
        locks: LockLimits::NONE,
        leases: LeaseLimits {
            handles: 0,
            clients: 0,
        },
        sync_data: 0,
        wrap_ids: false,
        members: 0,
        id_members: 0,
        roster: 0,
        adopts: false,
    };
}

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
    observers: [Option<&'m (dyn OpObserver + 'm)>; 2],
}

/// The members that have left recently, in a ring. An ID that was transferred to one of them would
/// never be freed.
struct Departed<'m> {
    vmids: Table<'m, u32>,
    next: usize,
}

impl Departed<'_> {
    fn digest(&self, digest: &mut Digest) {
        digest.add_all(self.vmids.iter());
        digest.write_usize(self.next);
    }

    fn contains(&self, vmid: Vmid) -> bool {
        self.vmids.contains(&vmid.get())
    }

    fn add(&mut self, vmid: Vmid) {
        if let Some(place) = self.vmids.get_mut(self.next) {
            *place = vmid.get();
        }
        self.next = self.next.wrapping_add(1) % MAX_DEPARTED;
    }

    fn remove(&mut self, vmid: Vmid) {
        for place in self.vmids.iter_mut() {
            if *place == vmid.get() {
                *place = 0;
            }
        }
    }
}

impl<'m> Leader<'m> {
    /// The memory of the tables in bytes.
    pub const fn bytes(capacities: &LeaderCapacities) -> usize {
        total!(
            Ranges::shared_bytes(capacities.ranges, capacities.id_members),
            Vmids::bytes(
                Vmids::capacity(capacities.ranges, capacities.processes),
                capacities.members
            ),
            PendingGrants::bytes(capacities.ranges, capacities.members),
            Processes::bytes(capacities.processes, &capacities.signals),
            LockTable::bytes(&capacities.locks),
            bytes_for::<u32>(MAX_DEPARTED),
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
            departed: Digested::new(Departed {
                vmids: arena.alloc_filled(MAX_DEPARTED, 0),
                next: 0,
            }),
            roster: Digested::new(Roster::new(arena, capacities.roster)),
            epoch: 1,
            ops: 0,
            observers: [None; 2],
        }
    }

    /// Returns the number of requests that were refused because of a quota.
    pub fn refused_by_quota(&self) -> u64 {
        [
            self.ranges.refused_by_quota(),
            self.pending_grants.quotas().refused_by_quota(),
            self.vmids.quotas().refused_by_quota(),
            self.processes.refused_by_quota(),
            self.locks.refused_by_quota(),
            self.leases.refused_by_quota(),
        ]
        .into_iter()
        .fold(0, u64::wrapping_add)
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

    /// Whether a process may connect with that VMID. `is_known` demands that the VMID was given out or
    /// announced; without it a process may also use one that was not given out yet. A VMID that was given out
    /// is used by one process.
    pub fn admits(&self, vmid: Vmid, is_known: bool) -> bool {
        self.vmids.is_unused(vmid) || !is_known && self.vmids.is_ahead(vmid)
    }

    /// Returns the process that leads.
    pub fn own(&self) -> Vmid {
        self.processes.own
    }

    /// Returns the number of the process that leads: 1 for the family's first leader, 2 for the second one.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether the process is connected with the leader, or was with the former leader and has neither come
    /// back nor left since. False for all if the capacities have no roster.
    pub fn is_member(&self, vmid: Vmid) -> bool {
        self.roster.has(vmid)
    }

    /// Whether that is a [member](Leader::is_member) that knows the extensions of the protocol.
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

    /// Another process leads from now on.
    fn succeed(&mut self, to: Vmid) {
        self.epoch = self.epoch.wrapping_add(1);
        self.roster.remove(to);
        self.processes.set_own(to);
    }

    /// A process that has left is not the one that uses its VMID from now on.
    fn clear_departed(&mut self, vmid: Vmid) {
        self.departed.remove(vmid);
    }

    fn mark_departed(&mut self, vmid: Vmid) {
        if !self.departed.contains(vmid) {
            self.departed.add(vmid);
        }
    }

    /// Reclaims a portion of the file locks of a member that left. Returns what is left to do.
    fn reclaim_locks(&mut self, vmid: Vmid, left: u64) -> u64 {
        // From now on nobody gives it anything, so the portions find all that it has.
        self.mark_departed(vmid);
        if !self.pending_grants.confirm(vmid, GRANTS_PER_STEP, |_| ()) {
            return left;
        }
        let processes = &self.processes;
        // A child that may still connect keeps the open files that it was given.
        self.locks
            .reclaim_portion(vmid, left, &|child| !processes.is_starting(child))
    }

    /// Reclaims a portion of the ranges of a process that left. Returns what is left to do.
    fn reclaim_ranges(&mut self, owner: Vmid, left: u64) -> u64 {
        let processes = &self.processes;
        // The pid of a dead process that names a group or a session belongs to the leader's process.
        let keep = |id| Some(processes.own).filter(|_| processes.is_pid_in_use(id));
        self.ranges.reclaim_portion_but(owner, left, &keep)
    }

    /// Records that a member left. Its process is dead, and its pid stays in use as long as
    /// necessary; the caller reclaims its other ranges with [`Ranges::reclaim`], and the IDs that
    /// it gave to others with [`Leader::revoke_grants`].
    fn reclaim_process(&mut self, vmid: Vmid) {
        self.processes.on_death(vmid, &mut self.ranges);
        self.ranges.on_left(vmid);
        self.pending_grants.on_left(vmid);
        self.locks.on_left(vmid);
        self.mark_departed(vmid);
        self.vmids.on_left(vmid);
        self.roster.remove(vmid);
    }

    /// Confirms a portion of the IDs and open files that were given to that process, since it is connected.
    /// Returns what is left to do.
    fn confirm_grants(&mut self, to: Vmid, left: u64, allows_notices: bool) -> u64 {
        if allows_notices {
            self.roster.mark_extended(to);
        }
        if !self.confirm_ids(to) {
            return left;
        }
        self.locks.confirm_portion(to, left, allows_notices)
    }

    /// Confirms a portion of the IDs that were given to that process, since it is connected. True when that
    /// was all.
    fn confirm_ids(&mut self, to: Vmid) -> bool {
        let ranges = &mut self.ranges;
        let charge = |id| ranges.charge_receiver(id, to);
        self.pending_grants.confirm(to, GRANTS_PER_STEP, charge)
    }

    /// Reclaims a portion of the IDs that a member that left had given to processes which have not
    /// connected, unless another process starts them: a portion, since the table is behind a
    /// spinlock. True when that was all.
    fn revoke_grants(&mut self, giver: Vmid) -> bool {
        if !self.vmids.release(giver, GRANTS_PER_STEP) {
            return false;
        }
        let (ranges, processes) = (&mut self.ranges, &self.processes);
        self.pending_grants
            .revoke(giver, GRANTS_PER_STEP, |id, to| {
                let starter = processes.find_starter(to);
                match starter {
                    Some(starter) => ranges.charge_single(id, starter),
                    None if ranges.is_single(id, to) => ranges.free_single(id),
                    None => {}
                }
                starter
            })
    }

    /// Gives an ID of a range of `from` to `to`, as [`Ranges::change_owner`] does. If `to` has not
    /// connected when `from` leaves, the ID is freed.
    ///
    /// # Errors
    /// As there; [`Error::NoSuchProcess`] if `to` has left, [`Error::Full`] if too many IDs are
    /// given to processes that have not connected.
    fn change_owner(
        &mut self,
        from: Vmid,
        id: Id,
        to: Vmid,
        presence: Presence,
    ) -> Result<(), Error> {
        if self.departed.contains(to) {
            return Err(Error::NoSuchProcess);
        }
        if self.processes.is_pid_in_use(id) {
            return Err(Error::Refused {
                errno: Errno::EPERM,
                by: None,
            });
        }
        if to == from || to == self.own() || presence.is_connected() {
            return self.ranges.change_owner(from, id, to);
        }
        if !self.pending_grants.has_room(from) {
            return Err(Error::Full(Resource::Ranges));
        }
        self.ranges.promise(from, id, to)?;
        self.pending_grants.record(from, id, to);
        Ok(())
    }

    /// Releases a range, as [`Ranges::release`] does.
    ///
    /// # Errors
    /// As there; and [`Error::Refused`] (`EPERM`) for the pid of a process, which is freed when its
    /// parent has reaped it.
    fn release(&mut self, from: Vmid, range: IdRange) -> Result<(), Error> {
        if self.processes.is_pid_in_use(range.start) {
            return Err(Error::Refused {
                errno: Errno::EPERM,
                by: None,
            });
        }
        self.ranges.release(from, range)
    }

    /// Returns the table of processes.
    pub fn processes(&self) -> &Processes<'m> {
        &self.processes
    }

    /// Adds the process of `from`, which joins.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it does not own the pid as a range of one ID; [`Error::Full`] if there
    /// is no room.
    fn join(&mut self, from: Vmid, hello: &Hello) -> Result<(), Error> {
        if hello.pid == 0 {
            return Ok(());
        }
        if !self.ranges.is_single(hello.pid, from) {
            return Err(Error::Invalid(Invalid::Pid));
        }
        self.processes
            .join(from, hello.pid, Vmid::new(hello.parent))
    }

    fn start(&mut self, from: Vmid, vmid: u32, pid: Id) -> Result<(), Error> {
        let vmid = Vmid::new(vmid).ok_or(Error::Invalid(Invalid::Vmid))?;
        // A child's VMID was assigned before; the leader's own is not that of a child.
        let is_given = !self.vmids.is_ahead(vmid);
        // It owns its pid, which its parent has given to it, and it has not connected.
        let is_granted = self.pending_grants.recipient(from, pid) == Some(vmid);
        let is_its = is_granted && self.ranges.is_single(pid, vmid);
        if vmid == self.own() || !is_given || !is_its {
            return Err(Error::Invalid(Invalid::Pid));
        }
        self.processes.start(from, vmid, pid)
    }

    /// Records that a member holds an open file (`held`), or has closed it; or, with another's
    /// VMID, that it gives the open file to the other, or takes it back. `presence` is the
    /// connection of the other. Returns false if only a portion of the locks of a closed file was
    /// released.
    ///
    /// # Errors
    /// `ESRCH` if the other has left, `ENOLCK` if there is no room; then nothing has changed.
    fn update_open_file(
        &mut self,
        from: Vmid,
        other: Option<Vmid>,
        open_file: u64,
        held: bool,
        presence: Presence,
    ) -> Result<bool, Errno> {
        let is_connected = presence.is_connected();
        let is_noted = match (other, held) {
            (Some(to), true) if self.departed.contains(to) => return Err(Errno::ESRCH),
            (Some(to), true) if is_connected && !self.processes.is_starting(to) => {
                self.locks.send_open_file(from, to, open_file)
            }
            (Some(to), true) => {
                let is_noted = self.locks.inherit_open_file(from, to, open_file);
                if is_connected {
                    self.locks.mark_open_file_joined(to, open_file);
                }
                is_noted
            }
            (None, true) => self.locks.accept_open_file(from, open_file),
            (Some(to), false) => {
                self.locks.retract_open_file(from, to, open_file);
                true
            }
            (None, false) => {
                return Ok(self.locks.close_open_file_portion(from, open_file));
            }
        };
        if !is_noted {
            return Err(Errno::ENOLCK);
        }
        if let Some(to) = other
            && held
            && presence == Presence::Extended
        {
            self.locks.allow_notice(to, open_file);
        }
        Ok(true)
    }

    /// Adds an observer, which is called with each further operation: the log of a family that outlives its
    /// leader, and that of a test.
    pub(crate) fn observe(&mut self, observer: &'m (dyn OpObserver + 'm)) {
        let free = self.observers.iter_mut().find(|place| place.is_none());
        if let Some(place) = free {
            *place = Some(observer);
        }
    }

    /// Returns true if no slot of the tables was lost. Slow: for tests.
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
    /// member what they promise. Slow: for tests.
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

    /// The leases of the shared values.
    pub fn leases(&self) -> &Server<'m> {
        &self.leases
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::*;
    use crate::wire::{KillTarget, PidKill};

    const SIGNALS: SignalLimits = SignalLimits {
        targets: 4,
        queued: 4,
    };

    /// Runs a test on a new leader whose own process has one range of IDs.
    fn with_leader(test: impl FnOnce(&mut Leader<'_>, IdRange)) {
        let capacities = LeaderCapacities {
            ranges: 8,
            processes: 4,
            signals: SIGNALS,
            wrap_ids: true,
            ..LeaderCapacities::NONE
        };
        let bytes = Leader::bytes(&capacities);
        let mut memory = Box::new_uninit_slice(bytes);
        let mut arena = Arena::new(&mut memory);
        let mut leader = Leader::new(&mut arena, &capacities).unwrap();
        let Alloc::Range(range) = leader.ranges.alloc(Vmid::LEADER) else {
            panic!("the new table has no range to give");
        };
        test(&mut leader, range);
    }

    #[test]
    fn an_answer_to_a_signal_that_was_not_sent_is_rejected_and_breaks_no_invariant() {
        with_leader(|leader, _| {
            let member = leader.new_vmid(Vmid::LEADER).unwrap();
            let kill = PidKill {
                sender: 1,
                pid: 2,
                id: 2,
                signal: 15,
                target: KillTarget::Process,
            };
            leader.apply(&Op::Signal(member, kill));
            let answer = Op::SignalAnswered {
                from: member,
                seq: u64::MAX >> 1,
                result: Ok(()),
            };
            assert_eq!(leader.apply(&answer), Outcome::Rejected);
        });
    }

    #[test]
    fn a_child_with_the_leaders_vmid_or_an_unassigned_one_is_refused() {
        with_leader(|leader, range| {
            let parent = leader.new_vmid(Vmid::LEADER).unwrap();
            let child = leader.new_vmid(Vmid::LEADER).unwrap();
            let hello = |pid| Hello {
                version: Hello::VERSION,
                features: 0,
                pid,
                parent: 0,
            };
            let of_parent = range.start;
            leader
                .ranges
                .change_owner(Vmid::LEADER, of_parent, parent)
                .unwrap();
            leader.join(parent, &hello(of_parent)).unwrap();
            let not_given = Vmid::new(child.get() + 1).unwrap();
            let Alloc::Range(range) = leader.ranges.alloc(parent) else {
                panic!("a second range is to be had");
            };
            for (pid, vmid) in (range.start..).zip([Vmid::LEADER, not_given, child]) {
                leader
                    .change_owner(parent, pid, vmid, Presence::Absent)
                    .unwrap();
                let started = leader.start(parent, vmid.get(), pid);
                assert_eq!(started.is_ok(), vmid == child, "{vmid:?}");
            }
        });
    }

    #[test]
    fn a_child_that_the_leader_could_not_be_connected_with_is_not_started() {
        with_leader(|leader, range| {
            let hello = |pid| Hello {
                version: Hello::VERSION,
                features: 0,
                pid,
                parent: 0,
            };
            leader
                .change_owner(Vmid::LEADER, range.start, Vmid::LEADER, Presence::Absent)
                .unwrap();
            leader.join(Vmid::LEADER, &hello(range.start)).unwrap();
            leader.processes.peers = 1;
            let [one, two] = [(); 2].map(|()| leader.new_vmid(Vmid::LEADER).unwrap());
            let mut start = |pid, vmid: Vmid| {
                leader
                    .change_owner(Vmid::LEADER, pid, vmid, Presence::Absent)
                    .unwrap();
                leader.start(Vmid::LEADER, vmid.get(), pid)
            };
            assert_eq!(start(range.start + 1, one), Ok(()));
            let full = Err(Error::Full(Resource::Peers));
            assert_eq!(start(range.start + 2, two), full);
        });
    }

    #[test]
    fn starting_a_connected_process_or_one_with_a_pid_of_another_is_refused() {
        with_leader(|leader, range| {
            let [parent, connected, others] =
                [(); 3].map(|()| leader.new_vmid(Vmid::LEADER).unwrap());
            let mut pids = range.start..;
            let mut next = || pids.next().unwrap();
            let of_parent = next();
            leader
                .change_owner(Vmid::LEADER, of_parent, parent, Presence::Absent)
                .unwrap();
            leader.on_connected(parent);
            let hello = Hello {
                version: Hello::VERSION,
                features: 0,
                pid: of_parent,
                parent: 0,
            };
            leader.join(parent, &hello).unwrap();
            let Alloc::Range(own) = leader.ranges.alloc(parent) else {
                panic!("a second range is to be had");
            };
            leader
                .change_owner(parent, own.start, connected, Presence::Absent)
                .unwrap();
            leader.on_connected(connected);
            assert_eq!(leader.confirm_grants(connected, u64::MAX, false), 0);
            let start = leader.start(parent, connected.get(), own.start);
            assert_eq!(start, Err(Error::Invalid(Invalid::Pid)), "it has come");
            let of_others = next();
            leader
                .change_owner(Vmid::LEADER, of_others, others, Presence::Absent)
                .unwrap();
            let start = leader.start(parent, others.get(), of_others);
            assert_eq!(
                start,
                Err(Error::Invalid(Invalid::Pid)),
                "it is another's child"
            );
        });
    }
}
