//! Which requests that wait are served when, and which wait would never end.
//!
//! As in the kernel a request conflicts with locks that are held, and never with requests that wait: a
//! reader does not wait for a writer that only waits, and a holder may take more that is free. Requests
//! that wait are tried in the order in which they came. So each wait is for a holder, and a wait that
//! never ends is a cycle of holders.

use super::interval_tree::Side;
use super::wait_queue::{State, Waiting};
use super::{Locks, Owner, SpaceName};
use crate::store::NONE;

impl Locks<'_> {
    /// Serves the requests that wait on that file, in order, as far as no lock conflicts with them any
    /// more. The file may be unused then, and is to be dropped by the caller.
    pub(super) fn serve(&mut self, file: u32, name: SpaceName) {
        loop {
            let mut has_released = false;
            let mut at = self.space(file, name).first_waiting;
            while at != NONE {
                let next = self.waits.at(at).behind;
                has_released |= self.serve_one(at);
                at = next;
            }
            // An owner that had a lock to write and now has one to read lets earlier requests in, too.
            if !has_released {
                return;
            }
        }
    }

    /// Serves a request that waits, if no lock conflicts with it. Returns whether others may have more
    /// than before.
    fn serve_one(&mut self, place: u32) -> bool {
        if self.is_blocked(place) {
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
        self.decide(place, locked.map(drop));
        locked == Ok(true)
    }

    /// Whether a lock that is held conflicts with the request.
    fn is_blocked(&self, place: u32) -> bool {
        let Waiting {
            file,
            owner,
            range,
            asked,
            ..
        } = *self.waits.at(place);
        let mine = self.holder(owner, file).unwrap_or(NONE);
        self.in_the_way(file, owner.space(), range, asked.write(), mine)
            .is_some()
    }

    /// Whether the request waits for its own owner, through other processes that wait.
    pub(super) fn closes_cycle(&mut self, from: u32) -> bool {
        let owner = self.waits.at(from).owner;
        self.waits.search = self.waits.search.wrapping_add(1);
        let search = self.waits.search;
        let mut left = 0;
        self.visit(from, search, &mut left);
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
                    if matches!(holder, Owner::Process { .. }) {
                        self.visit_waiting_of(holder, search, &mut left);
                    }
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
    pub fn is_sound(&self) -> bool {
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
            if state == State::Waiting && !self.is_blocked(place) {
                return false;
            }
            in_use = in_use.saturating_add(usize::from(state != State::Free));
        }
        self.loans_are_sound()
            && self.handles.is_sound()
            && held == in_files
            && held == self.trees.places().taken()
            && in_use == self.waits.places.taken()
    }
}

#[cfg(test)]
mod tests {
    use crate::file_locks::{LockLimits, Set};
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
    const RANGE: (u64, u64) = (0, 9);

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
