//! Recordings: they have every frame once, however it was split, they do not slow the node down,
//! and tshark dissects them.
#![cfg(feature = "trace")]
#![allow(missing_docs, clippy::cast_possible_truncation)]

#[path = "../wire/any.rs"]
mod any;
mod dissected;
#[path = "../common/example.rs"]
mod example;
mod family;
mod recorded;
mod tape;
mod tshark;
