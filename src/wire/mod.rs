//! The bytes that processes of a family send each other.
//!
//! This is the only place that looks at bytes from a peer. What it promises:
//!
//! * **Any bytes may come.** No function here panics, overflows, loops without end, or reads
//!   outside of what it was given, whatever the bytes are. Nothing is allocated.
//! * **A [`Frame`] has its whole payload**, and is no longer than the reader's buffer.
//! * **A [`Message`] is well-formed**: its payload had exactly the length that its code and its
//!   own fields call for, every choice is one of its enum, a path is terminated and holds no NUL.
//!   The same goes for an [`Answer`], read as the answer that was [`Expected`].
//! * **Nothing else is promised.** An ID may be 0 or too high, a range may end before it begins, a
//!   handle may be unknown, and the sender may not have the role for what it says. Those who know
//!   the tables check that.
//! * **What is written can be read back**: a message that [`encode`](Message::encode) accepts
//!   decodes to an equal one, an answer too where it is the one expected, and no byte of the frame
//!   is left from what was in the buffer before.
//!
//! Where the protocol has padding or spare bytes, they are written as zero and not read.

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
mod writer;

pub use answer::{Answer, Expected, HeldLock, LockAnswer, PATH_MAX, Process, ProcessFlags};
pub use delegation::{DelegatedLock, DelegatedLockList, DelegatedLocks};
pub use error::{Malformed, TooSmall};
#[cfg(feature = "trace")]
pub(crate) use frame::frame_size;
pub use frame::{Frame, HEADER_LENGTH};
pub use kinds::{
    KillTarget, LockFamily, LockKind, MetaCode, ProcessChange, ProcessNote, ProcessState, SyncCode,
    SyncNote, SyncState,
};
pub use message::Message;
pub use payload::{
    ChildExit, EndQuery, FileLock, Hello, IdRange, LimitFlags, PeerLimits, PidKill, ProcessQuery,
    RelativeNote, Sync,
};
pub use reader::FrameReader;
pub use writer::FrameWriter;
