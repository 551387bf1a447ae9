//! What a call that waits is said to wait for.

use core::fmt;
use core::time::Duration;

use crate::Vmid;
use crate::wire::codes;

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitReason {
    /// The answer to a message with this code (one of [`codes`]). Where the peer is this process
    /// itself, it decides that itself.
    Answer(u8),
    /// Room in the send queue for a message to the peer.
    Room,
    /// The time to ask the peer again.
    Pause,
    /// The end of a child.
    Child,
    /// That all other members are gone.
    Members,
    /// Something about the sync handle of this number.
    Handle(u64),
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitReason::Answer(code) => codes::CodeName(*code).fmt(f),
            WaitReason::Room => f.write_str("room to send"),
            WaitReason::Pause => f.write_str("asking again"),
            WaitReason::Child => f.write_str("a child's end"),
            WaitReason::Members => f.write_str("all others to leave"),
            WaitReason::Handle(handle) => write!(f, "sync handle {handle:#x}"),
        }
    }
}

/// A call that waits. `Display` says what for, of whom, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingCall {
    /// What for.
    pub what: WaitReason,
    /// Of which process; this one's own VMID for what happens here.
    pub peer: Vmid,
    /// The sequence number of the request, where it waits for an answer.
    pub seq: u64,
    /// For how long.
    pub waited: Duration,
    /// Its caller has given up, and only what the answer changes is waited for.
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
