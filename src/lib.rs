// The README is the documentation of the crate. Its links are relative, for a forge. The definitions here come first and
// replace them in the documentation, where the files are at another place.
#![cfg_attr(feature = "std", doc = include_str!("guide/links.md"))]
//! [`Capacities`]: Capacities
//! [`Embedder`]: Embedder
//! [`Pal`]: pal::Pal
//! [performance.md]: https://docs.rs/crate/libos-ipc/latest/source/docs/performance.md
//! [report of 2026-11-28]: https://docs.rs/crate/libos-ipc/latest/source/docs/reports/2026-11-28.md
//!
#![cfg_attr(feature = "std", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "std"),
    doc = "One family out of several library-OS processes. The README is part of the documentation with `std`."
)]
// The static library has functions only with the feature `capi`.
#![cfg(any(not(static_library), feature = "capi"))]
#![no_std]
// Without `testing` the modules that it makes public are private. What only tests use in them is dead code then: the
// checks of invariants, the digests, the encoding of operations.
#![cfg_attr(
    not(feature = "testing"),
    allow(unreachable_pub, dead_code, unused_imports)
)]
// No input of a peer may end the process.
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

#[cfg(feature = "capi")]
mod capi;
mod config;
mod counters;
mod error;
pub mod events;
mod fencing;
mod heirs;
// This module is only in the documentation. The tests of tests/docs run the programs in it.
#[cfg(all(doc, not(doctest), feature = "std"))]
pub mod guide;
mod identity;
mod invalid;
mod invariant;
mod log;
mod node;
mod number;
pub mod pal;
mod parts;
mod path;
mod start_error;
mod sync;
mod vmid;

// The machines inside are public for the crate's own tests only.
#[cfg(not(feature = "testing"))]
mod file_locks;
#[cfg(feature = "testing")]
pub mod file_locks;
#[cfg(not(feature = "testing"))]
mod leader;
#[cfg(feature = "testing")]
pub mod leader;
#[cfg(not(feature = "testing"))]
mod member;
#[cfg(feature = "testing")]
pub mod member;
#[cfg(not(feature = "testing"))]
mod shared_state;
#[cfg(feature = "testing")]
pub mod shared_state;
#[cfg(not(feature = "testing"))]
mod store;
#[cfg(feature = "testing")]
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(not(feature = "testing"))]
mod wire;
#[cfg(feature = "testing")]
pub mod wire;

#[cfg(feature = "std")]
#[path = "../arch/host/mod.rs"]
pub mod host;

pub use config::{Admission, Capacities, Config, Driving, MemoryUse, Quota};
pub use counters::{Pools, Refusal, Statistics, SuccessionStatistics, Usage};
pub use error::{ByteCount, Errno, Error, Invalid, Resource};
pub use file_locks::LockLimits;
pub use heirs::{Adoption, Heirs};
pub use identity::{Identity, IdentityPart, ParseIdentityError};
pub use member::ChildExit;
#[cfg(feature = "testing")]
pub use node::Request;
pub use node::{
    Arrival, Barrier, ChildSelector, Condvar, Embedder, Exit, Interrupt, Metadata, MetadataReply,
    Node, PendingCall, Queue, Reader, Semaphore, Shared, Signal, SignalReply, SliceReader,
    SliceWriter, SyncHandle, Target, ValueStatus, Wait, WaitReason, Writer, lock_range,
};
pub use shared_state::LeaseLimits;
pub use start_error::{ConfigError, Rule, StartError};
pub use store::Memory;
/// The crate whose traits a shared value has to implement; another version of it has other traits.
///
/// ```
/// use libos_ipc::zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
///
/// #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
/// #[zerocopy(crate = "libos_ipc::zerocopy")]
/// #[repr(C)]
/// struct Account {
///     balance: i64,
///     changes: u64,
/// }
/// ```
pub use zerocopy;

pub use vmid::{ID_MAX, Id, Pid, Vmid};
pub use wire::{
    FileLock, HeldLock, IdRange, LockFamily, LockKind, Malformed, MetaCode, PATH_MAX, Process,
    ProcessChange, ProcessFlags, ProcessState, SyncState,
};
