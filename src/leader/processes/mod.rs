//! Every process of the family: its parent, group and session, and the use of its pid.
//!
//! A pid stays in use while its process lives, while the process is a zombie that was not reaped,
//! and while the pid names a group or a session. Its entry stays as long.

mod exit_notices;
mod groups;
mod notices;
mod orphans;
mod quotas;
mod signals;

use crate::error::{Error, Invalid, Resource};
use crate::invariant::{Count, OrBroken};
use crate::store::{
    Arena, Digest, Digested, Payer, Quotas, SortedMap, Steps, Table, TransmitQueue, bytes_for,
    codes, entry, image, total,
};
use crate::wire::{ExitReport, ProcessFlags};
use crate::{Id, Vmid};
use core::hash::Hash;

use super::signals::{SignalLimits, Signals};
use super::{LeaderCapacities, Ranges};

pub use exit_notices::ExitNotice;
pub(in crate::leader) use notices::DueNotice;
pub use notices::Notice;
use quotas::PROCESSES;
pub(in crate::leader) use signals::Destination;

/// The signal in the exit report of a child that ended without sending one: SIGPWR.
pub const SIGPWR: u32 = 30;

#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
enum Life {
    #[default]
    Free,
    Starting,
    Running,
    Dead,
}

#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Copy, Hash)]
struct Entry {
    life: Life,
    /// Its parent has reaped it, or never will.
    reaped: bool,
    /// Its parent must still be notified.
    notice_due: bool,
    /// It is gone, and its children are being given away: it gets no others.
    is_leaving: bool,
    flags: ProcessFlags,
    pid: Id,
    /// 0 once it is dead.
    vmid: u32,
    /// 0 for none.
    parent: Id,
    group: Id,
    session: Id,
    /// The number of unreaped processes with its pid as their group, plus those with its pid as
    /// their session.
    ref_count: u32,
    start_seq: u64,
    /// Rises from death to death; 0 while it lives.
    death_seq: u64,
    /// If it requested notices of its parent's end: the number of ends that it must still be
    /// notified of.
    parents_ended: Option<u32>,
    /// A child that it inherited during that child's start was abandoned: it must be notified.
    child_abandoned: bool,
    /// If its parent ended during its start: the number of that event, or of the last restart of
    /// its time to join. Later events have higher numbers; 0 for none.
    orphaned: u64,
    /// Its exit report.
    exit: Option<ExitReport>,
    payer: Payer,
}

codes!(Life {
    Free = 0,
    Starting = 1,
    Running = 2,
    Dead = 3
});

entry!(Entry {
    life,
    reaped,
    notice_due,
    is_leaving,
    flags,
    pid,
    vmid,
    parent,
    group,
    session,
    ref_count,
    start_seq,
    death_seq,
    parents_ended,
    child_abandoned,
    orphaned,
    exit,
    payer,
});

image!(Processes<'_> {
    fields {
        free_count,
        starts,
        deaths,
        orphaned_starts,
        last_orphaned,
        stopped,
        own,
        own_has_left,
    }
    tables {
        entries: by_pid.peak() => FREE_ENTRY,
        free: free.len() => 0,
    }
    parts { by_pid, by_vmid, outbox, signals, quotas }
    omitted { peers, adopts, steps }
    valid { *free_count <= free.len() && *stopped <= free.len() && *orphaned_starts <= free.len() }
});

const FREE_ENTRY: Entry = Entry {
    life: Life::Free,
    reaped: false,
    notice_due: false,
    is_leaving: false,
    flags: ProcessFlags::empty(),
    pid: 0,
    vmid: 0,
    parent: 0,
    group: 0,
    session: 0,
    ref_count: 0,
    start_seq: 0,
    death_seq: 0,
    parents_ended: None,
    child_abandoned: false,
    orphaned: 0,
    exit: None,
    payer: Payer::NOBODY,
};

impl Entry {
    fn is_alive(&self) -> bool {
        matches!(self.life, Life::Starting | Life::Running)
    }

