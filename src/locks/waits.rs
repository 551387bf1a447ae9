//! Requests that wait, and in which order they are served.
//!
//! A lock that nobody's lock is in the way of is given at once, whoever waits: so does the kernel,
//! and a process that holds something may need more of it to let go. Among those who wait, who came
//! first is served first where they are in each other's way. Two exceptions: one that the earlier
//! one itself waits for goes first, or both would wait for ever; and one that was passed by too often
//! is passed no more by those who can wait.

use super::tree::Side;
use super::{Locks, Owner, Range, Set, SpaceName};
use crate::Vmid;
use crate::error::{Error, errno};
use crate::store::{Arena, NONE, Places, Table, bytes_for};
use crate::wire::{Answer, FileLock, LockAnswer, LockKind};

/// How often a waiting request is passed by before others have to queue behind it.
const PATIENCE: u32 = 64;

/// A request that waits, or was decided and is not told yet.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    pub(super) from: Vmid,
    pub(super) seq: u64,
    pub(super) owner: Owner,
    file: u32,
    range: Range,
    asked: Asked,
    state: State,
    before: u32,
    behind: u32,
    /// How often others were served though this one waits.
    passed: u32,
    /// The last search that came by.
    seen: u32,
    /// Nothing but an earlier request is in the way.
    is_queued: bool,
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
enum State {
    Free,
    /// For a lock that somebody has.
    Waiting,
    /// For a file that is lent to come back.
    HeldUp,
    Decided(Answer<'static>),
    /// Its member is gone.
    Forgotten,
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
    waiting: Table<'m, Waiting>,
    places: Places<'m>,
    /// Those that are decided, in the order of that, linked by `behind`.
    first_decided: u32,
    last_decided: u32,
    /// How many only queue behind others.
    queued: usize,
    search: u32,
    /// What a search has still to look at.
    to_visit: Table<'m, u32>,
}

impl<'m> Waits<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        bytes_for::<Waiting>(capacity)
            .saturating_add(Places::bytes(capacity))
            .saturating_add(bytes_for::<u32>(capacity))
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(Waits {
            waiting: arena.table(capacity, |_| Ok(FREE))?,
            places: Places::new(arena, capacity)?,
            first_decided: NONE,
            last_decided: NONE,
            queued: 0,
            search: 0,
            to_visit: arena.table(capacity, |_| Ok(NONE))?,
        })
    }

    fn at(&self, place: u32) -> &Waiting {
        self.waiting.get(place as usize).unwrap_or(&FREE)
    }

    fn change(&mut self, place: u32, change: impl FnOnce(&mut Waiting)) {
        if let Some(waiting) = self.waiting.get_mut(place as usize) {
            change(waiting);
        }
    }

    pub(super) fn fill(&self) -> (usize, usize) {
        (self.places.taken(), self.places.most())
    }

    pub(super) fn is_full(&self) -> bool {
        self.places.left() == 0
    }

    /// The places where a request waits.
    fn all(&self) -> impl Iterator<Item = u32> {
        (0..self.places.used()).filter(|place| self.at(*place).state == State::Waiting)
    }
}

const FREE: Waiting = Waiting {
    from: Vmid::FIRST,
    seq: 0,
    owner: Owner::Open(0),
    file: NONE,
    range: (0, 0),
    asked: Asked::About { write: false },
    state: State::Free,
    before: NONE,
    behind: NONE,
    passed: 0,
    seen: 0,
    is_queued: false,
};

