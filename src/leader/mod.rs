//! What the first process of a family decides for all: VMIDs and who owns which IDs.
//!
//! A pure state machine: a message of a member goes in, an answer comes out. It has no clock, no
//! stream and no lock.

mod ids;
mod processes;
mod signals;

use crate::error::{Error, Resource, errno};
use crate::store::{Arena, Table, bytes_for};
use crate::wire::{Answer, EndQuery, FileLock, Hello, IdRange, LockAnswer, Message, ProcessNote};
use crate::{Id, Vmid};
use core::num::NonZeroI32;

use crate::file_locks::{LockLimits, Locks, Set};
use ids::Promised;
pub use ids::{Alloc, Ranges, Reclaim};
pub(crate) use processes::Receiver;
pub use processes::{Due, Note, Processes, SIGPWR, Starts};
pub(crate) use signals::{Outgoing, Signals, is_signal};
pub use signals::{SIGNAL_MAX, SignalLimits};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This is the answer to send to the asker.
    Answer(Answer<'static>),
    /// The answer comes when [`Locks::next_decided`] says what became of the request.
    Later,
    /// Done; no answer is due.
    Done,
    /// This member's process will never come, says its parent. If it is not connected all the same, it
    /// has left; no answer is due.
    Unborn(Vmid),
    /// A well-formed request that can't be done, to which no answer is due: to be counted.
    CannotBeDone,
    /// No message of a leader's role.
    NotForLeader,
}

/// How many of those who left are remembered: more than can leave while a request is under way.
const DEPARTED: usize = 256;

/// How many IDs one call takes back at most.
const AT_ONCE: usize = 64;

/// The leader's tables.
pub struct Leader<'m> {
    ranges: Ranges<'m>,
    promised: Promised<'m>,
    processes: Processes<'m>,
    locks: Locks<'m>,
    next_vmid: Option<Vmid>,
    /// Who left lately: a ring. An ID handed to one of them would be nobody's for ever.
    departed: Table<'m, u32>,
    next_departed: usize,
}

impl<'m> Leader<'m> {
    /// The memory the tables take, with room for that many ID ranges, processes, signals and locks.
    pub const fn bytes(
        ranges: usize,
        processes: usize,
        signals: &SignalLimits,
        locks: &LockLimits,
    ) -> usize {
        Ranges::bytes(ranges)
            .saturating_add(Promised::bytes(ranges))
            .saturating_add(Processes::bytes(processes, signals))
            .saturating_add(Locks::bytes(locks))
            .saturating_add(bytes_for::<u32>(DEPARTED))
    }

    /// Empty tables, cut from `arena`; `wrap_ids` as in [`Ranges::new`].
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn new(
        arena: &mut Arena<'m>,
        ranges: usize,
        processes: usize,
        signals: &SignalLimits,
        locks: &LockLimits,
        wrap_ids: bool,
    ) -> Result<Self, Error> {
        Ok(Leader {
            ranges: Ranges::new(arena, ranges, wrap_ids)?,
            promised: Promised::new(arena, ranges)?,
            processes: Processes::new(arena, processes, signals)?,
            locks: Locks::new(arena, locks)?,
            next_vmid: Vmid::new(2),
            departed: arena.table(DEPARTED, |_| Ok(0))?,
            next_departed: 0,
        })
    }

    /// The next VMID; `None` when all are used up. The caller passes over one that somebody
    /// already goes by without having been given it.
    pub fn new_vmid(&mut self) -> Option<Vmid> {
        let vmid = self.next_vmid?;
        self.next_vmid = vmid.get().checked_add(1).and_then(Vmid::new);
        // Whoever went by it before was somebody else.
        self.expect(vmid);
        Some(vmid)
    }

    /// A member joined.
    pub fn joined(&mut self, vmid: Vmid) {
        self.keep_promises(vmid);
        self.expect(vmid);
    }

    /// Who has left is not who goes by that VMID from now on.
    fn expect(&mut self, vmid: Vmid) {
        let departed = self.departed.iter_mut();
        for place in departed.filter(|departed| **departed == vmid.get()) {
            *place = 0;
        }
    }

    /// A member left. Its process is dead, and its pid stays taken for as long as it must; its
    /// other ranges are to be taken back with [`Ranges::reclaim`], and what it gave to others with
    /// [`Leader::break_promises`].
    pub fn left(&mut self, vmid: Vmid) {
        self.promised.settled(vmid);
        self.processes.died(vmid, &mut self.ranges);
        let processes = &self.processes;
        // A child that may still come keeps what it was handed.
        self.locks
            .forget_unborn(vmid, |child| !processes.is_starting(child));
        self.locks.left(vmid);
        if let Some(place) = self.departed.get_mut(self.next_departed) {
            *place = vmid.get();
        }
        self.next_departed = self.next_departed.wrapping_add(1) % DEPARTED;
    }

