//! Platforms for tests, for fuzzing, and for authors of platforms.
//!
//! [`loopback`] is a network in memory whose clock the test advances: several nodes run in one
//! thread, and every run can be repeated. [`fault_injector`] wraps any platform and injects the
//! failures of real streams and connects, in an order determined by a seed: a node over it must
//! stay correct. [`conformance`] checks whether a platform keeps the rules of [`pal`](crate::pal). Nothing here is meant for production.

#[cfg(feature = "testing")]
pub mod conformance;
pub mod fault_injector;
pub mod loopback;
mod node;

pub use node::leader_capacities;
