//! Requests to other processes, and the threads that wait for the answers.

mod call;
mod caller_read;
mod delivery;
mod reply_buffers;
mod request;
mod send;
mod wait;
mod wait_reason;
mod waiters;

pub(super) use caller_read::Wake;
pub(crate) use delivery::Delivery;
pub(crate) use reply_buffers::ReplyData;
pub use request::Request;
pub(super) use wait::Limits;
pub use wait::{Interrupt, Wait};
pub use wait_reason::{PendingCall, WaitReason};
pub(crate) use waiters::{LateReply, WaitToken, Waiters};
