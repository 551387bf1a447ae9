//! Requests to other processes, and the threads that wait for their answers.

mod call;
mod caller_read;
mod reply_buffers;
mod wait;
mod wait_reason;
mod waiters;

pub use call::Request;
pub(super) use caller_read::{INTERRUPTED, Wake};
pub(crate) use reply_buffers::Data;
pub(super) use wait::Limits;
pub use wait::{Interrupt, Wait};
pub use wait_reason::{Waiting, WaitsFor};
pub(crate) use waiters::{Claim, Delivery, Late, Waiters};
