//! Members that share one channel for all their streams: the state machine at its ends, the
//! platform on it, and the proxy on the host.
#![allow(missing_docs)]

mod blocked_write;
mod channel;
mod guest;
mod machine;
mod pal;
mod proxy;
