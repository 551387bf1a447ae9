//! The children of this process: living ones, zombies, and those that are being reaped.

mod abandoned;
mod exit;
mod zombies;

use crate::error::{Error, Resource};
use crate::invariant::Count;
use crate::leader::SIGPWR;
use crate::store::{Arena, Table, bytes_for, memory_sum};
use crate::{Id, Pid, Vmid};
pub use abandoned::AbandonedChild;
pub use exit::ChildExit;

#[derive(Clone, Copy)]
struct Child {
    pid: Id,
    /// `None` for a child that was inherited after its death.
    vmid: Option<Vmid>,
    /// The exit that the child itself reported. It may not be dead yet.
    reported: Option<ChildExit>,
    presence: ChildPresence,
    /// The exit that parents see. It is set when the child's own children have new parents.
    end: Option<RecordedExit>,
    /// Whether a thread is reaping the child: no other thread may.
    reaping: bool,
    /// Whether the leader was sent the reaping, and so may have reaped the child.
    reap_sent: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ChildPresence {
    /// The child is starting, or has joined, and has not connected with this process.
    Unconnected,
    /// The child has a connection with this process.
    Connected,
    /// The connection of the child is closed.
    Gone,
    /// The child has not been started, or will never join. It is not visible to callers. A thread
    /// that has claimed it, as in reaping, reports it to the leader.
    Abandoned,
}

impl Child {
    fn is_abandoned(&self) -> bool {
        self.presence == ChildPresence::Abandoned
    }

    /// Returns true if this process observes the child's end without a leader: by the end of the connection, or by the
    /// child's own report.
    fn is_observed(&self) -> bool {
        self.presence != ChildPresence::Unconnected || self.reported.is_some()
    }

    /// Returns true if that pid is the child's, or none is named.
    fn is_among(&self, pid: Option<Pid>) -> bool {
        pid.is_none_or(|pid| pid.get() == self.pid)
    }
}

const EMPTY: Child = Child {
    pid: 0,
    vmid: None,
    reported: None,
    presence: ChildPresence::Unconnected,
    end: None,
    reaping: false,
    reap_sent: false,
};

#[derive(Clone, Copy)]
struct RecordedExit {
    exit: ChildExit,
    /// Rises with each death.
    order: u64,
}

/// The outcome of recording an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitOutcome {
    /// The exit is new: the parent must be notified.
    Recorded,
    /// The table is full: the exit stays at the leader, and is [imported](Children::import_zombie)
    /// when a thread asks for it.
    NoRoom,
    /// The exit was known already, or the process is not a child of this one.
    Ignored,
}

/// The table of children.
pub struct Children<'m> {
    /// The first `count` entries are in use, in no order. The one behind them is that of an imported zombie.
    entries: Table<'m, Child>,
    /// Whether a zombie, for which there was no room, was imported from the leader for a thread that waits.
    has_imported: bool,
    /// The number of exits for which there was no room; 0 when the leader has none of them left.
    overflowed: u64,
    /// The number of reaped children.
    reaped: u64,
    order: u64,
    count: usize,
    peak: usize,
}

impl<'m> Children<'m> {
    /// Returns the memory for a table of `capacity` children, in bytes.
    pub const fn bytes(capacity: usize) -> usize {
        bytes_for::<Child>(memory_sum!(capacity, 1))
    }

