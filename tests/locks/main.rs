//! File locks as the host's kernel has them.
//!
//! `LOCK_PROGRAMS=200000 cargo test --release --test locks kernel` runs more programs than usual.
#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::trivially_copy_pass_by_ref
)]

mod checked;
mod kernel;
mod model;
mod program;
mod shares;
mod table;
