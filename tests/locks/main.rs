//! File locks: the table and the members against the host's kernel, a model of bytes, and model
//! checks.
//!
//! `LOCK_PROGRAMS=200000 cargo test --release --test locks kernel` runs more programs than usual.
#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::trivially_copy_pass_by_ref
)]

mod checked;
mod collisions;
mod delegations;
mod delegations_checked;
mod edges;
mod fencing;
mod holders;
mod holders_checked;
#[path = "../common/host_family.rs"]
mod host_family;
mod kernel;
mod leader_steps;
mod lookup;
mod many_handles;
mod model;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../serve/peer.rs"]
mod peer;
mod program;
mod queues;
mod quotas;
mod recalls;
mod requests;
mod scenes;
mod shares;
mod steps;
mod table;
#[path = "../common/walk.rs"]
mod walk;