    /// What was given to that process is its own, for it is there.
    pub fn keep_promises(&mut self, to: Vmid) {
        self.promised.settled(to);
        self.locks.has_come(to);
    }

    /// Takes back what a member that left had given to processes which have not come, unless another
    /// starts them: some of it, for the table is behind a spinlock. True when that was all.
    pub fn break_promises(&mut self, giver: Vmid) -> bool {
        let (ranges, processes) = (&mut self.ranges, &self.processes);
        self.promised.broken(giver, AT_ONCE, |id, to| {
            let starter = processes.starter(to);
            if starter.is_none() && ranges.is_single(id, to) {
                ranges.free_single(id);
            }
            starter
        })
    }

    /// Gives an ID of a range of `from` to `to`, as [`Ranges::change_owner`] does. If `to` has not
    /// come when `from` leaves, the ID goes back; if it is there already,
    /// [`Leader::keep_promises`] is to be called.
    ///
    /// # Errors
    /// As there; [`Error::NoSuchProcess`] if `to` has left, [`Error::Full`] if too many IDs wait for
    /// processes to come.
    pub fn change_owner(&mut self, from: Vmid, id: Id, to: Vmid) -> Result<(), Error> {
        if self.departed.contains(&to.get()) {
            return Err(Error::NoSuchProcess);
        }
        if self.processes.names(id) {
            return Err(Error::Refused(errno::EPERM));
        }
        if to == from || to == Vmid::FIRST {
            return self.ranges.change_owner(from, id, to);
        }
        if !self.promised.has_room() {
            return Err(Error::Full(Resource::Ranges));
        }
        self.ranges.change_owner(from, id, to)?;
        self.promised.note(from, id, to);
        Ok(())
    }

    /// Takes back a range, as [`Ranges::release`] does.
    ///
    /// # Errors
    /// As there; and [`Error::Refused`] (`EPERM`) for the pid of a process: that is free when its
    /// parent has reaped it.
    pub fn release(&mut self, from: Vmid, range: IdRange) -> Result<(), Error> {
        if self.processes.names(range.start) {
            return Err(Error::Refused(errno::EPERM));
        }
        self.ranges.release(from, range)
    }

