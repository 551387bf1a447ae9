//! Platforms for tests, for fuzzing, and for authors of platforms: a [network in
//! memory](loopback), and a [wrapper that injects faults](fault_injector) into any platform.

pub mod fault_injector;
pub mod loopback;