impl Waiting {
    /// Whether the two can't be served both.
    fn is_in_the_way_of(&self, owner: Owner, range: Range, write: bool) -> bool {
        (self.asked.write() || write)
            && self.owner != owner
            && self.range.0 <= range.1
            && self.range.1 >= range.0
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
    /// Has the request wait for its lock.
    pub(super) fn wait(
        &mut self,
        file: u32,
        owner: Owner,
        range: Range,
        asked: Asked,
        (from, seq): (Vmid, u64),
    ) -> Result<(), i32> {
        let waiting = Waiting {
            from,
            seq,
            owner,
            file,
            range,
            asked,
            state: State::Waiting,
            ..FREE
        };
        let place = self.enqueue(waiting)?;
        // Only processes are known to wait with all they hold: not who has an open file.
        let is_process = matches!(owner, Owner::Process { .. });
        if is_process && self.reaches(place, owner, Through::Held) {
            self.unlink(place);
            self.waits.places.give(place);
            return Err(errno::EDEADLK);
        }
        Ok(())
    }

    /// Has the request wait until the file that is lent has come back, and recalls that.
    pub(super) fn hold_up(
        &mut self,
        file: u32,
        owner: Owner,
        range: Range,
        (from, seq): (Vmid, u64),
        asked: Asked,
    ) -> Result<Set, i32> {
        self.enqueue(Waiting {
            from,
            seq,
            owner,
            file,
            range,
            asked,
            state: State::HeldUp,
            ..FREE
        })?;
        self.recall(file, from);
        Ok(Set::Waits)
    }

    /// Has those who were held up go on: the file is here again.
    pub(super) fn let_go_on(&mut self, file: u32) {
        loop {
            let place = self.space(file, SpaceName::HeldUp).first_waiting;
            if place == NONE {
                return;
            }
            let Waiting {
                from,
                seq,
                owner,
                range,
                asked,
                ..
            } = *self.waits.at(place);
            self.unlink(place);
            self.waits.places.give(place);
            let answer = match asked {
                Asked::About { write } => {
                    Answer::Lock(match self.held(file, owner, range, write) {
                        Some(held) => LockAnswer::Held(held),
                        None => LockAnswer::Free,
                    })
                }
                Asked::For {
                    kind: LockKind::Unlock,
                    ..
                } => asked.answer(self.unlock(file, owner, range)),
                Asked::For { .. } => match self.set_on(file, owner, range, (from, seq), asked) {
                    Ok(Set::Waits) => continue,
                    done => asked.answer(done.map(drop)),
                },
            };
            // The place that was given back is there yet: nobody else waits for anything now.
            if let Some(place) = self.waits.places.take() {
                self.waits.change(place, |free| {
                    *free = Waiting { from, seq, ..FREE };
                });
                self.note_decided(place, answer);
            }
        }
    }

    /// Puts a request at the end of its queue.
    fn enqueue(&mut self, waiting: Waiting) -> Result<u32, i32> {
        let place = self.waits.places.take().ok_or(errno::ENOLCK)?;
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
        Ok(place)
    }

    /// Takes the request out of the queue of its file.
    fn unlink(&mut self, place: u32) {
        self.note_queued(place, false);
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
    }

    /// Notes what became of a request, which is told of by [`Locks::next_decided`].
    fn decide(&mut self, place: u32, result: Result<(), i32>) {
        let answer = self.waits.at(place).asked.answer(result);
        self.unlink(place);
        self.note_decided(place, answer);
    }

    fn note_decided(&mut self, place: u32, answer: Answer<'static>) {
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

    /// The next request that waited and was decided, once.
    pub fn next_decided(&mut self) -> Option<Decided> {
        let place = self.waits.first_decided;
        let waiting = *self.waits.at(place);
        let State::Decided(answer) = waiting.state else {
            return None;
        };
        self.waits.first_decided = waiting.behind;
        if waiting.behind == NONE {
            self.waits.last_decided = NONE;
        }
        self.waits
            .change(place, |waiting| waiting.state = State::Free);
        self.waits.places.give(place);
        Some(Decided {
            from: waiting.from,
            seq: waiting.seq,
            answer,
        })
    }

    /// Ends the requests that fit with that error.
    pub(super) fn cancel_all(&mut self, errno: i32, fits: impl Fn(&Waiting) -> bool) {
        for place in 0..self.waits.places.used() {
            let waiting = *self.waits.at(place);
            let waits = matches!(waiting.state, State::Waiting | State::HeldUp);
            if waits && fits(&waiting) {
                self.decide(place, Err(errno));
                self.serve(waiting.file, waiting.owner.space());
                self.drop_unused(waiting.file);
            }
        }
    }

    /// A member is gone: nobody is told of what it waited for.
    pub(super) fn forget_waiting_of(&mut self, vmid: Vmid) {
        for place in 0..self.waits.places.used() {
            let waiting = *self.waits.at(place);
            let waits = matches!(waiting.state, State::Waiting | State::HeldUp);
            if waits && waiting.from == vmid {
                self.unlink(place);
                self.waits
                    .change(place, |waiting| waiting.state = State::Forgotten);
            }
        }
        // Not before all are out, or one of them might be served.
        for place in 0..self.waits.places.used() {
            let waiting = *self.waits.at(place);
            if waiting.state == State::Forgotten {
                self.waits
                    .change(place, |waiting| waiting.state = State::Free);
                self.waits.places.give(place);
                self.serve(waiting.file, waiting.owner.space());
                self.drop_unused(waiting.file);
            }
        }
    }

    /// Serves those who wait on that file, in order, as far as nobody is in the way any more; and
    /// those anywhere who only queue behind others, for what they wait for may have changed.
    pub(super) fn serve(&mut self, file: u32, name: SpaceName) {
        let mut again = true;
        while again {
            again = false;
            let mut at = self.space(file, name).first_waiting;
            while at != NONE {
                let behind = self.waits.at(at).behind;
                // It may have had more before, which an earlier one waited for.
                again |= self.serve_one(at);
                at = behind;
            }
        }
        while self.waits.queued > 0 {
            let places = 0..self.waits.places.used();
            let served = places.fold(false, |served, place| {
                served | (self.waits.at(place).is_queued && self.serve_one(place))
            });
            if !served {
                return;
            }
        }
    }

    /// Serves a request that waits, if it has its turn.
    fn serve_one(&mut self, place: u32) -> bool {
        let turn = self.turn(place);
        self.note_queued(place, turn == Turn::Queued);
        if turn != Turn::Now {
            return false;
        }
        let Waiting {
            file,
            owner,
            range,
            asked,
            ..
        } = *self.waits.at(place);
        let locked = self.lock(file, owner, range, asked.write());
        self.decide(place, locked);
        if locked.is_err() {
            self.drop_unused(file);
        }
        true
    }

    fn note_queued(&mut self, place: u32, is_queued: bool) {
        let was = self.waits.at(place).is_queued;
        self.waits
            .change(place, |waiting| waiting.is_queued = is_queued);
        self.waits.queued = match (was, is_queued) {
            (false, true) => self.waits.queued.saturating_add(1),
            (true, false) => self.waits.queued.saturating_sub(1),
            _ => self.waits.queued,
        };
    }

    fn turn(&mut self, place: u32) -> Turn {
        let waiting = *self.waits.at(place);
        let Waiting {
            file,
            owner,
            range,
            asked,
            ..
        } = waiting;
        let write = asked.write();
        let mine = self.holder(owner, file).unwrap_or(NONE);
        if self
            .in_the_way(file, owner.space(), range, write, mine)
            .is_some()
        {
            return Turn::Blocked;
        }
        let mut earlier = waiting.before;
        while earlier != NONE {
            let other = *self.waits.at(earlier);
            if other.is_in_the_way_of(owner, range, write)
                && !self.reaches(earlier, owner, Through::Queue)
            {
                return Turn::Queued;
            }
            earlier = other.before;
        }
        Turn::Now
    }

    /// Whether a new request that could be served has to queue behind one that was passed by too
    /// often.
    pub(super) fn must_let_pass(
        &mut self,
        file: u32,
        owner: Owner,
        range: Range,
        write: bool,
    ) -> bool {
        let mut at = self.space(file, owner.space()).first_waiting;
        while at != NONE {
            let waiting = *self.waits.at(at);
            if waiting.passed >= PATIENCE
                && waiting.is_in_the_way_of(owner, range, write)
                && !self.reaches(at, owner, Through::Queue)
            {
                return true;
            }
            at = waiting.behind;
        }
        false
    }

    /// A new request was served: those who wait for what it got were passed by.
    pub(super) fn count_passed(&mut self, file: u32, owner: Owner, range: Range, write: bool) {
        let mut at = self.space(file, owner.space()).first_waiting;
        while at != NONE {
            let waiting = *self.waits.at(at);
            if waiting.is_in_the_way_of(owner, range, write) {
                self.waits.change(at, |waiting| {
                    waiting.passed = waiting.passed.saturating_add(1);
                });
            }
            at = waiting.behind;
        }
    }

    /// Whether the request waits for that owner, directly or through others that wait.
    fn reaches(&mut self, from: u32, owner: Owner, through: Through) -> bool {
        self.waits.search = self.waits.search.wrapping_add(1);
        let search = self.waits.search;
        self.waits.change(from, |waiting| waiting.seen = search);
        let mut left = 0_usize;
        if let Some(first) = self.waits.to_visit.first_mut() {
            *first = from;
            left = 1;
        }
        while left > 0 {
            left = left.saturating_sub(1);
            let Some(place) = self.waits.to_visit.get(left).copied() else {
                break;
            };
            let waiting = *self.waits.at(place);
            let space = self.space(waiting.file, waiting.owner.space());
            let mine = self.holder(waiting.owner, waiting.file).unwrap_or(NONE);
            let reads = if waiting.asked.write() {
                space.reads
            } else {
                NONE
            };
            for root in [space.writes, reads] {
                let mut after = NONE;
                while let Some(lock) =
                    self.trees
                        .touching(Side::File, root, waiting.range, mine, after)
                {
                    after = lock;
                    let holder = self.holder_at(self.trees.at(lock).holder).owner;
                    if holder == owner {
                        return true;
                    }
                    if through == Through::Queue || matches!(holder, Owner::Process { .. }) {
                        self.visit_waiting_of(holder, search, &mut left);
                    }
                }
            }
            if through == Through::Queue {
                let mut earlier = waiting.before;
                while earlier != NONE {
                    let other = *self.waits.at(earlier);
                    if other.is_in_the_way_of(waiting.owner, waiting.range, waiting.asked.write()) {
                        if other.owner == owner {
                            return true;
                        }
                        self.visit(earlier, search, &mut left);
                    }
                    earlier = other.before;
                }
            }
        }
        false
    }

    fn visit_waiting_of(&mut self, owner: Owner, search: u32, left: &mut usize) {
        for place in 0..self.waits.places.used() {
            let waiting = self.waits.at(place);
            if waiting.state == State::Waiting && waiting.owner == owner {
                self.visit(place, search, left);
            }
        }
    }

    /// Puts a request among those a search has still to look at, once.
    fn visit(&mut self, place: u32, search: u32, left: &mut usize) {
        if self.waits.at(place).seen == search {
            return;
        }
        self.waits.change(place, |waiting| waiting.seen = search);
        if let Some(next) = self.waits.to_visit.get_mut(*left) {
            *next = place;
            *left = left.saturating_add(1);
        }
    }

    /// Whether no node of the tables was lost, and nobody waits who could be served. Slow: for
    /// tests.
    pub fn is_sound(&mut self) -> bool {
        let mut held = 0_usize;
        let mut in_files = 0_usize;
        for place in 0..self.holder_places.used() {
            let holder = *self.holder_at(place);
            if holder.file == NONE {
                continue;
            }
            let Some(count) = self.trees.check(Side::Holder, holder.root) else {
                return false;
            };
            held = held.saturating_add(count);
        }
        for file in 0..self.file_places.used() {
            for name in [SpaceName::Ranges, SpaceName::Whole] {
                let space = self.space(file, name);
                for root in [space.reads, space.writes] {
                    let Some(count) = self.trees.check(Side::File, root) else {
                        return false;
                    };
                    in_files = in_files.saturating_add(count);
                }
            }
        }
        let waiting: usize = self.waits.all().count();
        let idle = (0..self.waits.places.used()).all(|place| {
            self.waits.at(place).state != State::Waiting || self.turn(place) != Turn::Now
        });
        idle && self.loans_are_sound()
            && held == in_files
            && held == self.trees.places().taken()
            && waiting <= self.waits.places.taken()
    }
}

/// Whether a request that waits can be served.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Now,
    /// Somebody's lock is in the way.
    Blocked,
    /// Nobody's lock is, but somebody came first.
    Queued,
}

/// What a search follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Through {
    /// Locks of processes that wait themselves.
    Held,
    /// All locks, and the queues.
    Queue,
}
