//! The events that end the wait of a call: its answer, a failure, or a wake.

use super::wait_reason::WaitReason;
use super::waiter::{DroppedLock, LateReply, WaitPhase, WaitToken, WaiterState};
use super::waiters::Waiters;
use crate::Vmid;
use crate::error::Error;
use crate::invariant::{Count, OrBroken};
use crate::pal::Event;
use crate::store::{SpinLockGuard, copy};
use crate::wire::Answer;

/// The result of delivering an answer.
pub(crate) enum Delivery {
    /// The waiter has the answer.
    Done,
    /// No call waits for the answer.
    Dropped,
    /// The call has returned before; the worker must take this action.
    Late(LateReply, Answer<'static>),
    /// The request for a lock was dropped before; the node must act on the answer.
    DroppedLock(WaitToken, DroppedLock, Answer<'static>),
    /// The answer does not have the form that belongs to the request.
    Wrong,
}

impl<'m, E: Event> Waiters<'m, E> {
    /// Delivers the answer `seq` of `peer` to its waiter.
    pub(crate) fn answer(&self, peer: Vmid, seq: u64, payload: &[u8]) -> Delivery {
        let Some((slot, waiter)) = self.slot_of(seq) else {
            return Delivery::Dropped;
        };
        let mut state = waiter.state.lock();
        let fits = state.seq == seq && state.peer == Some(peer);
        if !fits || !matches!(state.phase, WaitPhase::ForAnswer | WaitPhase::Abandoned) {
            return Delivery::Dropped;
        }
        let Ok(answer) = Answer::decode(state.expected, payload) else {
            return Delivery::Wrong;
        };
        let Some(answer) = state.keep(answer) else {
            return Delivery::Wrong;
        };
        if matches!(state.phase, WaitPhase::Abandoned) {
            return self.late(slot, state, answer);
        }
        state.phase = WaitPhase::Answered(answer);
        drop(state);
        self.notify(slot);
        Delivery::Done
    }

    /// Handles an answer to a call that has returned.
    fn late(
        &self,
        slot: usize,
        state: SpinLockGuard<'_, WaiterState<'m>>,
        answer: Answer<'static>,
    ) -> Delivery {
        let late = state.late;
        if let LateReply::Lock(dropped) = late {
            // The waiter keeps the range.
            return Delivery::DroppedLock(WaitToken::new(slot, state.seq), dropped, answer);
        }
        self.free_abandoned(slot, state);
        Delivery::Late(late, answer)
    }

    /// Delivers an answer of this process to its own request.
    pub(crate) fn answer_here(&self, us: Vmid, seq: u64, answer: &Answer<'_>) -> Delivery {
        let Some((slot, waiter)) = self.slot_of(seq) else {
            return Delivery::Dropped;
        };
        let mut state = waiter.state.lock();
        if state.seq != seq || state.peer != Some(us) {
            return Delivery::Dropped;
        }
        match (state.phase, state.keep(*answer)) {
            (WaitPhase::ForAnswer, answer) => {
                if let Some(answer) = answer {
                    state.phase = WaitPhase::Answered(answer);
                }
                drop(state);
                self.notify(slot);
                Delivery::Done
            }
            (WaitPhase::Abandoned, Some(answer)) => self.late(slot, state, answer),
            _ => Delivery::Dropped,
        }
    }

    /// Ends every wait on `peer` with `error`; all waits if `peer` is `None`.
    pub(crate) fn fail(&self, peer: Option<Vmid>, error: Error) {
        for (slot, waiter) in self.in_use() {
            let mut state = waiter.state.lock();
            if peer.is_some() && state.peer != peer {
                continue;
            }
            match state.phase {
                WaitPhase::ForAnswer | WaitPhase::ForRoom => {
                    state.phase = WaitPhase::Failed(error);
                    drop(state);
                    self.notify(slot);
                }
                WaitPhase::Abandoned => self.free_abandoned(slot, state),
                _ => {}
            }
        }
    }

    /// Wakes the calls that wait for room to send to `peer`.
    pub(crate) fn wake_for_room(&self, peer: Vmid) {
        for (slot, waiter) in self.in_use() {
            let state = waiter.state.lock();
            // A request whose call waits for its answer may not be in the queue yet.
            let waits = match state.phase {
                WaitPhase::ForRoom => true,
                WaitPhase::ForAnswer => state.what == WaitReason::Room,
                _ => false,
            };
            if waits && state.peer == Some(peer) {
                drop(state);
                self.notify(slot);
            }
        }
    }

    /// Like [`Waiters::wake`], for all waiters with the reason `what` for which `is_meant` returns
    /// true.
    pub(crate) fn wake_all(&self, what: WaitReason, is_meant: impl Fn(u32) -> bool) {
        for (slot, waiter) in self.in_use() {
            let state = waiter.state.lock();
            let name = u32::try_from(slot.plus(1)).or_broken(0);
            if matches!(state.phase, WaitPhase::ForRoom) && state.what == what && is_meant(name) {
                drop(state);
                self.notify(slot);
            }
        }
    }

    /// Wakes the waiter with that number, whichever call has it now; the call then checks again.
    /// Does nothing for 0.
    pub(crate) fn wake(&self, name: u32) {
        if let Some(slot) = name.checked_sub(1) {
            self.notify(slot as usize);
        }
    }
}

impl WaiterState<'_> {
    /// Returns the answer without its borrowed data, which is copied into the buffer. None if there
    /// is no buffer, or the data is longer.
    fn keep(&mut self, answer: Answer<'_>) -> Option<Answer<'static>> {
        Some(match answer {
            Answer::Empty => Answer::Empty,
            Answer::Vmid(vmid) => Answer::Vmid(vmid),
            Answer::IdRange(range) => Answer::IdRange(range),
            Answer::Owner(owner) => Answer::Owner(owner),
            Answer::Status(status) => Answer::Status(status),
            Answer::Lock(lock) => Answer::Lock(lock),
            Answer::Process(process) => Answer::Process(process),
            Answer::End(end) => Answer::End(end),
            Answer::Fencing(number) => Answer::Fencing(number),
            Answer::Rejoin(rejoined) => Answer::Rejoin(rejoined),
            Answer::Leader(leader) => Answer::Leader(leader),
            Answer::Meta(Err(errno)) => Answer::Meta(Err(errno)),
            Answer::Meta(Ok(data)) => {
                let buffer = self.buffer.as_mut()?;
                let fits = data.len() <= buffer.capacity();
                copy(fits.then(|| buffer.prefix_mut(data.len()))?, data);
                self.length = data.len();
                Answer::Meta(Ok(&[]))
            }
        })
    }
}
