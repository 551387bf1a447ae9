//! Requests to other processes, and the threads that wait for the answers.

mod block_on;
mod call;
mod caller_read;
mod delivery;
mod outcome;
mod own;
mod reply_buffers;
mod request;
mod send;
mod wait;
mod wait_reason;
mod waiters;

pub(super) use block_on::Progress;
pub(super) use caller_read::{CallerRead, Wake};
pub(crate) use delivery::Delivery;
pub(super) use outcome::{done, error_of, lock, process};
pub(crate) use reply_buffers::ReplyData;
pub use request::Request;
pub(super) use wait::Limits;
pub use wait::{Interrupt, Wait};
pub use wait_reason::{PendingCall, WaitReason};
#[cfg(feature = "capi")]
pub(crate) use waiters::MOST_SET_ASIDE;
pub(crate) use waiters::{LateReply, WaitToken, Waiters};
