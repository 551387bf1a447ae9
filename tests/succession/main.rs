//! Families that outlive their leader: the heir and its log, on the host.
#![cfg(feature = "std")]
#![allow(missing_docs)]

mod checked;
mod claims;
mod false_log;
mod family;
mod heir;
mod hostile;
mod in_memory;
mod joining;
mod late;
mod leaving;
mod moving_calls;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../serve/peer.rs"]
mod peer;
mod steps;
mod stopped;
mod threads;
#[path = "../common/walk.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod walk;
