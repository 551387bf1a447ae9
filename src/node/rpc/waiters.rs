//! The table of calls that wait for an answer or for room to send.
//!
//! The sequence number of an answer finds the waiter in O(1). The answer is accepted only if the
//! number is that of the present call and the answer comes from the process that was asked.

use crate::error::{Error, Resource};
use crate::invariant::{Count, OrBroken, broken};
use crate::pal::{Event, OutOfResources, Time};
use crate::store::{
    Arena, Buffer, Contended, Rank, SpinLock, SpinLockGuard, Table, bytes_for, copy, memory_sum,
};
use crate::sync::{AtomicU32, AtomicU64};
use crate::wire::{Answer, Expected};

use super::free_list::FreeList;
use super::reply_buffers::{BUFFER_LENGTH, ReplyBuffers, ReplyData};
use super::task::{NO_LIMIT, Task};
use super::wait_reason::{PendingCall, WaitReason};
use super::waiter::{LateReply, WaitPhase, WaitToken, Waiter, WaiterState};
use crate::Vmid;

/// Sequence numbers stay below this limit: a C leader answers a delayed request with the low 32
/// bits of the number.
const SEQ_LIMIT: u64 = 1 << 32;

/// The number of waiters that are set aside, in a table that has four times as many.
pub(crate) const MAX_SET_ASIDE: usize = 16;

pub(crate) struct Waiters<'m, E> {
    pub(super) slots: Table<'m, Waiter<'m, E>>,
    free: SpinLock<FreeList<'m>>,
    buffers: SpinLock<ReplyBuffers<'m>>,
    /// The earliest time at which a task must be woken, or an earlier one.
    pub(super) next_limit: AtomicU64,
    /// The task that shuts the node down.
    pub(super) shutdown: Task,
    /// The number of waiters with [`LateReply::Lock`].
    pub(super) dropped_locks: AtomicU32,
}

impl<'m, E: Event> Waiters<'m, E> {
    pub(crate) const fn bytes(capacity: usize, buffers: usize) -> usize {
        memory_sum!(
            bytes_for::<Waiter<'m, E>>(capacity),
            FreeList::bytes(capacity),
            ReplyBuffers::bytes(buffers, BUFFER_LENGTH),
        )
    }

    pub(crate) fn new(
        arena: &mut Arena<'m>,
        contended: Contended,
        capacity: usize,
        buffers: usize,
        event: impl Fn() -> Result<E, OutOfResources>,
    ) -> Result<Self, Error> {
        let slots = arena.try_alloc_table(capacity, |_| {
            Ok::<_, Error>(Waiter {
                event: event().map_err(|_| Error::Platform)?,
                task: Task::new(contended),
                state: SpinLock::new(
                    Rank::Waiter,
                    contended,
                    WaiterState {
                        phase: WaitPhase::Free,
                        peer: None,
                        what: WaitReason::Room,
                        since: Time(0),
                        seq: 0,
                        is_for_leader: false,
                        expected: Expected::Status,
                        late: LateReply::Drop,
                        buffer: None,
                        length: 0,
                    },
                ),
            })
        })?;
        let free = FreeList::new(arena, capacity);
        let buffers = ReplyBuffers::new(arena, buffers, BUFFER_LENGTH);
        Ok(Waiters {
            slots,
            free: SpinLock::new(Rank::FreeWaiters, contended, free),
            buffers: SpinLock::new(Rank::ReplyBuffers, contended, buffers),
            next_limit: AtomicU64::new(NO_LIMIT),
            shutdown: Task::new(contended),
            dropped_locks: AtomicU32::new(0),
        })
    }

