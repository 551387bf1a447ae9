//! The queue of the requests that wait: for a lock that somebody has, or for a file that is lent.

use super::{Locks, Owner, Range, SpaceName};
use crate::Vmid;
use crate::error::{Error, errno};
use crate::store::{Arena, NONE, SlotAllocator, Table, bytes_for};
use crate::wire::{Answer, FileLock, LockAnswer, LockKind};

/// A request that waits, or was decided and is not told yet.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    pub(super) from: Vmid,
    pub(super) seq: u64,
    pub(super) owner: Owner,
    pub(super) file: u32,
    pub(super) range: Range,
    pub(super) asked: Asked,
    pub(super) state: State,
    pub(super) before: u32,
    pub(super) behind: u32,
    /// The last search that came by.
    pub(super) seen: u32,
}

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// A lock, or its end.
    For { kind: LockKind, wait: bool },
    /// Which lock is in the way.
    About { write: bool },
}

impl Asked {
    pub(super) fn of(lock: &FileLock<'_>) -> Asked {
        Asked::For {
            kind: lock.kind,
            wait: lock.wait,
        }
    }

    pub(super) fn write(self) -> bool {
        match self {
            Asked::For { kind, .. } => kind == LockKind::Write,
            Asked::About { write } => write,
        }
    }

    pub(super) fn waits(self) -> bool {
        matches!(self, Asked::For { wait: true, .. })
    }

    /// The answer that says how it went.
    pub(super) fn answer(self, result: Result<(), i32>) -> Answer<'static> {
        let status = result.err().map_or(0, i32::saturating_neg);
        match self {
            Asked::For { .. } => Answer::Status(status),
            Asked::About { .. } => Answer::Lock(LockAnswer::from_status(status)),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// For a lock that somebody has.
    Waiting,
    /// For a file that is lent to come back.
    HeldUp,
    Decided(Answer<'static>),
}

/// What became of a request that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Whose request it was.
    pub from: Vmid,
    /// Its sequence number.
    pub seq: u64,
    /// What it is to be answered: status 0 if the lock is held now.
    pub answer: Answer<'static>,
}

/// A fixed number of requests that wait.
pub(super) struct Waits<'m> {
    pub(super) waiting: Table<'m, Waiting>,
    pub(super) places: SlotAllocator<'m>,
    /// Those that are decided, in the order of that, linked by `behind`.
    pub(super) first_decided: u32,
    pub(super) last_decided: u32,
    pub(super) search: u32,
    /// What a search has still to look at.
    pub(super) to_visit: Table<'m, u32>,
}

impl<'m> Waits<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        bytes_for::<Waiting>(capacity)
            .saturating_add(SlotAllocator::bytes(capacity))
            .saturating_add(bytes_for::<u32>(capacity))
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(Waits {
            waiting: arena.alloc_table(capacity, |_| Ok(FREE))?,
            places: SlotAllocator::new(arena, capacity)?,
            first_decided: NONE,
            last_decided: NONE,
            search: 0,
            to_visit: arena.alloc_table(capacity, |_| Ok(NONE))?,
        })
    }

    pub(super) fn at(&self, place: u32) -> &Waiting {
        self.waiting.get(place as usize).unwrap_or(&FREE)
    }

    pub(super) fn change(&mut self, place: u32, change: impl FnOnce(&mut Waiting)) {
        if let Some(waiting) = self.waiting.get_mut(place as usize) {
            change(waiting);
        }
    }

    pub(super) fn fill(&self) -> (usize, usize) {
        (self.places.in_use(), self.places.peak())
    }

    pub(super) fn is_full(&self) -> bool {
        self.places.remaining() == 0
    }
}

pub(super) const FREE: Waiting = Waiting {
    from: Vmid::LEADER,
    seq: 0,
    owner: Owner::Open(0),
    file: NONE,
    range: (0, 0),
    asked: Asked::About { write: false },
    state: State::Free,
    before: NONE,
    behind: NONE,
    seen: 0,
};

impl Waiting {
    /// The open file for a lock of which it waits. A question about one keeps nothing.
    fn keeps(&self) -> Option<u64> {
        match (self.owner, self.asked) {
            (Owner::Open(handle) | Owner::Flock(handle), Asked::For { .. }) => Some(handle),
            _ => None,
        }
    }

    /// The queue that it stands in.
    fn queue(&self) -> SpaceName {
        if self.state == State::HeldUp {
            SpaceName::HeldUp
        } else {
            self.owner.space()
        }
    }
}

