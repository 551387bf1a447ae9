//! Recordings: that they hold every frame once, however it was split, that they are in nobody's way,
//! and that tshark shows what is in them.
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
