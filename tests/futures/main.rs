//! The calls as futures: their results, their wakes, and what a dropped one leaves behind.

mod at_limits;
mod calls;
mod common;
mod dropped;
#[path = "../common/limits.rs"]
mod limits;
mod locks;
mod model;
mod primitives;
mod shutdown;
mod wakes;
