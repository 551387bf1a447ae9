//! The operations: all changes of the leader's state.
//!
//! An operation is plain data. It contains the facts that the node knows and the leader's tables do
//! not: that a process is connected, that a time limit has passed, that a queue had room. So two
//! leaders with the same limits that apply the same operations are in the same state after each of
//! them.

use super::{Leader, OutgoingId};
use crate::Vmid;
use crate::error::Errno;
use crate::shared_state::RequestError;
use crate::wire::{Answer, FileLock, Hello, Message, PidKill, Sync, SyncCode};

/// The connection of a process to the leader's process when an operation about it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// The process has no stream to the leader's process.
    #[default]
    Absent,
    /// The process is connected and has not sent HELLO, or it is the leader's own process.
    Connected,
    /// The process is connected and knows the extensions of the protocol.
    Extended,
}

impl Presence {
    pub(in crate::leader) fn is_connected(self) -> bool {
        self != Presence::Absent
    }
}

/// One change of the leader's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// A process makes a request: a member in a frame, or the leader's own process in a call.
    Request {
        /// The process.
        from: Vmid,
        /// The sequence number of the answer; 0 for no answer.
        seq: u64,
        /// The request, for which [`Op::is_change`] is true.
        message: &'a Message<'a>,
        /// The connection of the other process that the request is about (see [`Leader::other`]).
        ///
        /// [`Leader::other`]: super::Leader::other
        other: Presence,
    },
    /// A process sets a lock, without a waiter: the request can't wait.
    SetLock {
        /// The process.
        from: Vmid,
        /// The lock.
        lock: FileLock<'a>,
        /// The hash of its path (`path::hash_path`), which the caller has computed already.
        hash: u64,
    },
    /// A member, or the leader's own process, sends a message to the server of shared values.
    Sync {
        /// The process.
        from: Vmid,
        /// The action that the message asks for or confirms.
        code: SyncCode,
        /// The handle, the lease, and the value.
        sync: Sync<'a>,
        /// Whether the process knows the extensions of the protocol.
        is_extended: bool,
    },
    /// A process gives an unused lease back, and the server is to report the death of the owner of the
    /// handle's value to the next process, too.
    OwnerDied(Vmid, u64),
    /// Releases a portion of the locks of the open files that are closed.
    ReleaseLocks,
    /// Takes back a portion of the leases of a process: it left, or its limits are not those of the
    /// leader.
    ReclaimLeases {
        /// The process.
        owner: Vmid,
        /// The rest of the work, as in [`Op::ReclaimLocks`].
        left: u64,
    },
    /// Gives a portion of the children of a process that is gone to the process that takes them over,
    /// before [`Op::Left`].
    ReclaimChildren {
        /// The process.
        owner: Vmid,
        /// The rest of the work, as in [`Op::ReclaimLocks`].
        left: u64,
    },
    /// The embedder announces the VMID of a process that will connect.
    Announce(Vmid),
    /// The connection with the process ends by a decision of the embedder, or the process has chosen its VMID
    /// itself: a process may connect with that VMID although one has used it.
    AllowReturn(Vmid),
    /// A process has opened a stream to the leader's process.
    Connected(Vmid),
    /// A process has sent HELLO, and its answer is queued.
    Join(Vmid, Hello),
    /// The connected process is one in C, which sends no HELLO: it runs.
    RunUnjoined(Vmid),
    /// Reclaims a portion of the file locks of a process that is gone, before [`Op::Left`].
    ReclaimLocks {
        /// The process.
        owner: Vmid,
        /// The rest of the work: at first `u64::MAX`, then the result of the portion before.
        left: u64,
    },
    /// The process is gone. What it had was reclaimed before, in this order, by [`Op::ReclaimLocks`],
    /// [`Op::ReclaimLeases`], [`Op::ReclaimChildren`], [`Op::RevokeGrants`] and [`Op::ReclaimRanges`].
    Left(Vmid),
    /// Reclaims a portion of the IDs that a process which is gone had given to processes that have not
    /// connected.
    RevokeGrants(Vmid),
    /// Reclaims a portion of the ranges of a process that is gone, but for its pid.
    ReclaimRanges {
        /// The process.
        owner: Vmid,
        /// The rest of the work: at first [`Leader::ranges_to_reclaim`], then the result of the portion
        /// before.
        ///
        /// [`Leader::ranges_to_reclaim`]: super::Leader::ranges_to_reclaim
        left: u64,
    },
    /// A process that is being started is connected when its time to join has passed: its time
    /// begins again.
    DeferStart(Vmid),
    /// The time of a process that is being started has passed. It is abandoned.
    AbandonStart(Vmid),
    /// All that an abandoned process had is reclaimed. The member, its parent, is notified: it may ask for its
    /// children again.
    NotifyAbandoned(Vmid),
    /// Confirms a portion of the IDs and open files that were given to a process, after [`Op::Connected`],
    /// and again when it has sent HELLO.
    ConfirmGrants {
        /// The process.
        to: Vmid,
        /// The rest of the work, as in [`Op::ReclaimLocks`].
        left: u64,
        /// The process knows the extensions: it may get notices about open files from now on.
        allows_notices: bool,
    },
    /// A signal is pending for the member.
    Signal(Vmid, PidKill),
    /// A signal for all but `from` is pending for each process that is being started. [`Op::Signal`] follows for each
    /// member, in the order of the VMIDs.
    SignalAll {
        /// The sender.
        from: Vmid,
        /// The sequence number of the answer; 0 for no answer.
        seq: u64,
        /// The signal.
        kill: PidKill,
        /// The result for the sender.
        result: Result<(), Errno>,
    },
    /// The member has answered a signal that came through the leader.
    SignalAnswered {
        /// The member.
        from: Vmid,
        /// The sequence number of the signal's frame.
        seq: u64,
        /// The member's answer.
        result: Result<(), Errno>,
    },
    /// A signal of a member for all processes is refused.
    SignalAllRefused {
        /// The member.
        from: Vmid,
        /// The sequence number of the answer; 0 for no answer.
        seq: u64,
        /// The reason.
        errno: Errno,
    },
    /// A member whose limits are not those of the leader sends a message to the server of shared values,
    /// which does not get it.
    SyncRefused {
        /// The member.
        from: Vmid,
        /// The action that the message asks for or confirms.
        code: SyncCode,
        /// The handle.
        id: u64,
    },
    /// Another process leads from now on, with this state. The counts of the members go on.
    Succeed {
        /// The process.
        to: Vmid,
    },
    /// A message of the outbox was queued for its receiver, or its receiver is gone.
    Transmitted {
        /// The message.
        id: OutgoingId,
        /// Whether the receiver knows the extensions of the protocol: such a member answers a signal
        /// even if its sender does not wait.
        is_extended: bool,
    },
    /// A message of the outbox could not be queued, since its receiver has no room for it. It is passed
    /// over until [`Op::RetryTransmit`].
    Requeued(OutgoingId),
    /// Receivers that had no room may have some: what was put back is due again.
    RetryTransmit,
}

