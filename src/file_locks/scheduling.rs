//! Which requests wait, and when each is served.
//!
//! As in the kernel a request conflicts with locks that are held, and never with requests that wait: a
//! reader does not wait for a writer that only waits, and a holder may take more that is free. Requests
//! that wait are tried in the order in which they came.

use super::wait_queue::{Asked, FREE, State, Waiting};
use super::{Locks, Owner, Range, Set, SpaceName};
use crate::Vmid;
use crate::error::errno;
use crate::store::NONE;
use crate::wire::{Answer, LockKind};

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
        if is_process && self.closes_cycle(place) {
            self.unlink(place);
            self.waits.places.free(place);
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
            self.waits.places.free(place);
            let answer = match asked {
                Asked::About { write } => Answer::Lock(self.held(file, owner, range, write).into()),
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
            if let Some(place) = self.waits.places.alloc() {
                self.waits.change(place, |free| {
                    *free = Waiting { from, seq, ..FREE };
                });
                self.note_decided(place, answer);
            }
        }
    }

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
    pub(super) fn is_blocked(&self, place: u32) -> bool {
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
}