    /// Makes an empty table in memory from `arena`.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        arena.checked(|arena| Self::make(arena, capacity))
    }

    pub(crate) fn make(arena: &mut Arena<'m>, capacity: usize) -> Self {
        Children {
            entries: arena.alloc_filled(memory_sum!(capacity, 1), &EMPTY),
            has_imported: false,
            overflowed: 0,
            reaped: 0,
            order: 0,
            count: 0,
            peak: 0,
        }
    }

    fn put(&mut self, child: Child) -> Result<(), Error> {
        let [free, behind, ..] = self.entries.get_mut(self.count..).unwrap_or(&mut []) else {
            return Err(Error::Full(Resource::Children));
        };
        *behind = *free;
        *free = child;
        self.count.increment();
        self.peak = self.peak.max(self.count);
        Ok(())
    }

    /// Returns the number of entries in use, with that of an imported zombie.
    fn used(&self) -> usize {
        self.count.plus(self.has_imported.into())
    }

    fn entries(&self) -> impl Iterator<Item = &Child> {
        self.entries.iter().take(self.used())
    }

    fn entries_mut(&mut self) -> impl Iterator<Item = &mut Child> {
        let used = self.used();
        self.entries.iter_mut().take(used)
    }

    fn all(&self) -> impl Iterator<Item = &Child> {
        self.entries().filter(|child| !child.is_abandoned())
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Child> {
        self.entries_mut().filter(|child| !child.is_abandoned())
    }

    fn find_abandoned(&mut self, vmid: Vmid) -> Option<&mut Child> {
        let mut entries = self.entries_mut();
        entries.find(|child| child.is_abandoned() && child.vmid == Some(vmid))
    }

    /// Reserves an entry for a child that is about to be started. It is not visible to callers yet.
    ///
    /// # Errors
    /// [`Error::Full`] at the limit.
    pub fn reserve(&mut self, vmid: Vmid) -> Result<(), Error> {
        self.put(Child {
            vmid: Some(vmid),
            presence: ChildPresence::Abandoned,
            reaping: true,
            ..EMPTY
        })
    }

    /// Turns the reserved entry into a child with that pid.
    pub fn start(&mut self, vmid: Vmid, pid: Id) {
        if let Some(child) = self.find_abandoned(vmid) {
            (child.pid, child.presence, child.reaping) = (pid, ChildPresence::Unconnected, false);
        }
    }

    /// Frees the reserved entry: the child was not started, and nothing was transferred to it.
    pub fn cancel_reservation(&mut self, vmid: Vmid) {
        let at = self.entries().position(|child| child.vmid == Some(vmid));
        if let Some(at) = at {
            self.remove_at(at);
        }
    }

    /// Adds a child.
    ///
    /// # Errors
    /// [`Error::Full`] at the limit.
    pub fn add(&mut self, pid: Id, vmid: Vmid) -> Result<(), Error> {
        self.put(Child {
            pid,
            vmid: Some(vmid),
            ..EMPTY
        })
    }

    /// Records that this process ends its connection with another one, which lives. If that is a child, its end is not
    /// known.
    pub fn note_unconnected(&mut self, vmid: Vmid) {
        self.set_presence(vmid, ChildPresence::Unconnected);
    }

    /// Records that a process has a connection with this one. It may be a child.
    pub fn note_connected(&mut self, vmid: Vmid) {
        self.set_presence(vmid, ChildPresence::Connected);
    }

    fn set_presence(&mut self, vmid: Vmid, presence: ChildPresence) {
        if let Some(child) = self.all_mut().find(|child| child.vmid == Some(vmid)) {
            child.presence = presence;
        }
    }

    fn end(&mut self, exit: ChildExit) -> RecordedExit {
        self.order.increment();
        RecordedExit {
            exit,
            order: self.order,
        }
    }

    /// Records the exit of a child, as the leader reported it: an own child, or an inherited one.
    pub fn record_exit(&mut self, exit: ChildExit) -> ExitOutcome {
        let end = Some(self.end(exit));
        match self.find(exit.pid.get()) {
            Some(child) if child.end.is_none() => {
                child.end = end;
                ExitOutcome::Recorded
            }
            Some(_) => ExitOutcome::Ignored,
            None => {
                let child = Child {
                    pid: exit.pid.get(),
                    end,
                    ..EMPTY
                };
                if self.put(child).is_ok() {
                    ExitOutcome::Recorded
                } else {
                    self.overflowed.increment();
                    ExitOutcome::NoRoom
                }
            }
        }
    }

    /// Records the exit that a child reported itself. It counts at once (`counts`) if no leader
    /// will report it.
    pub fn record_reported_exit(
        &mut self,
        from: Vmid,
        exit: ChildExit,
        counts: bool,
    ) -> ExitOutcome {
        let matches = |child: &&mut Child| child.vmid == Some(from);
        match self.find(exit.pid.get()).filter(matches) {
            Some(child) => child.reported = Some(exit),
            None => return ExitOutcome::Ignored,
        }
        if counts {
            self.record_exit(exit)
        } else {
            ExitOutcome::Ignored
        }
    }

    /// Records that a process is gone. If it was a child, and no leader will report its exit
    /// (`counts`), returns the exit: the one that the child reported, or else a death by `SIGPWR`.
    pub fn record_death(
        &mut self,
        vmid: Vmid,
        parent_pid: Option<Pid>,
        counts: bool,
    ) -> Option<ChildExit> {
        let is_match = |child: &&mut Child| {
            // A child without a connection to this process, and that has not reported its end, may live.
            child.vmid == Some(vmid) && child.end.is_none() && child.is_observed()
        };
        let child = self.all_mut().find(is_match)?;
        child.presence = ChildPresence::Gone;
        let pid = Pid::new(child.pid)?;
        let exit = child.reported.unwrap_or(ChildExit {
            parent_pid,
            pid,
            uid: 0,
            code: 0,
            signal: SIGPWR,
        });
        (counts && self.record_exit(exit) == ExitOutcome::Recorded).then_some(exit)
    }

    /// After the leader is gone: records and returns the exit of a child that has ended and was not
    /// announced yet. The caller repeats it until it returns `None`.
    pub fn next_unannounced(&mut self, parent_pid: Option<Pid>) -> Option<ChildExit> {
        let is_unannounced = |child: &&Child| {
            child.end.is_none()
                && (child.presence == ChildPresence::Gone || child.reported.is_some())
        };
        let vmid = self.all().find(is_unannounced)?.vmid?;
        self.record_death(vmid, parent_pid, true)
    }

    fn find(&mut self, pid: Id) -> Option<&mut Child> {
        let mut children = self.all_mut();
        // The pid of a child whose reaping was sent to the leader may belong to another process by
        // now.
        children.find(|child| child.pid == pid && !child.reap_sent)
    }

    /// Returns the VMID of the child with that pid, while its exit is not known.
    pub fn find_living(&self, pid: Id) -> Option<Vmid> {
        let mut children = self.all();
        let child = children.find(|child| child.pid == pid && child.end.is_none())?;
        child.vmid
    }

    /// Returns the exit that the child itself reported, if it did; else `exit`, for a child of
    /// which the leader knows no more.
    pub fn reported_exit(&self, exit: ChildExit) -> ChildExit {
        let mut children = self.all();
        let child = children.find(|child| child.pid == exit.pid.get());
        child.and_then(|child| child.reported).unwrap_or(exit)
    }

    /// Returns true if the child, or any child if none is named, lives, or is being reaped: a thread that fails
    /// to reap it makes it available again.
    pub fn has_living(&self, pid: Option<Pid>) -> bool {
        let mut entries = self.all();
        entries.any(|child| (child.end.is_none() || child.reaping) && child.is_among(pid))
    }

    /// Like [`Children::has_living`], of those whose ends this process observes without a leader: by the ends of
    /// their connections, or by their own reports.
    pub fn has_living_observed(&self, pid: Option<Pid>) -> bool {
        let is_living = |child: &Child| child.reaping || child.end.is_none() && child.is_observed();
        self.all()
            .any(|child| is_living(child) && child.is_among(pid))
    }

    /// Removes a child. Returns false if there is none with that pid.
    pub fn remove(&mut self, pid: Id) -> bool {
        let is_match = |child: &Child| child.pid == pid && !child.is_abandoned();
        let Some(at) = self.entries().position(is_match) else {
            return false;
        };
        self.remove_at(at);
        true
    }

    fn remove_at(&mut self, at: usize) {
        if at == self.count {
            self.has_imported = false;
            return;
        }
        // The last entry takes the place of the removed one, and the imported zombie that of the last entry.
        self.count.decrement();
        self.move_entry(self.count, at);
        self.move_entry(self.count.plus(1), self.count);
    }

    fn move_entry(&mut self, from: usize, to: usize) {
        let moved = self.entries.get(from).copied();
        if let (Some(moved), Some(place)) = (moved, self.entries.get_mut(to)) {
            *place = moved;
        }
    }

    /// Returns the pid of the child with that VMID.
    pub fn pid_of(&self, vmid: Vmid) -> Option<Id> {
        let mut entries = self.all();
        entries
            .find(|child| child.vmid == Some(vmid))
            .map(|child| child.pid)
    }

    /// Returns the number of children now, and the peak.
    pub fn usage(&self) -> (usize, usize) {
        (self.count, self.peak)
    }
}