    /// Allocates a waiter for an answer of `peer`, or for room to send to `peer` if `expected` is
    /// `None`; the flag beside the expected answer says whether the request is for the leader, whichever
    /// process leads. A wait that `is_open_ended` lasts as long as other processes or threads like, so some
    /// waiters are set aside for those that end by themselves: a call that releases something finds one
    /// however many threads wait for a lock.
    pub(crate) fn claim(
        &self,
        peer: Vmid,
        (what, since): (WaitReason, Time),
        expected: Option<(Expected, bool)>,
        late: LateReply,
        is_open_ended: bool,
    ) -> Result<WaitToken, Error> {
        let set_aside = if is_open_ended {
            (self.slots.len() / 4).min(MAX_SET_ASIDE)
        } else {
            0
        };
        let taken = self.free.lock().take(set_aside);
        let found = taken.and_then(|slot| Some((slot, self.slots.get(slot)?)));
        let Some((slot, waiter)) = found else {
            return Err(Error::Full(Resource::Waiters));
        };
        if waiter.event.prepare().is_err() {
            self.free(slot);
            return Err(Error::Platform);
        }
        let mut buffer = None;
        if matches!(expected, Some((Expected::Meta, _))) {
            buffer = self.alloc_buffer();
            if buffer.is_none() {
                self.free(slot);
                return Err(Error::Full(Resource::ReplyBuffers));
            }
        }
        waiter.event.clear();
        let mut state = waiter.state.lock();
        state.seq = self.next_seq(slot, state.seq);
        state.peer = Some(peer);
        state.what = what;
        state.since = since;
        state.late = late;
        state.buffer = buffer;
        state.length = 0;
        state.phase = match expected {
            Some((expected, is_for_leader)) => {
                state.expected = expected;
                state.is_for_leader = is_for_leader;
                WaitPhase::ForAnswer
            }
            None => WaitPhase::ForRoom,
        };
        Ok(WaitToken::new(slot, state.seq))
    }

    /// Returns the event that is set when the wait ends or its caller must check again.
    pub(crate) fn event(&self, claim: WaitToken) -> Option<&E> {
        self.slots.get(claim.slot()).map(|waiter| &waiter.event)
    }

    /// Returns the number after `seq` in that slot: `seq - 1` is the slot modulo the capacity, so that an answer finds its
    /// slot in O(1).
    pub(super) fn next_seq(&self, slot: usize, seq: u64) -> u64 {
        let next = seq.plus(self.slots.len() as u64);
        if seq == 0 || next >= SEQ_LIMIT {
            (slot as u64).plus(1)
        } else {
            next
        }
    }

    /// Has the calls that wait for an answer of the leader `old` wait for one of `new`, if their requests
    /// are kept, as `is_kept` says of their sequence numbers. Those that wait for room check again.
    pub(in crate::node) fn follow(
        &self,
        old: Vmid,
        new: Vmid,
        mut is_kept: impl FnMut(u64) -> bool,
    ) {
        for (slot, waiter) in self.in_use() {
            let mut state = waiter.state.lock();
            if state.peer != Some(old) {
                continue;
            }
            match state.phase {
                WaitPhase::ForAnswer | WaitPhase::Abandoned
                    if state.is_for_leader && is_kept(state.seq) =>
                {
                    state.peer = Some(new);
                }
                WaitPhase::ForRoom => {
                    state.peer = Some(new);
                    drop(state);
                    self.notify(slot);
                }
                _ => {}
            }
        }
    }

    /// Changes the reason of a wait.
    pub(super) fn set_reason(&self, claim: WaitToken, what: WaitReason) {
        if let Some(waiter) = self.slots.get(claim.slot()) {
            waiter.state.lock().what = what;
        }
    }

