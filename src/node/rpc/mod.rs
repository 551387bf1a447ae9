//! Requests to other processes, and the threads that wait for the answers.

#[macro_use]
mod mode;

mod block_on;
mod call;
mod caller_read;
mod delivery;
mod dropped_lock;
mod exchange;
mod free_list;
mod outcome;
mod own;
mod reply_buffers;
mod request;
mod send;
mod task;
mod undo;
mod wait;
mod wait_reason;
mod waiter;
mod waiters;
mod wakes;

pub(super) use block_on::{ClaimedWaiter, Progress};
pub(super) use caller_read::Wake;
pub(crate) use delivery::Delivery;
pub(super) use mode::Polled;
pub(super) use outcome::{done, done_by, error_by, error_of, lock, process};
pub(crate) use reply_buffers::ReplyData;
pub use request::Request;
pub(super) use task::WakeTarget;
pub(super) use undo::Undo;
pub(super) use wait::Limits;
pub use wait::{Interrupt, Wait};
pub use wait_reason::{PendingCall, WaitReason};
pub(crate) use waiter::{LateReply, WaitToken};
#[cfg(feature = "capi")]
pub(crate) use waiters::MAX_SET_ASIDE;
pub(crate) use waiters::Waiters;
