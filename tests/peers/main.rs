//! Peers that are not of this version of the crate: in C, older, or with other limits.
#![cfg(feature = "std")]
#![allow(missing_docs)]

mod admission;
mod backlog;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../common/c_server.rs"]
mod c_server;
mod children;
mod closing;
mod leader;
mod limits;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../serve/peer.rs"]
mod peer;
mod peer_shares;
mod succession;
mod unidentified;
mod upgrade;
mod values;
