//! Peers that are not of this version of the crate: in C, older, or with other limits.
#![cfg(feature = "std")]
#![allow(missing_docs)]

mod children;
mod limits;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../serve/peer.rs"]
mod peer;
