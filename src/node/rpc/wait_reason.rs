//! The reason why a call waits, for listings of pending calls.

use core::fmt;
use core::time::Duration;

use crate::Vmid;
use crate::number::Number;
use crate::wire::codes;

/// The reason why a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitReason {
    /// The call waits for the answer to a message with this code (as in docs/protocol.md). If the peer
    /// is this process itself, the process answers its own request.
    Answer(u8),
    /// The call waits for room in the send queue of the peer.
    Room,
    /// The call waits for the time of the next request to the peer.
    Pause,
    /// The call waits for the end of a child.
    Child,
    /// The call waits until all other members have left.
    Members,
    /// The call waits for a message about the sync handle with this number.
    Handle(u64),
}

impl WaitReason {
    /// Returns true if the wait lasts as long as other processes or threads like.
    pub(super) fn is_open_ended(self) -> bool {
        matches!(self, WaitReason::Child | WaitReason::Members)
    }
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitReason::Answer(code) => codes::CodeName(*code).fmt(f),
            WaitReason::Room => f.write_str("room to send"),
            WaitReason::Pause => f.write_str("asking again"),
            WaitReason::Child => f.write_str("a child's end"),
            WaitReason::Members => f.write_str("all others to leave"),
            WaitReason::Handle(handle) => write!(f, "sync handle {}", Number(*handle)),
        }
    }
}

/// A call that waits. `Display` prints the reason, the peer and the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingCall {
    /// The reason.
    pub what: WaitReason,
    /// The process whose answer it waits for; this process's own VMID if the call needs no other
    /// process.
    pub peer: Vmid,
    /// The sequence number of the request if the call waits for an answer, else 0 or the number of
    /// the waiter.
    pub seq: u64,
    /// The time since the call began to wait.
    pub waited: Duration,
    /// The caller has returned; the waiter stays only because a late answer changes the state of
    /// this process.
    pub abandoned: bool,
}

impl fmt::Display for PendingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PendingCall {
            what, peer, waited, ..
        } = self;
        write!(f, "{what} of {peer} for {waited:.1?}")
    }
}
