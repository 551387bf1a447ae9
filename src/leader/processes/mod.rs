//! Every process of the family: its parent, group and session, and the use of its pid.
//!
//! A pid stays in use while its process lives, while the process is a zombie that was not reaped,
//! and while the pid names a group or a session. Its entry stays as long.

mod entry;
mod exit_notices;
mod groups;
mod life;
mod notices;
mod orphans;
mod quotas;
mod signals;

use crate::error::{Error, Invalid, Resource};
use crate::invariant::{Count, OrBroken};
use crate::store::{
    Arena, Digest, Digested, Quotas, SortedMap, Steps, Table, TransmitQueue, bytes_for, image,
    memory_sum,
};
use crate::{Id, Vmid, parts};
use core::hash::Hash;

use super::LeaderCapacities;
use super::signals::{SignalLimits, Signals};

use entry::{Entry, FREE_ENTRY, Life};
pub use exit_notices::ExitNotice;
pub(in crate::leader) use notices::DueNotice;
pub use notices::Notice;
#[cfg(debug_assertions)]
pub(super) use orphans::ANCESTORS;
use quotas::PROCESSES;
pub(in crate::leader) use signals::Destination;

/// The signal in the exit report of a child that ended without sending one: SIGPWR.
pub const SIGPWR: u32 = 30;

image!(Processes<'_> {
    fields {
        free_count,
        starts,
        deaths,
        orphaned_starts,
        last_orphaned,
        stopped,
        own,
        own_has_ended,
    }
    tables {
        entries: by_pid.peak() => FREE_ENTRY,
        free: free.len() => 0,
    }
    parts { by_pid, by_vmid, outbox, signals, quotas }
    omitted { peers, adopts, steps }
    valid { *free_count <= free.len() && *stopped <= free.len() && *orphaned_starts <= free.len() }
});

/// The table of processes.
pub struct Processes<'m> {
    entries: Table<'m, Entry>,
    free: Table<'m, u32>,
    free_count: usize,
    by_pid: SortedMap<'m>,
    by_vmid: SortedMap<'m>,
    /// The limit for living processes besides the leader's own.
    pub(super) peers: usize,
    /// Whether the process that leads takes over orphans when the first process is gone.
    adopts: bool,
    starts: u64,
    deaths: u64,
    /// The number of starting processes whose parent has ended.
    orphaned_starts: usize,
    /// The highest number in [`Entry::orphaned`] so far.
    last_orphaned: u64,
    /// The number of stopped processes; while it is 0, orphaned groups need no signals.
    stopped: usize,
    /// The processes that an exit notice or a notice about a relative is due for.
    outbox: TransmitQueue<'m>,
    pub(crate) signals: Digested<Signals<'m>>,
    /// The process that leads.
    pub(super) own: Vmid,
    /// The process that leads has ended, though its node may still serve the others.
    own_has_ended: bool,
    quotas: Quotas<'m>,
    steps: Steps,
}

impl<'m> Processes<'m> {
    pub(super) const fn bytes(capacity: usize, signals: &SignalLimits) -> usize {
        memory_sum!(
            bytes_for::<Entry>(capacity),
            bytes_for::<u32>(capacity),
            SortedMap::bytes(capacity),
            SortedMap::bytes(capacity),
            TransmitQueue::bytes(capacity),
            Signals::bytes(signals),
        )
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacities: &LeaderCapacities) -> Self {
        let capacity = capacities.processes;
        Processes {
            entries: arena.alloc_filled(capacity, &FREE_ENTRY),
            free: arena.alloc_table(capacity, |index| {
                u32::try_from(capacity.minus(index).minus(1)).or_broken(u32::MAX)
            }),
            free_count: capacity,
            by_pid: SortedMap::new(arena, capacity),
            by_vmid: SortedMap::new(arena, capacity),
            peers: capacities.peers,
            adopts: capacities.adopts,
            starts: 0,
            deaths: 0,
            orphaned_starts: 0,
            last_orphaned: 0,
            stopped: 0,
            outbox: TransmitQueue::new(arena, capacity),
            signals: Digested::new(Signals::new(arena, &capacities.signals)),
            own: Vmid::LEADER,
            own_has_ended: false,
            quotas: Quotas::new(
                arena,
                capacities.members,
                &[capacity, capacities.peers.min(capacity)],
            ),
            steps: Steps::default(),
        }
    }

