#![doc = include_str!("../README.md")]
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

pub mod error;
pub mod pal;
pub mod vmid;
pub mod wire;

#[cfg(feature = "std")]
#[path = "../arch/host/mod.rs"]
pub mod host;

pub use error::{Error, Resource};
pub use vmid::{ID_MAX, Id, Vmid};