impl Locks<'_> {
    /// Puts a request at the end of its queue.
    pub(super) fn enqueue(&mut self, waiting: Waiting) -> Result<u32, i32> {
        let place = self.waits.places.alloc().ok_or(errno::ENOLCK)?;
        let (file, queue) = (waiting.file, waiting.queue());
        let last = self.space(file, queue).last_waiting;
        self.waits.change(place, |free| {
            *free = Waiting {
                before: last,
                ..waiting
            };
        });
        self.waits.change(last, |last| last.behind = place);
        self.change_space(file, queue, |space| {
            if last == NONE {
                space.first_waiting = place;
            }
            space.last_waiting = place;
        });
        self.change_users(file, 1);
        if let Some(handle) = waiting.keeps() {
            self.handles.request_waits(handle, waiting.from);
        }
        Ok(place)
    }

    /// Takes the request out of the queue of its file.
    pub(super) fn unlink(&mut self, place: u32) {
        let waiting = *self.waits.at(place);
        let Waiting {
            file,
            before,
            behind,
            ..
        } = waiting;
        self.waits.change(before, |before| before.behind = behind);
        self.waits.change(behind, |behind| behind.before = before);
        self.change_space(file, waiting.queue(), |space| {
            if before == NONE {
                space.first_waiting = behind;
            }
            if behind == NONE {
                space.last_waiting = before;
            }
        });
        self.waits
            .change(place, |waiting| waiting.state = State::Free);
        self.change_users(file, -1);
        if let Some(handle) = waiting.keeps() {
            self.handles.request_ended(handle, waiting.from);
        }
    }

    /// Notes what became of a request, which is told of by [`Locks::next_decided`].
    pub(super) fn decide(&mut self, place: u32, result: Result<(), i32>) {
        let answer = self.waits.at(place).asked.answer(result);
        self.unlink(place);
        self.note_decided(place, answer);
    }

    pub(super) fn note_decided(&mut self, place: u32, answer: Answer<'static>) {
        let last = self.waits.last_decided;
        self.waits.change(place, |waiting| {
            waiting.state = State::Decided(answer);
            waiting.behind = NONE;
        });
        self.waits.change(last, |last| last.behind = place);
        if last == NONE {
            self.waits.first_decided = place;
        }
        self.waits.last_decided = place;
    }

    /// Whether [`Locks::next_decided`] has something to say.
    pub fn has_decided(&self) -> bool {
        self.waits.first_decided != NONE
    }

    /// Whether anybody is to be told anything.
    pub fn has_news(&self) -> bool {
        self.has_decided() || self.has_recalls()
    }

    /// The first request that waited and was decided. It stays until [`Locks::next_decided`].
    pub fn first_decided(&self) -> Option<Decided> {
        let waiting = self.waits.at(self.waits.first_decided);
        let State::Decided(answer) = waiting.state else {
            return None;
        };
        Some(Decided {
            from: waiting.from,
            seq: waiting.seq,
            answer,
        })
    }

    /// The next request that waited and was decided, once.
    pub fn next_decided(&mut self) -> Option<Decided> {
        let decided = self.first_decided()?;
        let place = self.waits.first_decided;
        let behind = self.waits.at(place).behind;
        self.waits.first_decided = behind;
        if behind == NONE {
            self.waits.last_decided = NONE;
        }
        self.waits
            .change(place, |waiting| waiting.state = State::Free);
        self.waits.places.free(place);
        Some(decided)
    }

    /// Ends the requests that fit with that error.
    pub(super) fn cancel_all(&mut self, errno: i32, fits: impl Fn(&Waiting) -> bool) {
        for place in 0..self.waits.places.high_water() {
            let waiting = *self.waits.at(place);
            let waits = matches!(waiting.state, State::Waiting | State::HeldUp);
            if waits && fits(&waiting) {
                self.decide(place, Err(errno));
                self.drop_unused(waiting.file);
            }
        }
    }

    /// A member is gone: nobody is told of what it waited for.
    pub(super) fn forget_waiting_of(&mut self, vmid: Vmid) {
        for place in 0..self.waits.places.high_water() {
            let waiting = *self.waits.at(place);
            let waits = matches!(waiting.state, State::Waiting | State::HeldUp);
            if waits && waiting.from == vmid {
                self.unlink(place);
                self.waits.places.free(place);
                self.drop_unused(waiting.file);
            }
        }
    }
}
