//! The children of this process: who lives, who is a zombie, whose end was seen.

mod abandoned;
mod zombies;

use crate::error::{Error, Resource};
use crate::leader::SIGPWR;
use crate::store::{Arena, Table, bytes_for};
use crate::wire::ChildExit;
use crate::{Id, Vmid};
pub use abandoned::AbandonedChild;

#[derive(Clone, Copy)]
struct Child {
    pid: Id,
    /// None for one that was adopted after its death.
    vmid: Option<Vmid>,
    /// How it says it ends. It may not be dead yet.
    reported: Option<ChildExit>,
    presence: Presence,
    /// How it ended, once that is to be seen: when its own children have new parents.
    end: Option<End>,
    /// A thread is reaping it: no other thread may.
    reaping: bool,
    /// The leader has been told that it is reaped, and has perhaps done so.
    reap_sent: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// It starts, or has come.
    Present,
    /// Its connection is closed.
    Gone,
    /// It has not started, or will never come: nobody sees it. The leader is to be told, which a thread
    /// does that has claimed it as one that reaps.
    Abandoned,
}

impl Child {
    fn is_abandoned(&self) -> bool {
        self.presence == Presence::Abandoned
    }
}

const EMPTY: Child = Child {
    pid: 0,
    vmid: None,
    reported: None,
    presence: Presence::Present,
    end: None,
    reaping: false,
    reap_sent: false,
};

#[derive(Clone, Copy)]
struct End {
    exit: ChildExit,
    /// Rises from death to death.
    order: u64,
}

/// What became of the news of a child's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitOutcome {
    /// It was news: the parent is to be told.
    Recorded,
    /// The table is full: it stays at the leader, and is [taken in](Children::import_zombie) when it is
    /// asked for.
    NoRoom,
    /// It was known already, or is no child of this process.
    Ignored,
}

/// The table of children.
pub struct Children<'m> {
    /// The first `count` are in use, in no order.
    entries: Table<'m, Child>,
    /// A zombie for which there was no room, taken in from the leader for a thread that waits.
    imported: Option<Child>,
    /// How many there were ever for which there was no room; 0 when the leader has none of them.
    overflowed: u64,
    /// How many were reaped.
    reaped: u64,
    order: u64,
    count: usize,
    peak: usize,
}

impl<'m> Children<'m> {
    /// The memory that a table of `capacity` children takes.
    pub const fn bytes(capacity: usize) -> usize {
        bytes_for::<Child>(capacity)
    }