    /// Returns true if it is alive, or a zombie.
    fn exists(&self) -> bool {
        self.is_alive() || self.life == Life::Dead && !self.reaped
    }
}

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
    own_has_left: bool,
    quotas: Quotas<'m>,
    steps: Steps,
}

impl<'m> Processes<'m> {
    pub(super) const fn bytes(capacity: usize, signals: &SignalLimits) -> usize {
        total!(
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
            entries: arena.alloc_filled(capacity, FREE_ENTRY),
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
            own_has_left: false,
            quotas: Quotas::new(arena, capacities.members, &[capacity]),
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
        (self.own, self.own_has_left, self.peak()).hash(digest);
        self.signals.digest(digest, Signals::digest);
        self.quotas.digest(digest);
    }

    /// The greatest number of entries.
    #[cfg(debug_assertions)]
    pub(super) fn capacity(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The number of table entries that were visited.
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

    /// Iterates over all entries.
    fn each_entry(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().inspect(|_| self.steps.count())
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

    /// Returns the member with the process of this pid, if that has not joined yet.
    pub(super) fn find_starting(&self, pid: Id) -> Option<Vmid> {
        let entry = self.find_by_pid(pid)?;
        Vmid::new(entry.vmid).filter(|_| entry.life == Life::Starting)
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
        self.entries
            .iter()
            .any(|entry| entry.is_alive() && entry.vmid != vmid.get())
    }

    fn find_by_pid(&self, pid: Id) -> Option<&Entry> {
        self.entries.get(self.by_pid.get(pid)? as usize)
    }

    fn find_by_pid_mut(&mut self, pid: Id) -> Option<&mut Entry> {
        self.entries.get_mut(self.by_pid.get(pid)? as usize)
    }

    fn find_by_vmid(&self, vmid: Vmid) -> Option<&Entry> {
        self.entries.get(self.by_vmid.get(vmid.get())? as usize)
    }

    /// Returns true if the ID is a process's pid, or one that still names a group or session.
    pub(super) fn is_pid_in_use(&self, id: Id) -> bool {
        self.by_pid.get(id).is_some()
    }

    /// Adds an entry, which is charged to `payer`.
    fn add(&mut self, payer: Vmid, entry: Entry) -> Result<(), Error> {
        let full = Error::Full(Resource::Processes);
        let free_count = self.free_count.checked_sub(1).ok_or(full)?;
        let slot = *self.free.get(free_count).ok_or(full)?;
        if self.by_vmid.get(entry.vmid).is_some() || self.is_pid_in_use(entry.pid) {
            return Err(Error::Invalid(Invalid::Pid));
        }
        if !self.quotas.may_grow(payer, PROCESSES, 1) {
            return Err(full);
        }
        let payer = self.quotas.charge(payer, PROCESSES, 1);
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

    /// Adds a child that the process of `from` starts, and that has its VMID and its pid already.
    ///
    /// # Errors
    /// [`Error::Full`] also if the leader could not be connected with one more process: the child
    /// would start and be refused then.
    pub(super) fn start(&mut self, from: Vmid, vmid: Vmid, pid: Id) -> Result<(), Error> {
        let parent = *self.find_by_vmid(from).ok_or(Error::NoSuchProcess)?;
        let has_own = self.by_vmid.get(self.own.get()).is_some();
        if self.by_vmid.len().minus(usize::from(has_own)) >= self.peers {
            return Err(Error::Full(Resource::Peers));
        }
        self.add(
            from,
            Entry {
                life: Life::Starting,
                pid,
                vmid: vmid.get(),
                parent: parent.pid,
                group: parent.group,
                session: parent.session,
                ..FREE_ENTRY
            },
        )
    }

    /// Records that a process joins under its pid. The table has it already if its parent announced
    /// its start; otherwise it becomes `parent`'s child if that is known, and leads a group and
    /// session if not.
    pub(super) fn join(&mut self, from: Vmid, pid: Id, parent: Option<Vmid>) -> Result<(), Error> {
        if let Some(slot) = self.by_vmid.get(from.get()) {
            let entry = self.entries.get(slot as usize);
            if entry.is_none_or(|entry| entry.pid != pid) {
                return Err(Error::Invalid(Invalid::Pid));
            }
            self.runs(slot);
            return Ok(());
        }
        let parent = parent.and_then(|parent| self.find_by_vmid(parent)).copied();
        self.add(
            from,
            Entry {
                life: Life::Running,
                pid,
                vmid: from.get(),
                parent: parent.map_or(0, |parent| parent.pid),
                group: parent.map_or(pid, |parent| parent.group),
                session: parent.map_or(pid, |parent| parent.session),
                ..FREE_ENTRY
            },
        )
    }

    /// Records that the member's process runs without having joined: it is one in C.
    pub(super) fn mark_running_unjoined(&mut self, vmid: Vmid) {
        if self.is_starting(vmid)
            && let Some(slot) = self.by_vmid.get(vmid.get())
        {
            self.runs(slot);
        }
    }

    /// Records that a starting process runs.
    fn runs(&mut self, slot: u32) {
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            entry.life = Life::Running;
            if core::mem::take(&mut entry.orphaned) != 0 {
                self.orphaned_starts.decrement();
            }
            if let Some(vmid) = Vmid::new(entry.vmid) {
                self.signals.mark_joined(vmid);
                self.charge_to(slot, vmid);
            }
            self.update_outbox(slot);
        }
    }

    /// Records the exit report of a process.
    pub(super) fn record_exit(&mut self, from: Vmid, exit: ExitReport) -> bool {
        match self.find_by_pid_mut(exit.pid) {
            Some(entry) if entry.vmid == from.get() => {
                entry.exit = Some(exit);
                true
            }
            _ => false,
        }
    }

    /// Records that the parent has reaped its child, or will not.
    pub(super) fn reap(&mut self, from: Vmid, pid: Id, ranges: &mut Ranges<'_>) -> bool {
        let parent = self.find_by_vmid(from).map(|parent| parent.pid);
        match self.find_by_pid_mut(pid) {
            Some(entry) if Some(entry.parent) == parent && !entry.reaped => {
                entry.reaped = true;
                entry.notice_due = false;
                self.update_outbox_of(pid);
                self.release_if_reaped(pid, ranges);
                true
            }
            _ => false,
        }
    }

    /// If the process is dead and reaped, removes it from its group and session, and frees the pids
    /// that are not in use any more.
    fn release_if_reaped(&mut self, pid: Id, ranges: &mut Ranges<'_>) {
        let Some(entry) = self.find_by_pid_mut(pid) else {
            return;
        };
        if entry.life != Life::Dead || !entry.reaped {
            return;
        }
        let (group, session) = (entry.group, entry.session);
        (entry.group, entry.session) = (0, 0);
        // No process asks for it any more, but it may still name a group or session.
        ranges.give_single(pid, self.own);
        self.adjust_ref_count(group, -1);
        self.adjust_ref_count(session, -1);
        self.free_if_unreferenced(pid, ranges);
        self.charge_name(pid, ranges);
        self.free_if_unreferenced(group, ranges);
        self.free_if_unreferenced(session, ranges);
    }

    /// Frees the pid if no process has it and it names nothing.
    fn free_if_unreferenced(&mut self, pid: Id, ranges: &mut Ranges<'_>) {
        let Some(slot) = self.by_pid.get(pid) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(slot as usize) else {
            return;
        };
        if entry.exists() || entry.ref_count > 0 {
            return;
        }
        let payer = entry.payer;
        *entry = FREE_ENTRY;
        self.outbox.remove(slot);
        self.quotas.release(payer, PROCESSES, 1);
        self.by_pid.remove(pid);
        if let Some(free) = self.free.get_mut(self.free_count) {
            *free = slot;
            self.free_count.increment();
        }
        ranges.free_single(pid);
    }

    /// Returns true if the tables are consistent. Slow: for tests.
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
