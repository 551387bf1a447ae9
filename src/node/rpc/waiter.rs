//! A waiter: the state of one call that waits for an answer, or for room to send.

use super::task::Task;
use super::wait_reason::WaitReason;
use crate::error::Error;
use crate::invariant::{Count, OrBroken};
use crate::pal::Time;
use crate::store::{Buffer, SpinLock};
use crate::wire::{Answer, Expected};
use crate::{Id, Vmid};

/// The action on an answer that comes after its call has returned. The leader has executed the
/// request all the same, so this process must act on the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LateReply {
    /// No action: the answer is dropped.
    Drop,
    /// There is no late answer: the call cancels the request, and waits until the peer confirms
    /// that.
    Cancel,
    /// Release the range that the answer carries.
    ReleaseRange,
    /// Finish the transfer of this ID, which succeeded or failed.
    TransferId(Id),
    /// Unlock the range, if the lock was granted.
    Lock(DroppedLock),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitPhase {
    Free,
    /// The call waits for room to send to the peer.
    ForRoom,
    /// The call waits for an answer.
    ForAnswer,
    /// The call has returned, but a late answer needs an action.
    Abandoned,
    Answered(Answer<'static>),
    Failed(Error),
}

pub(super) struct WaiterState<'m> {
    pub(super) phase: WaitPhase,
    pub(super) peer: Option<Vmid>,
    pub(super) what: WaitReason,
    pub(super) since: Time,
    pub(super) seq: u64,
    /// The request is for the leader, whichever process leads.
    pub(super) is_for_leader: bool,
    pub(super) expected: Expected,
    pub(super) late: LateReply,
    /// The buffer for the data of the answer, for a request whose answer has data.
    pub(super) buffer: Option<Buffer<'m>>,
    pub(super) length: usize,
}

pub(crate) struct Waiter<'m, E> {
    pub(super) event: E,
    pub(super) task: Task,
    pub(super) state: SpinLock<WaiterState<'m>>,
}

/// The state of a request for a lock that nobody waits for any more. `delegation` is the number of the
/// delegation that was requested with it, 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DroppedLock {
    /// The cancellation is to be sent.
    Cancel { delegation: u64 },
    /// The outcome is to come.
    Sent { delegation: u64 },
    /// The lock was granted, and the unlock is to be sent.
    Unlock,
    /// The answer to the unlock is to come.
    Unlocked,
}

/// The waiter that a call has allocated. The call must return it with [`Waiters::release`] or
/// [`Waiters::abandon`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaitToken {
    slot: usize,
    pub(crate) seq: u64,
}

impl WaitToken {
    pub(super) const fn new(slot: usize, seq: u64) -> WaitToken {
        WaitToken { slot, seq }
    }

    pub(super) fn slot(self) -> usize {
        self.slot
    }

    /// Returns the number of the waiter for [`Waiters::wake`]. It is never 0.
    pub(crate) fn name(self) -> u32 {
        u32::try_from(self.slot.plus(1)).or_broken(u32::MAX)
    }
}