    /// An empty table, cut from `arena`.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(Children {
            entries: arena.alloc_table(capacity, |_| Ok(EMPTY))?,
            imported: None,
            overflowed: 0,
            reaped: 0,
            order: 0,
            count: 0,
            peak: 0,
        })
    }

    fn put(&mut self, child: Child) -> Result<(), Error> {
        let free = self.entries.get_mut(self.count);
        *free.ok_or(Error::Full(Resource::Children))? = child;
        self.count = self.count.saturating_add(1);
        self.peak = self.peak.max(self.count);
        Ok(())
    }

    fn entries(&self) -> impl Iterator<Item = &Child> {
        self.entries.iter().take(self.count).chain(&self.imported)
    }

    fn entries_mut(&mut self) -> impl Iterator<Item = &mut Child> {
        let used = self.entries.iter_mut().take(self.count);
        used.chain(&mut self.imported)
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

    /// Keeps a place for a child that is to be started, which nobody sees yet.
    ///
    /// # Errors
    /// [`Error::Full`] at the limit.
    pub fn reserve(&mut self, vmid: Vmid) -> Result<(), Error> {
        self.put(Child {
            vmid: Some(vmid),
            presence: Presence::Abandoned,
            reaping: true,
            ..EMPTY
        })
    }

    /// The child for which a place was kept is started, under that pid.
    pub fn start(&mut self, vmid: Vmid, pid: Id) {
        if let Some(child) = self.find_abandoned(vmid) {
            (child.pid, child.presence, child.reaping) = (pid, Presence::Present, false);
        }
    }

    /// The child is not started, and nothing was handed to it.
    pub fn cancel_reservation(&mut self, vmid: Vmid) {
        let at = self.entries().position(|child| child.vmid == Some(vmid));
        if let Some(at) = at {
            self.remove_at(at);
        }
    }

    /// A child is started.
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

    fn end(&mut self, exit: ChildExit) -> End {
        self.order = self.order.saturating_add(1);
        End {
            exit,
            order: self.order,
        }
    }

    /// The leader says how a child ended: one of this process's own, or one that it inherited.
    pub fn record_exit(&mut self, exit: ChildExit) -> ExitOutcome {
        let end = Some(self.end(exit));
        match self.find(exit.pid) {
            Some(child) if child.end.is_none() => {
                child.end = end;
                ExitOutcome::Recorded
            }
            Some(_) => ExitOutcome::Ignored,
            None => {
                let child = Child {
                    pid: exit.pid,
                    end,
                    ..EMPTY
                };
                if self.put(child).is_ok() {
                    ExitOutcome::Recorded
                } else {
                    self.overflowed = self.overflowed.saturating_add(1);
                    ExitOutcome::NoRoom
                }
            }
        }
    }

    /// A child says how it ends. That counts at once if no leader will say it.
    pub fn record_reported_exit(
        &mut self,
        from: Vmid,
        exit: ChildExit,
        counts: bool,
    ) -> ExitOutcome {
        let matches = |child: &&mut Child| child.vmid == Some(from);
        match self.find(exit.pid).filter(matches) {
            Some(child) => child.reported = Some(exit),
            None => return ExitOutcome::Ignored,
        }
        if counts {
            self.record_exit(exit)
        } else {
            ExitOutcome::Ignored
        }
    }

    /// A process is gone. If it was a child, and no leader will say how it ended: as it said
    /// itself, or else killed by SIGPWR.
    pub fn record_death(&mut self, vmid: Vmid, parent_pid: Id, counts: bool) -> Option<ChildExit> {
        let is_match = |child: &&mut Child| child.vmid == Some(vmid) && child.end.is_none();
        let child = self.all_mut().find(is_match)?;
        child.presence = Presence::Gone;
        let exit = child.reported.unwrap_or(ChildExit {
            parent_pid,
            pid: child.pid,
            uid: 0,
            exit_code: 0,
            term_signal: SIGPWR,
        });
        (counts && self.record_exit(exit) == ExitOutcome::Recorded).then_some(exit)
    }

    /// The leader is gone: a child that has ended and was not told of yet, of which there may be
    /// more.
    pub fn next_unannounced(&mut self, parent_pid: Id) -> Option<ChildExit> {
        let is_unannounced = |child: &&Child| {
            child.end.is_none() && (child.presence == Presence::Gone || child.reported.is_some())
        };
        let vmid = self.all().find(is_unannounced)?.vmid?;
        self.record_death(vmid, parent_pid, true)
    }

    fn find(&mut self, pid: Id) -> Option<&mut Child> {
        let mut children = self.all_mut();
        // The pid of one whose reaping the leader knows of may be another's by now.
        children.find(|child| child.pid == pid && !child.reap_sent)
    }

    /// The child with that pid, while its end is not known.
    pub fn find_living(&self, pid: Id) -> Option<Vmid> {
        let mut children = self.all();
        let child = children.find(|child| child.pid == pid && child.end.is_none())?;
        child.vmid
    }

    /// How a child ended of which the leader knows no more than `exit`: as the child said itself, if
    /// it did.
    pub fn reported_exit(&self, exit: ChildExit) -> ChildExit {
        let mut children = self.all();
        let child = children.find(|child| child.pid == exit.pid);
        child.and_then(|child| child.reported).unwrap_or(exit)
    }

    /// Whether a child that fits lives, or is being reaped: until that is done it may come back.
    pub fn has_living(&self, matches: impl Fn(Id) -> bool) -> bool {
        let mut entries = self.all();
        entries.any(|child| (child.end.is_none() || child.reaping) && matches(child.pid))
    }

    /// Forgets a child. False if there is none with that pid.
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
            self.imported = None;
            return;
        }
        let last = self.count.saturating_sub(1);
        // The last one takes its place.
        let moved = self.entries.get(last).copied();
        if let (Some(last), Some(free)) = (moved, self.entries.get_mut(at)) {
            *free = last;
        }
        self.count = last;
    }

    /// The pid of the child that is that member.
    pub fn pid_of(&self, vmid: Vmid) -> Option<Id> {
        let mut entries = self.all();
        entries
            .find(|child| child.vmid == Some(vmid))
            .map(|child| child.pid)
    }

    /// How many there are, and the most ever.
    pub fn usage(&self) -> (usize, usize) {
        (self.count, self.peak)
    }
}