    /// The table of processes.
    pub fn processes(&mut self) -> &mut Processes<'m> {
        &mut self.processes
    }

    /// The process of `from` says that it joins.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the pid is not its own, as a range of its own; [`Error::Full`] if
    /// there is no room.
    pub fn join(&mut self, from: Vmid, hello: &Hello) -> Result<(), Error> {
        if hello.pid == 0 {
            return Ok(());
        }
        if !self.ranges.is_single(hello.pid, from) {
            return Err(Error::Invalid);
        }
        self.processes
            .join(from, hello.pid, Vmid::new(hello.parent))
    }

    /// The process of `from` is one in C, which says no HELLO: it runs.
    pub fn runs_unjoined(&mut self, from: Vmid) {
        self.processes.runs_unjoined(from);
    }

    fn start(&mut self, from: Vmid, vmid: u32, pid: Id) -> Result<(), Error> {
        let vmid = Vmid::new(vmid).ok_or(Error::Invalid)?;
        // A child's VMID was given out; the leader's own is nobody's child.
        let is_given = self.next_vmid.is_none_or(|next| vmid < next);
        // Its pid is its own, out of its parent's range, and it has not come.
        let is_promised = self.promised.receiver(from, pid) == Some(vmid);
        let is_its = is_promised && self.ranges.is_single(pid, vmid);
        if vmid == Vmid::FIRST || !is_given || !is_its {
            return Err(Error::Invalid);
        }
        self.processes.start(from, vmid, pid)
    }

    /// A member has an open file (`held`), or has it no more; or, with another's VMID, it hands one on,
    /// or takes back what it could not hand on. `is_there`: the other is connected.
    ///
    /// # Errors
    /// `ESRCH` if the other has left, `ENOLCK` if there is no room; then nothing has changed.
    pub fn note_handle(
        &mut self,
        from: Vmid,
        other: Option<Vmid>,
        handle: u64,
        held: bool,
        is_there: bool,
    ) -> Result<(), i32> {
        let is_noted = match (other, held) {
            (Some(to), true) if self.departed.contains(&to.get()) => return Err(errno::ESRCH),
            (Some(to), true) if is_there && !self.processes.is_starting(to) => {
                self.locks.send_handle(from, to, handle)
            }
            (Some(to), true) => {
                let is_noted = self.locks.hold_handle_for(from, to, handle);
                if is_there {
                    self.locks.has_come(to);
                }
                is_noted
            }
            (None, true) => self.locks.hold_handle(from, handle),
            (Some(to), false) => {
                self.locks.take_back_handle(from, to, handle);
                true
            }
            (None, false) => {
                self.locks.close_handle(from, handle);
                true
            }
        };
        if is_noted { Ok(()) } else { Err(errno::ENOLCK) }
    }

    /// Whether no node of the tables was lost. Slow: for tests.
    pub fn is_sound(&mut self) -> bool {
        self.ranges.is_sound() && self.processes.is_sound() && self.locks.is_sound()
    }

    /// The table of ID ranges.
    pub fn ranges(&mut self) -> &mut Ranges<'m> {
        &mut self.ranges
    }

    /// The table of file locks.
    pub fn locks(&mut self) -> &mut Locks<'m> {
        &mut self.locks
    }

    fn note(&mut self, from: Vmid, note: ProcessNote) -> Outcome {
        let is_wanted = match note {
            ProcessNote::WatchParent => true,
            ProcessNote::IgnoreParent => false,
            ProcessNote::ParentEnded | ProcessNote::ChildAbandoned => return Outcome::NotForLeader,
        };
        if self.processes.watch_parent(from, is_wanted) {
            Outcome::Done
        } else {
            Outcome::CannotBeDone
        }
    }

    /// Handles a message of the member `from`, whose answer is to have that sequence number (0: it
    /// wants none).
    pub fn handle(&mut self, from: Vmid, seq: u64, message: &Message<'_>) -> Outcome {
        match *message {
            Message::GetNewVmid => {
                Outcome::Answer(Answer::Vmid(self.new_vmid().map_or(0, Vmid::get)))
            }
            Message::AllocIdRange => match self.ranges.alloc(from) {
                Alloc::Range(range) => Outcome::Answer(Answer::IdRange(range)),
                Alloc::NoneLeft | Alloc::TableFull => {
                    Outcome::Answer(Answer::IdRange(IdRange { start: 0, end: 0 }))
                }
            },
            Message::ReleaseIdRange(range) => match self.release(from, range) {
                Ok(()) => Outcome::Done,
                Err(_) => Outcome::CannotBeDone,
            },
            Message::ChangeIdOwner { id, owner } => {
                let changed = match Vmid::new(owner) {
                    Some(owner) => self.change_owner(from, id, owner),
                    None => Err(Error::Invalid),
                };
                Outcome::Answer(match changed {
                    Ok(()) => Answer::Empty,
                    Err(error) => Answer::Status(error.errno().saturating_neg()),
                })
            }
            Message::GetIdOwner(id) => {
                Outcome::Answer(Answer::Owner(self.ranges.owner_of(id).map_or(0, Vmid::get)))
            }
            Message::ProcessStart { vmid, pid } => {
                Outcome::Answer(status(self.start(from, vmid, pid).map_err(Error::errno)))
            }
            Message::ProcessReap(pid) => {
                let starting = self.processes.starting(pid);
                if self.processes.reap(from, pid, &mut self.ranges) {
                    starting.map_or(Outcome::Done, Outcome::Unborn)
                } else {
                    // Its parent has not started it yet, but its pid is its own already.
                    let promised = self.promised.receiver(from, pid);
                    let promised = promised.filter(|_| !self.processes.names(pid));
                    promised.map_or(Outcome::CannotBeDone, Outcome::Unborn)
                }
            }
            Message::ProcessChange { what, pid, value } => {
                let ranges = &mut self.ranges;
                let changed = self.processes.change(from, what, pid, value, ranges);
                Outcome::Answer(status(changed))
            }
            Message::ProcessQuery(query) => {
                let process = self.processes.query(&query).or_else(|errno| {
                    // A thread has an ID of its process. Whether it is one only that process knows.
                    let owner = self.ranges.owner_of(query.pid).ok_or(errno)?;
                    self.processes.query_owner(&query, owner)
                });
                Outcome::Answer(Answer::Process(process.map_err(negative)))
            }
            Message::ProcessEnd(EndQuery { pid, group }) => {
                let end = self.processes.end_of_child(from, pid, group);
                Outcome::Answer(Answer::End(end.map_err(negative)))
            }
            Message::ProcessNote(note) => self.note(from, note.note),
            // The leader learns how every process ends, and the parent does where that is it.
            Message::ChildExit(exit) => {
                self.processes.ends(from, exit);
                self.locks.clear_pid(from, exit.pid);
                Outcome::NotForLeader
            }
            Message::FileLockSet(lock) => {
                let set = self.locks.set(from, seq, &with_answer(lock, seq));
                outcome_of(set)
            }
            Message::FileLockBorrow(lock) => {
                let lock = with_answer(lock, seq);
                let set = self.locks.borrow(from, seq, &lock, lock.handle);
                outcome_of(set)
            }
            Message::FileLockReturn { loan, locks } => {
                if self.locks.give_back(from, loan, locks) {
                    Outcome::Done
                } else {
                    Outcome::NotForLeader
                }
            }
            Message::FileLockGet(lock) => {
                let Some(found) = self.locks.ask(from, seq, &lock) else {
                    return Outcome::Later;
                };
                Outcome::Answer(Answer::Lock(match found {
                    Ok(held) => held.into(),
                    Err(errno) => LockAnswer::from_status(errno.saturating_neg()),
                }))
            }
            Message::FileLockClearPid(pid) => {
                self.locks.clear_pid(from, pid);
                Outcome::Answer(status(Ok(())))
            }
            Message::FileLockCancel(seq) => {
                self.locks.cancel(from, seq);
                Outcome::Done
            }
            _ => Outcome::NotForLeader,
        }
    }
}

