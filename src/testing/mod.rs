//! Platforms for tests, for fuzzing, and for authors of platforms.
//!
//! [`loopback`] is a network in memory, whose clock moves when the test moves it: several nodes run in one
//! thread, and every run can be repeated. [`fault_injector`] wraps any platform and makes its streams and
//! connects fail as real ones do, in an order that follows from a seed: a node over it must stay
//! correct. Nothing in here is meant for a program that runs for its users.

pub mod fault_injector;
pub mod loopback;
