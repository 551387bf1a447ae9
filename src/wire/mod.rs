//! The wire protocol: the bytes that processes of a family send to each other.
//!
//! Only this module interprets bytes from a peer. It guarantees:
//!
//! * **Any bytes are accepted or refused.** No function here panics, overflows, loops without end,
//!   or reads outside of its arguments, whatever the bytes are. No function allocates.
//! * **A [`Frame`] has its whole payload**, and is no longer than the reader's buffer.
//! * **A [`Message`] is well-formed**: its payload has exactly the length that its code and its
//!   fields require, every enumeration has a defined value, and a path is terminated and contains
//!   no other NUL. The same is true of an [`Answer`] of the [`Expected`] form.
//! * **Nothing else is guaranteed.** An ID may be 0 or too high, a range may end before it begins,
//!   a handle may be unknown, and the sender may not have the role for its message. The modules
//!   with the tables check that.
//! * **Encoded messages can be decoded**: a message that [`encode`](Message::encode) accepts
//!   decodes to an equal one, an answer decodes to an equal one in its expected form, and the frame
//!   contains no old byte of the buffer.
//!
//! Padding and reserved bytes of the protocol are written as zero and not read.

mod answer;
mod body;
mod codec;
pub mod codes;
mod delegation;
mod error;
mod frame;
mod kinds;
mod layout;
mod message;
mod payload;
mod reader;
mod succession;
mod writer;

pub use answer::{Answer, Expected, HeldLock, PATH_MAX, Process, ProcessFlags};
pub use delegation::{DelegatedLock, DelegatedLockList, DelegatedLocks};
pub use error::{Malformed, TooSmall};
#[cfg(feature = "trace")]
pub(crate) use frame::frame_size;
pub use frame::{Frame, HEADER_LENGTH};
pub(crate) use frame::{VMID_LENGTH, whole_frames};
pub use kinds::{
    DismissReason, Holding, KillTarget, LockFamily, LockKind, MetaCode, ProcessChange, ProcessNote,
    ProcessState, SuccessionMode, SyncCode, SyncNote, SyncState,
};
pub use message::Message;
pub use payload::{
    EndQuery, ExitReport, FileLock, Heartbeat, Hello, IdRange, LimitFlags, PeerLimits, PidKill,
    ProcessQuery, RelativeNote, Sync,
};
pub use reader::FrameReader;
pub use succession::{Dismissal, HeirList, HeirReady, NewLeader, Rejoin, Rejoined, Resignation};
pub use writer::FrameWriter;
