//! The operations: everything that changes the leader's state.
//!
//! An operation is plain data. It holds what the node knows and the leader's tables do not: whether
//! a process is connected, that a time limit has passed, that a queue had room. So two leaders with
//! the same limits that apply the same operations are in the same state after each of them.

use super::Leader;
use crate::wire::{Answer, FileLock, Hello, Message, PidKill, ProcessNote};
use crate::{Id, Vmid};

/// How a process is connected with the leader's process when an operation that is about it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// It has no stream to the leader's process.
    #[default]
    Absent,
    /// It is connected and has not said HELLO, or it is the leader's own process.
    Connected,
    /// It is connected and knows the extensions of the protocol.
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
    /// A process asks for something: a member in a frame, or the leader's own process in a call.
    Request {
        /// The process.
        from: Vmid,
        /// The sequence number that the answer is to have; 0 if no answer is wanted.
        seq: u64,
        /// The request, one that [`Op::is_change`].
        message: Message<'a>,
        /// The connection of the other process that the request is about (see [`Leader::other`]).
        ///
        /// [`Leader::other`]: super::Leader::other
        other: Presence,
    },
    /// A process sets a lock, and has no waiter: the request can't wait.
    SetLock {
        /// The process.
        from: Vmid,
        /// The lock.
        lock: FileLock<'a>,
        /// The hash of its path (`file_locks::hash_path`), which the caller has computed already.
        hash: u64,
    },
    /// A process has opened a stream to the leader's process.
    Connected(Vmid),
    /// A process says HELLO, and its answer is queued.
    Join(Vmid, Hello),
    /// The connected process is one in C, which says no HELLO: it runs.
    RunUnjoined(Vmid),
    /// Takes back a portion of the file locks of a process that is gone, before [`Op::Left`].
    ReclaimLocks {
        /// The process.
        owner: Vmid,
        /// What is left to do: at first `u64::MAX`, then what the portion before has returned.
        left: u64,
    },
    /// The process is gone, and has no file locks any more. What is long is done by
    /// [`Op::ReclaimLocks`] before, and by [`Op::RevokeGrants`] and [`Op::ReclaimRanges`] afterwards.
    Left(Vmid),
    /// Takes back a portion of the IDs that a process which left had given to processes that have not
    /// come.
    RevokeGrants(Vmid),
    /// Takes back a portion of the ranges of a process that left.
    ReclaimRanges {
        /// The process.
        owner: Vmid,
        /// How many ranges are still to be looked at: at first [`Leader::ranges_to_reclaim`], then
        /// what the portion before has left.
        ///
        /// [`Leader::ranges_to_reclaim`]: super::Leader::ranges_to_reclaim
        left: u64,
    },
    /// A process that is being started, and whose time to join has passed, is connected: it has its
    /// time once more.
    DeferStart(Vmid),
    /// The time of a process that is being started to join has passed. It will not come.
    AbandonStart(Vmid),
    /// The member knows the extensions: it can be sent notices about open files from now on.
    AllowFileNotices(Vmid),
    /// A notice about an open file that was handed on was queued for the member.
    FileNoticeSent(Vmid, u64),
    /// The queue of the member had no room for that notice: others are sent theirs first.
    FileNoticeDeferred(Vmid, u64),
    /// A recall of a delegation was queued for the member.
    RecallSent(Vmid, u64),
    /// The answer to the lock request that was decided first was taken out, to be queued.
    CompletionTaken,
    /// The notice of the end of the process with this pid was taken out, to be queued for its parent.
    ExitTaken(Id),
    /// The queue of the parent had no room for that notice.
    ExitRequeued(Id),
    /// A notice about a relative was taken out, to be queued for the member.
    NoticeTaken(Vmid, ProcessNote),
    /// The queue of the member had no room for that notice.
    NoticeRequeued(Vmid, ProcessNote),
    /// A signal is pending for the member.
    Signal(Vmid, PidKill),
    /// A signal for all but `from` is pending for each process that is being started.
    SignalStarting {
        /// The sender.
        from: Vmid,
        /// The signal.
        kill: PidKill,
    },
    /// The next signal for the member was queued for it.
    SignalSent {
        /// The member.
        to: Vmid,
        /// Whether the member answers a signal whose sender waits for nothing.
        is_answered: bool,
    },
    /// The member has answered a signal that came through the leader.
    SignalAnswered {
        /// The member.
        from: Vmid,
        /// The sequence number of the signal's frame.
        seq: u64,
        /// 0 or a negative error number.
        status: i32,
    },
    /// The answer to the sender of the signal that was answered first was taken out, to be queued.
    SignalAnswerTaken,
}

impl Op<'_> {
    /// Whether the message asks the leader for a change. All other messages of a member are questions
    /// ([`Leader::look_up`]) or are not for the leader.
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
                | Message::FileLockBorrow(_)
                | Message::FileLockReturn { .. }
                | Message::FileLockClearPid(_)
                | Message::FileLockCancel(_)
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
    /// The parent of this process says that it will never come. If it is not connected all the same, it
    /// has left; there is no answer.
    Abandoned(Vmid),
    /// The request is well-formed and can't be done, and has no answer: to be counted.
    Rejected,
    /// The message is not, or not only, for the leader.
    NotForLeader,
    /// A portion is done, and so much is left to do: 0 if that was all. A request is applied again
    /// until it has another outcome.
    Remaining(u64),
}

/// Is called with each operation of a leader after it was applied, in their order.
///
/// The calls are made under the lock of the leader's tables: they must not block, and must not call the
/// node.
pub trait OpObserver: Sync {
    /// The leader has applied the operation, with that outcome. Its number is [`Leader::ops`].
    fn applied(&self, leader: &Leader<'_>, op: &Op<'_>, outcome: &Outcome);
}
