//! Calls that wait: for an answer, or for room to send.
//!
//! A waiter is found by its sequence number alone, in O(1), and the number is believed only if it
//! is that of the present call and the answer comes from the process that was asked.

use crate::error::{Error, Resource};
use crate::pal::{Event, OutOfResources, Time};
use crate::store::{Arena, Buffer, SpinLock, Table, bytes_for, copy};
use crate::wire::{Answer, Expected};

use super::reply_buffers::{Buffers, Data};
use super::wait_reason::{Waiting, WaitsFor};
use crate::wire::PATH_MAX;
use crate::{Id, Vmid};

/// Sequence numbers stay below this: a C leader answers a delayed request with the low 32 bits.
const SEQ_LIMIT: u64 = 1 << 32;

/// What is to happen when an answer comes after the call gave up: the leader has done what was
/// asked all the same, and this process must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    /// Nothing: the answer is dropped.
    Drop,
    /// Nothing, for there is none: the peer can be told to give up, and answers then.
    Cancel,
    /// A range came: it goes back.
    GiveBack,
    /// This ID was, or was not, handed on.
    HandedOn(Id),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Free,
    /// For room to send to the peer.
    ForRoom,
    /// For an answer.
    Waiting,
    /// The call gave up, but a late answer matters.
    GaveUp,
    Answered(Answer<'static>),
    Failed(Error),
}

pub(super) struct State<'m> {
    pub(super) phase: Phase,
    pub(super) peer: Option<Vmid>,
    pub(super) what: WaitsFor,
    since: Time,
    pub(super) seq: u64,
    pub(super) expected: Expected,
    pub(super) late: Late,
    /// Where an answer's data is put, for a request that has such an answer.
    pub(super) buffer: Option<Buffer<'m>>,
    pub(super) length: usize,
}

pub(crate) struct Waiter<'m, E> {
    pub(super) event: E,
    pub(super) state: SpinLock<State<'m>>,
}

struct FreeList<'m> {
    stack: Table<'m, u32>,
    free: usize,
    least_free: usize,
}

pub(crate) struct Waiters<'m, E> {
    pub(super) slots: Table<'m, Waiter<'m, E>>,
    free: SpinLock<FreeList<'m>>,
    buffers: SpinLock<Buffers<'m>>,
}

/// A waiter of this call's own. It must go back with [`Waiters::give`] or [`Waiters::give_up`].
#[derive(Clone, Copy)]
pub(crate) struct Claim {
    slot: usize,
    pub(crate) seq: u64,
}

impl Claim {
    /// What [`Waiters::nudge`] knows the waiter by. Never 0.
    pub(crate) fn name(self) -> u32 {
        u32::try_from(self.slot)
            .unwrap_or(u32::MAX)
            .saturating_add(1)
    }
}

impl<'m, E: Event> Waiters<'m, E> {
    pub(crate) const fn bytes(capacity: usize, buffers: usize) -> usize {
        bytes_for::<Waiter<'m, E>>(capacity)
            .saturating_add(bytes_for::<u32>(capacity))
            .saturating_add(Buffers::bytes(buffers, PATH_MAX))
    }

    pub(crate) fn new(
        arena: &mut Arena<'m>,
        capacity: usize,
        buffers: usize,
        event: impl Fn() -> Result<E, OutOfResources>,
    ) -> Result<Self, Error> {
        let slots = arena.alloc_table(capacity, |_| {
            Ok(Waiter {
                event: event().map_err(|_| Error::Platform)?,
                state: SpinLock::new(State {
                    phase: Phase::Free,
                    peer: None,
                    what: WaitsFor::Room,
                    since: Time(0),
                    seq: 0,
                    expected: Expected::Anything,
                    late: Late::Drop,
                    buffer: None,
                    length: 0,
                }),
            })
        })?;
        let stack = arena.alloc_table(capacity, |index| Ok(u32::try_from(index).unwrap_or(0)))?;
        let free = FreeList {
            stack,
            free: capacity,
            least_free: capacity,
        };
        let buffers = Buffers::new(arena, buffers, PATH_MAX)?;
        Ok(Waiters {
            slots,
            free: SpinLock::new(free),
            buffers: SpinLock::new(buffers),
        })
    }

    /// Claims a waiter for an answer of `peer`, or for room to send to it if nothing is expected.
    pub(crate) fn claim(
        &self,
        peer: Vmid,
        (what, since): (WaitsFor, Time),
        expected: Option<Expected>,
        late: Late,
    ) -> Result<Claim, Error> {
        let taken = {
            let mut list = self.free.lock();
            list.free.checked_sub(1).and_then(|free| {
                list.free = free;
                list.least_free = list.least_free.min(free);
                list.stack.get(free).map(|slot| *slot as usize)
            })
        };
        let found = taken.and_then(|slot| Some((slot, self.slots.get(slot)?)));
        let Some((slot, waiter)) = found else {
            return Err(Error::Full(Resource::Waiters));
        };
        let mut buffer = None;
        if expected == Some(Expected::Meta) {
            buffer = self.buffers.lock().take();
            if buffer.is_none() {
                self.free(slot);
                return Err(Error::Full(Resource::ReplyBuffers));
            }
        }
        waiter.event.clear();
        let mut state = waiter.state.lock();
        // seq - 1 = slot modulo the capacity, so that an answer finds its slot at once.
        let count = self.slots.len() as u64;
        let next = state.seq.saturating_add(count);
        state.seq = if state.seq == 0 || next >= SEQ_LIMIT {
            (slot as u64).saturating_add(1)
        } else {
            next
        };
        state.peer = Some(peer);
        state.what = what;
        state.since = since;
        state.late = late;
        state.buffer = buffer;
        state.length = 0;
        state.phase = match expected {
            Some(expected) => {
                state.expected = expected;
                Phase::Waiting
            }
            None => Phase::ForRoom,
        };
        Ok(Claim {
            slot,
            seq: state.seq,
        })
    }

