//! Requests that wait, and in which order they are served.
//!
//! A lock that nobody's lock is in the way of is given at once, whoever waits: so does the kernel,
//! and a process that holds something may need more of it to let go. Among those who wait, who came
//! first is served first where they are in each other's way. Two exceptions: one that the earlier
//! one itself waits for goes first, or both would wait for ever; and one that was passed by too often
//! is passed no more by those who can wait.

use super::tree::Side;
use super::waits::{State, Waiting};
use super::{Locks, Owner, Range, SpaceName};
use crate::store::NONE;

/// How often a waiting request is passed by before others have to queue behind it.
const PATIENCE: u32 = 64;

impl Locks<'_> {
    /// Serves those who wait on that file, in order, as far as nobody is in the way any more; and
    /// those anywhere who only queue behind others, for what they wait for may have changed. The file
    /// may be unused then, and is to be dropped by the caller; any other has somebody who waits.
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
        true
    }

    pub(super) fn note_queued(&mut self, place: u32, is_queued: bool) {
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
    pub(super) fn reaches(&mut self, from: u32, owner: Owner, through: Through) -> bool {
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
                while let Some(lock) = self.trees.next_touching(root, waiting.range, mine, after) {
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
        let mut in_use = 0_usize;
        for place in 0..self.waits.places.used() {
            let state = self.waits.at(place).state;
            if state == State::Waiting && self.turn(place) == Turn::Now {
                return false;
            }
            in_use = in_use.saturating_add(usize::from(state != State::Free));
        }
        self.loans_are_sound()
            && held == in_files
            && held == self.trees.places().taken()
            && in_use == self.waits.places.taken()
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
pub(super) enum Through {
    /// Locks of processes that wait themselves.
    Held,
    /// All locks, and the queues.
    Queue,
}

#[cfg(test)]
mod tests {
    use super::super::{LockLimits, Set};
    use core::mem::MaybeUninit;

    use super::*;
    use crate::Vmid;
    use crate::store::Arena;
    use crate::wire::{FileLock, LockFamily, LockKind};

    const LIMITS: LockLimits = LockLimits {
        locks: 4,
        files: 1,
        waiting: 1,
        handles: 0,
    };
    const RANGE: Range = (0, 9);

    /// With two locks of one process, for one of which another waits.
    fn is_sound_after(fault: fn(&mut Locks<'_>)) -> bool {
        let mut memory = [MaybeUninit::uninit(); Locks::bytes(&LIMITS)];
        let mut locks = Locks::new(&mut Arena::new(&mut memory), &LIMITS).unwrap();
        let lock = FileLock {
            family: LockFamily::Posix,
            kind: LockKind::Write,
            start: RANGE.0,
            end: RANGE.1,
            pid: 1,
            handle: 0,
            wait: true,
            path: b"a",
        };
        let other = FileLock {
            kind: LockKind::Read,
            start: 20,
            end: 29,
            ..lock
        };
        let second = Vmid::new(2).unwrap();
        assert_eq!(locks.set(Vmid::FIRST, 1, &lock), Ok(Set::Done));
        assert_eq!(locks.set(Vmid::FIRST, 2, &other), Ok(Set::Done));
        assert_eq!(locks.set(second, 3, &lock), Ok(Set::Waits));
        fault(&mut locks);
        locks.is_sound()
    }

    #[test]
    fn what_is_lost_or_not_served_is_found_out() {
        assert!(is_sound_after(|_| {}));
        let faults: [fn(&mut Locks<'_>); 5] = [
            |locks| locks.holders[0].root = NONE,
            |locks| locks.change_space(0, SpaceName::Ranges, |space| space.reads = NONE),
            |locks| assert!(locks.trees.make((40, 49), true, (0, 1)).is_some()),
            |locks| {
                let owner = locks.holder_at(0).owner;
                assert_eq!(locks.unlock_quietly(0, owner, RANGE), Ok(true));
            },
            |locks| locks.waits.places.give(0),
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            assert!(!is_sound_after(fault), "fault {number}");
        }
    }
}
