#![doc = include_str!("../README.md")]
// The static library is for C alone.
#![cfg(any(not(static_library), feature = "capi"))]
#![no_std]
// Nothing a peer can reach may end the process.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

#[cfg(feature = "std")]
extern crate std;

mod arch;
#[cfg(feature = "capi")]
mod capi;
mod config;
mod counters;
pub mod error;
pub mod events;
pub mod file_locks;
pub mod leader;
mod log;
pub mod member;
mod node;
pub mod pal;
pub mod shared_state;
pub mod store;
mod sync;
pub mod testing;
mod vmid;
pub mod wire;

#[cfg(feature = "std")]
#[path = "../arch/host/mod.rs"]
pub mod host;

pub use config::{Capacities, Config, Driving, Identity, MemoryUse};
pub use counters::{Pools, Refusal, Statistics, Usage};
pub use error::{Error, Resource};
pub use file_locks::LockLimits;
pub use node::{
    ChildSelector, Embedder, Exit, Interrupt, Metadata, MetadataReply, Node, PendingCall, Reader,
    Request, Shared, Signal, SignalReply, SyncHandle, Target, ValueStatus, Wait, WaitReason,
    Writer, lock_range,
};
pub use shared_state::LeaseLimits;
pub use vmid::{ID_MAX, Id, Vmid};
pub use wire::PATH_MAX;