    /// Returns the outcome of the wait, if there is one.
    pub(crate) fn outcome(&self, claim: WaitToken) -> Option<Result<Answer<'static>, Error>> {
        let waiter = self.slots.get(claim.slot())?;
        let state = waiter.state.lock();
        match state.phase {
            WaitPhase::Answered(answer) => Some(Ok(answer)),
            WaitPhase::Failed(error) => Some(Err(error)),
            _ => None,
        }
    }

    /// Returns the outcome of the wait, if there is one, and frees the waiter. Copies the data of the
    /// answer, as [`Waiters::finish`].
    pub(super) fn take_outcome(
        &self,
        claim: WaitToken,
        data: &mut ReplyData<'_>,
    ) -> Option<Result<Answer<'static>, Error>> {
        let waiter = self.slots.get(claim.slot())?;
        let state = waiter.state.lock();
        let outcome = match state.phase {
            WaitPhase::Answered(answer) => Ok(answer),
            WaitPhase::Failed(error) => Err(error),
            _ => return None,
        };
        self.free_waiter(claim, waiter, state, data);
        Some(outcome)
    }

    /// Frees the waiter after the call has read the outcome, or has sent nothing.
    pub(crate) fn release(&self, claim: WaitToken) {
        self.finish(claim, &mut ReplyData::none());
    }

    /// Like [`Waiters::release`]; copies the data of the answer before, as far as it fits, and
    /// stores its whole length.
    pub(crate) fn finish(&self, claim: WaitToken, data: &mut ReplyData<'_>) {
        if let Some(waiter) = self.slots.get(claim.slot()) {
            self.free_waiter(claim, waiter, waiter.state.lock(), data);
        }
    }

    fn free_waiter(
        &self,
        claim: WaitToken,
        waiter: &Waiter<'m, E>,
        mut state: SpinLockGuard<'_, WaiterState<'m>>,
        data: &mut ReplyData<'_>,
    ) {
        state.phase = WaitPhase::Free;
        let (buffer, length) = (state.buffer.take(), state.length);
        drop(state);
        waiter.task.clear();
        if let Some(buffer) = buffer {
            data.length = length;
            copy(
                data.bytes,
                buffer.initialized().get(..length).or_broken(&[]),
            );
            self.buffers.lock().free(buffer);
        }
        self.free(claim.slot());
    }

    /// Ends the wait without an outcome; returns the outcome if it has just come. A waiter whose
    /// late answer needs an action stays allocated until the answer comes or the peer is gone.
    pub(crate) fn abandon(
        &self,
        claim: WaitToken,
        data: &mut ReplyData<'_>,
    ) -> Option<Result<Answer<'static>, Error>> {
        let waiter = self.slots.get(claim.slot())?;
        let outcome = {
            let mut state = waiter.state.lock();
            match state.phase {
                WaitPhase::Answered(answer) => Some(Ok(answer)),
                WaitPhase::Failed(error) => Some(Err(error)),
                WaitPhase::ForAnswer if state.late != LateReply::Drop => {
                    state.phase = WaitPhase::Abandoned;
                    // Before another call can get the waiter.
                    let target = waiter.task.take_target();
                    drop(state);
                    drop(target);
                    return None;
                }
                _ => {
                    state.phase = WaitPhase::Free;
                    None
                }
            }
        };
        self.finish(claim, data);
        outcome
    }

    /// Returns the form of the answer to the request `seq` to `peer`, if a call waits for it.
    #[cfg(feature = "capi")]
    pub(crate) fn expected(&self, peer: Vmid, seq: u64) -> Option<Expected> {
        let state = self.slot_of(seq)?.1.state.lock();
        let waits = matches!(state.phase, WaitPhase::ForAnswer | WaitPhase::Abandoned);
        (waits && state.seq == seq && state.peer == Some(peer)).then_some(state.expected)
    }

    pub(super) fn slot_of(&self, seq: u64) -> Option<(usize, &Waiter<'m, E>)> {
        let slot = seq.wrapping_sub(1).checked_rem(self.slots.len() as u64)?;
        let slot = usize::try_from(slot).ok()?;
        Some((slot, self.slots.get(slot)?))
    }

    /// Allocates a buffer, if one is free.
    pub(super) fn alloc_buffer(&self) -> Option<Buffer<'m>> {
        self.buffers.lock().alloc()
    }

    /// Frees a waiter whose call has returned before.
    pub(super) fn free_abandoned(
        &self,
        slot: usize,
        mut state: SpinLockGuard<'_, WaiterState<'m>>,
    ) {
        state.phase = WaitPhase::Free;
        let (buffer, late) = (state.buffer.take(), state.late);
        drop(state);
        if let Some(buffer) = buffer {
            self.buffers.lock().free(buffer);
        }
        if let LateReply::Lock(_) = late {
            self.count_dropped_lock_end();
        }
        self.free(slot);
    }

    fn free(&self, slot: usize) {
        match u32::try_from(slot) {
            Ok(slot) => self.free.lock().put(slot),
            Err(_) => broken(),
        }
    }

    /// Returns the waiters in use with the numbers of their slots. Each step takes as many steps under the lock as the table has
    /// words at most. Waiters that are claimed meanwhile may be missing.
    pub(super) fn in_use(&self) -> impl Iterator<Item = (usize, &Waiter<'m, E>)> {
        let mut next = 0_u32;
        core::iter::from_fn(move || {
            let slot = self.free.lock().next_in_use(next)?;
            next = slot.plus(1);
            let slot = slot as usize;
            Some((slot, self.slots.get(slot)?))
        })
    }

    /// Returns the calls that wait at the time `now`, in no order.
    pub(crate) fn all(&self, now: Time) -> impl Iterator<Item = PendingCall> {
        self.in_use().filter_map(move |(_, waiter)| {
            let state = waiter.state.lock();
            let abandoned = state.phase == WaitPhase::Abandoned;
            let waits =
                abandoned || matches!(state.phase, WaitPhase::ForAnswer | WaitPhase::ForRoom);
            Some(PendingCall {
                what: state.what,
                peer: state.peer.filter(|_| waits)?,
                seq: state.seq,
                waited: now.since(state.since),
                abandoned,
            })
        })
    }

    /// Returns the number of waiters in use now, and the highest number so far.
    pub(crate) fn usage(&self) -> (usize, usize) {
        self.free.lock().usage()
    }
}