/// Who wants no answer would not know when to go on.
fn with_answer(lock: FileLock<'_>, seq: u64) -> FileLock<'_> {
    FileLock {
        wait: lock.wait && seq != 0,
        ..lock
    }
}

fn outcome_of(set: Result<Set, i32>) -> Outcome {
    Outcome::Answer(match set {
        Ok(Set::Waits) => return Outcome::Later,
        Ok(Set::Lent(locks)) => Answer::Status(i32::try_from(locks).unwrap_or(i32::MAX)),
        Ok(Set::Done) => status(Ok(())),
        Err(errno) => status(Err(errno)),
    })
}

/// An error number as it stands in an answer.
fn negative(errno: i32) -> NonZeroI32 {
    NonZeroI32::new(errno.saturating_neg()).unwrap_or(NonZeroI32::MIN)
}

/// The answer that says how it went: nothing, or a positive error number.
fn status(result: Result<(), i32>) -> Answer<'static> {
    Answer::Status(result.err().map_or(0, i32::saturating_neg))
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::*;

    const SIGNALS: SignalLimits = SignalLimits {
        targets: 4,
        queued: 4,
    };

    #[test]
    fn a_child_cannot_have_the_leaders_vmid_or_one_that_was_not_given_out() {
        let bytes = Leader::bytes(8, 4, &SIGNALS, &LockLimits::NONE);
        let mut memory = Box::new_uninit_slice(bytes);
        let mut arena = Arena::new(&mut memory);
        let mut leader = Leader::new(&mut arena, 8, 4, &SIGNALS, &LockLimits::NONE, true).unwrap();
        let Alloc::Range(range) = leader.ranges.alloc(Vmid::FIRST) else {
            panic!("a range is to be had");
        };
        let parent = leader.new_vmid().unwrap();
        let child = leader.new_vmid().unwrap();
        let hello = |pid| Hello {
            version: Hello::VERSION,
            features: 0,
            pid,
            parent: 0,
        };
        let of_parent = range.start;
        leader
            .ranges
            .change_owner(Vmid::FIRST, of_parent, parent)
            .unwrap();
        leader.join(parent, &hello(of_parent)).unwrap();
        let not_given = Vmid::new(child.get() + 1).unwrap();
        let Alloc::Range(range) = leader.ranges.alloc(parent) else {
            panic!("a second range is to be had");
        };
        for (pid, vmid) in (range.start..).zip([Vmid::FIRST, not_given, child]) {
            leader.change_owner(parent, pid, vmid).unwrap();
            let started = leader.start(parent, vmid.get(), pid);
            assert_eq!(started.is_ok(), vmid == child, "{vmid:?}");
        }
    }

    #[test]
    fn a_process_that_is_there_or_has_its_pid_from_another_is_not_started() {
        let bytes = Leader::bytes(8, 4, &SIGNALS, &LockLimits::NONE);
        let mut memory = Box::new_uninit_slice(bytes);
        let mut arena = Arena::new(&mut memory);
        let mut leader = Leader::new(&mut arena, 8, 4, &SIGNALS, &LockLimits::NONE, true).unwrap();
        let Alloc::Range(range) = leader.ranges.alloc(Vmid::FIRST) else {
            panic!("a range is to be had");
        };
        let [parent, connected, others] = [(); 3].map(|()| leader.new_vmid().unwrap());
        let mut pids = range.start..;
        let mut next = || pids.next().unwrap();
        let of_parent = next();
        leader.change_owner(Vmid::FIRST, of_parent, parent).unwrap();
        leader.joined(parent);
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
        leader.change_owner(parent, own.start, connected).unwrap();
        leader.joined(connected);
        let start = leader.start(parent, connected.get(), own.start);
        assert_eq!(start, Err(Error::Invalid), "it has come");
        let of_others = next();
        leader.change_owner(Vmid::FIRST, of_others, others).unwrap();
        let start = leader.start(parent, others.get(), of_others);
        assert_eq!(start, Err(Error::Invalid), "it is another's child");
    }
}