impl Op<'_> {
    /// Returns true if the message requests a change by the leader. All other messages of a member
    /// are look-ups ([`Leader::look_up`]) or are not for the leader.
    ///
    /// [`Leader::look_up`]: super::Leader::look_up
    pub const fn is_change(message: &Message<'_>) -> bool {
        matches!(
            message,
            Message::GetNewVmid
                | Message::AllocIdRange
                | Message::ReleaseIdRange(_)
                | Message::ChangeIdOwner { .. }
                | Message::ProcessStart { .. }
                | Message::ProcessReap(_)
                | Message::ProcessChange { .. }
                | Message::ProcessNote(_)
                | Message::ChildExit(_)
                | Message::KillOrdered { .. }
                | Message::FileHandle { .. }
                | Message::FileGiven { .. }
                | Message::FileLockSet(_)
                | Message::FileLockGet(_)
                | Message::FileLockDelegate(_)
                | Message::FileLockReturn { .. }
                | Message::FileLockClearPid(_)
                | Message::FileLockCancel(_)
                | Message::FencingNumber(_)
                | Message::FencingBlock { .. }
        )
    }
}

/// The result of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer to the request.
    Answer(Answer<'static>),
    /// The request waits. Its answer is a later completion of a lock or the answer to a signal.
    Later,
    /// Nothing was done: the file is delegated, so the request has to wait.
    Delegated,
    /// The change is made; there is no answer.
    Done,
    /// The parent of this process reports that it will never join. If the process is connected all
    /// the same, it has left; there is no answer.
    Abandoned(Vmid),
    /// The request is well-formed and can't be done, and has no answer: it is counted.
    Rejected,
    /// The message is not, or not only, for the leader.
    NotForLeader,
    /// The result of a message about a shared value.
    Sync(Result<(), RequestError>),
    /// A portion is done, and that much is left to do: 0 if that was all. A request is applied
    /// again until it has another outcome.
    Remaining(u64),
}

/// An observer of a leader, called with each operation in order, after it was applied.
///
/// The calls are made under the lock of the leader's tables: they must not block, and must not call the
/// node.
pub trait OpObserver: core::marker::Sync {
    /// The leader has applied the operation, with that outcome. The number of the operation is
    /// [`Leader::ops`].
    fn applied(&self, leader: &Leader<'_>, op: &Op<'_>, outcome: &Outcome);
}