    /// The event that is set when something becomes of the wait.
    pub(crate) fn event(&self, claim: Claim) -> Option<&E> {
        self.slots.get(claim.slot).map(|waiter| &waiter.event)
    }

    /// What became of the wait so far.
    pub(crate) fn outcome(&self, claim: Claim) -> Option<Result<Answer<'static>, Error>> {
        let waiter = self.slots.get(claim.slot)?;
        let state = waiter.state.lock();
        match state.phase {
            Phase::Answered(answer) => Some(Ok(answer)),
            Phase::Failed(error) => Some(Err(error)),
            _ => None,
        }
    }

    /// Gives the waiter back after its outcome is known, or nothing was sent.
    pub(crate) fn give(&self, claim: Claim) {
        self.finish(claim, &mut Data::none());
    }

    /// As [`Waiters::give`], after the answer's data was copied: as much as there is room for, and
    /// its whole length.
    pub(crate) fn finish(&self, claim: Claim, data: &mut Data<'_>) {
        if let Some(waiter) = self.slots.get(claim.slot) {
            let (buffer, length) = {
                let mut state = waiter.state.lock();
                state.phase = Phase::Free;
                (state.buffer.take(), state.length)
            };
            if let Some(buffer) = buffer {
                data.length = length;
                copy(
                    data.bytes,
                    buffer.initialized().get(..length).unwrap_or(&[]),
                );
                self.buffers.lock().give(buffer);
            }
            self.free(claim.slot);
        }
    }

    /// Gives up the wait; returns the outcome if it came at the last moment. A waiter whose late
    /// answer matters stays taken until that comes or the peer goes away.
    pub(crate) fn give_up(
        &self,
        claim: Claim,
        data: &mut Data<'_>,
    ) -> Option<Result<Answer<'static>, Error>> {
        let waiter = self.slots.get(claim.slot)?;
        let outcome = {
            let mut state = waiter.state.lock();
            match state.phase {
                Phase::Answered(answer) => Some(Ok(answer)),
                Phase::Failed(error) => Some(Err(error)),
                Phase::Waiting if state.late != Late::Drop => {
                    state.phase = Phase::GaveUp;
                    return None;
                }
                _ => {
                    state.phase = Phase::Free;
                    None
                }
            }
        };
        self.finish(claim, data);
        outcome
    }

    /// What a call waits for that asked `peer` with that number.
    #[cfg(feature = "capi")]
    pub(crate) fn expected(&self, peer: Vmid, seq: u64) -> Option<Expected> {
        let state = self.slot_of(seq)?.1.state.lock();
        let waits = matches!(state.phase, Phase::Waiting | Phase::GaveUp);
        (waits && state.seq == seq && state.peer == Some(peer)).then_some(state.expected)
    }

    pub(super) fn slot_of(&self, seq: u64) -> Option<(usize, &Waiter<'m, E>)> {
        let slot = usize::try_from(seq.wrapping_sub(1)).unwrap_or(usize::MAX);
        let slot = slot.checked_rem(self.slots.len())?;
        Some((slot, self.slots.get(slot)?))
    }

    pub(super) fn free(&self, slot: usize) {
        let mut list = self.free.lock();
        let free = list.free;
        if let Some(place) = list.stack.get_mut(free) {
            *place = u32::try_from(slot).unwrap_or(0);
            list.free = free.saturating_add(1);
        }
    }

    /// The calls that wait at that time, in no order.
    pub(crate) fn all(&self, now: Time) -> impl Iterator<Item = Waiting> {
        self.slots.iter().filter_map(move |waiter| {
            let state = waiter.state.lock();
            let gave_up = state.phase == Phase::GaveUp;
            let waits = gave_up || matches!(state.phase, Phase::Waiting | Phase::ForRoom);
            Some(Waiting {
                what: state.what,
                peer: state.peer.filter(|_| waits)?,
                seq: state.seq,
                waited: now.since(state.since),
                gave_up,
            })
        })
    }

    /// Waiters in use now, and the most ever.
    pub(crate) fn fill(&self) -> (usize, usize) {
        let list = self.free.lock();
        let limit = self.slots.len();
        (
            limit.saturating_sub(list.free),
            limit.saturating_sub(list.least_free),
        )
    }
}