    pub(super) fn digest(&self, digest: &mut Digest) {
        // The free slots in their order determine the used ones.
        digest.add_all(self.free.iter().take(self.free_count));
        let used = self.entries.iter().filter(|entry| entry.life != Life::Free);
        digest.add_all(used);
        (
            self.starts,
            self.deaths,
            self.orphaned_starts,
            self.last_orphaned,
        )
            .hash(digest);
        self.stopped.hash(digest);
        self.outbox.digest(digest);
        (self.own, self.own_has_ended, self.peak()).hash(digest);
        self.signals.digest(digest, Signals::digest);
        self.quotas.digest(digest);
    }

    /// Returns the greatest number of entries.
    #[cfg(debug_assertions)]
    pub(super) fn capacity(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Returns the number of table entries that were visited.
    #[cfg(debug_assertions)]
    pub(super) fn steps(&self) -> u64 {
        [
            self.steps.get(),
            self.by_pid.steps(),
            self.by_vmid.steps(),
            self.signals.steps(),
        ]
        .into_iter()
        .fold(0, u64::wrapping_add)
    }

    /// Returns the number of entries before which all are that were ever used: slots are given out from
    /// the lowest on. A look at all processes looks at these.
    fn used(&self) -> usize {
        if parts::PROCESSES {
            self.by_pid.peak()
        } else {
            0
        }
    }

    #[inline(never)]
    fn used_entries(&self) -> &[Entry] {
        self.entries.get(..self.used()).or_broken(&[])
    }

    /// Iterates over all entries that were ever used.
    fn each_entry(&self) -> impl Iterator<Item = &Entry> {
        let used = self.used_entries().iter();
        used.inspect(|_| self.steps.count())
    }

    /// Returns the number of entries in use: processes, zombies, and pids of groups and sessions.
    pub fn len(&self) -> usize {
        self.by_pid.len()
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the highest number so far.
    pub fn peak(&self) -> usize {
        self.by_pid.peak()
    }

    /// Returns true if the member's process has not joined yet.
    pub fn is_starting(&self, vmid: Vmid) -> bool {
        self.find_by_vmid(vmid)
            .is_some_and(|entry| entry.life == Life::Starting)
    }

    /// Returns true if that is the pid of the member's process, and the process has joined.
    pub fn is_running(&self, vmid: Vmid, pid: Id) -> bool {
        self.find_by_vmid(vmid)
            .is_some_and(|entry| entry.life == Life::Running && entry.pid == pid)
    }

    /// Returns the process that is responsible for the member's process, if that has not joined
    /// yet: its parent, or the leader if it has none.
    pub(super) fn find_starter(&self, vmid: Vmid) -> Option<Vmid> {
        let child = self.find_by_vmid(vmid)?;
        let parent = self.find_by_pid(child.parent);
        let starter = parent.and_then(|parent| Vmid::new(parent.vmid));
        (child.life == Life::Starting).then_some(starter.unwrap_or(self.own))
    }

    /// Returns the process of this pid, if it is a child of the member that has not joined yet and was not reaped.
    pub(super) fn find_starting_child(&self, parent: Vmid, pid: Id) -> Option<Vmid> {
        let entry = self.find_by_pid(pid)?;
        let is_child = self.find_by_vmid(parent)?.pid == entry.parent;
        let is_starting = entry.life == Life::Starting && !entry.reaped;
        Vmid::new(entry.vmid).filter(|_| is_child && is_starting)
    }

    /// Returns true if the process is being started and was abandoned: what it had is being reclaimed.
    pub(crate) fn is_abandoned(&self, vmid: Vmid) -> bool {
        self.find_by_vmid(vmid)
            .is_some_and(|entry| entry.life == Life::Starting && entry.reaped)
    }

    /// Makes what is not in an image. Returns false if the image was none.
    pub(super) fn complete_image(&mut self) -> bool {
        let slots = self.entries.len();
        let free = self.free.get(..self.free_count);
        let is_free = |slot: &u32| {
            let entry = self.entries.get(*slot as usize);
            entry.is_some_and(|entry| entry.life == Life::Free)
        };
        let is_valid = free.is_some_and(|free| free.iter().all(is_free))
            && self.by_pid.is_valid(slots)
            && self.by_vmid.is_valid(slots)
            && self.outbox.is_valid();
        is_valid && self.quotas.complete_image() && self.signals.is_valid()
    }

    /// Returns true if any process but that of `vmid` is alive.
    pub fn has_living_except(&self, vmid: Vmid) -> bool {
        let mut entries = self.each_entry();
        entries.any(|entry| entry.is_alive() && entry.vmid != vmid.get())
    }

    fn find_by_pid(&self, pid: Id) -> Option<&Entry> {
        self.entries.get(self.slot_of_pid(pid)? as usize)
    }

    fn find_by_pid_mut(&mut self, pid: Id) -> Option<&mut Entry> {
        let slot = self.slot_of_pid(pid)?;
        self.entries.get_mut(slot as usize)
    }

    fn find_by_vmid(&self, vmid: Vmid) -> Option<&Entry> {
        self.entries.get(self.slot_of(vmid)? as usize)
    }

    fn slot_of_pid(&self, pid: Id) -> Option<u32> {
        if parts::PROCESSES {
            self.by_pid.get(pid)
        } else {
            None
        }
    }

    fn slot_of(&self, vmid: Vmid) -> Option<u32> {
        if parts::PROCESSES {
            self.by_vmid.get(vmid.get())
        } else {
            None
        }
    }

    /// Returns true if the ID is a process's pid, or one that still names a group or session.
    pub(super) fn is_pid_in_use(&self, id: Id) -> bool {
        self.slot_of_pid(id).is_some()
    }

    /// Returns the process to which a pid in use belongs when `owner` ends: to `owner` itself if it is its own pid,
    /// until its end is recorded, and to the leader's process if it only names a group or session.
    pub(super) fn owner_of_pid(&self, id: Id, owner: Vmid) -> Option<Vmid> {
        let entry = self.find_by_pid(id)?;
        let is_own = entry.vmid == owner.get();
        Some(if is_own { owner } else { self.own })
    }

    /// Adds an entry, which is charged to `payer`.
    fn add(&mut self, payer: Vmid, entry: Entry) -> Result<(), Error> {
        let full = Error::Full(Resource::Processes);
        if !parts::PROCESSES {
            return Err(full);
        }
        let free_count = self.free_count.checked_sub(1).ok_or(full)?;
        let slot = *self.free.get(free_count).ok_or(full)?;
        if self.by_vmid.get(entry.vmid).is_some() || self.is_pid_in_use(entry.pid) {
            return Err(Error::Invalid(Invalid::Pid));
        }
        if !self.quotas.may_grow(payer, PROCESSES, 1) {
            return Err(full);
        }
        let payer = self.quotas.charge_allowed(payer, PROCESSES, 1);
        self.by_pid.insert(entry.pid, slot);
        self.by_vmid.insert(entry.vmid, slot);
        self.free_count = free_count;
        self.starts.increment();
        if let Some(slot) = self.entries.get_mut(slot as usize) {
            *slot = Entry {
                start_seq: self.starts,
                payer,
                ..entry
            };
        }
        self.adjust_ref_count(entry.group, 1);
        self.adjust_ref_count(entry.session, 1);
        Ok(())
    }

    /// Adds `change` to the number of processes with this pid as group or session.
    fn adjust_ref_count(&mut self, pid: Id, change: i32) {
        if let Some(entry) = self.find_by_pid_mut(pid) {
            entry.ref_count = entry
                .ref_count
                .checked_add_signed(change)
                .or_broken(entry.ref_count);
        }
    }

    /// Returns true if the tables are consistent. It is slow, and meant for tests.
    pub fn check_invariants(&self) -> bool {
        let used = self
            .entries
            .iter()
            .filter(|entry| entry.life != Life::Free)
            .count();
        let named = |pid: Id| {
            self.entries
                .iter()
                .filter(|entry| entry.life != Life::Free)
                .map(|entry| u32::from(entry.group == pid).plus(u32::from(entry.session == pid)))
                .sum::<u32>()
        };
        self.signals.check_invariants()
            && self.check_outbox()
            && self.check_quotas()
            && used == self.by_pid.len()
            && used.plus(self.free_count) == self.entries.len()
            && self
                .entries
                .iter()
                .filter(|entry| entry.life != Life::Free)
                .all(|entry| {
                    entry.ref_count == named(entry.pid)
                        && (entry.exists() || entry.ref_count > 0)
                        && (entry.parent == 0 || self.is_pid_in_use(entry.parent))
                })
    }
}
