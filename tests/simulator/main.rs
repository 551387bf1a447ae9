//! A whole family in one thread: real nodes on the loopback platform, with faults. A seed decides
//! who runs next, what is asked, what is cut short, and who dies. What was promised is checked
//! after every step.
//!
//! `SIM_SEEDS=N` runs so many seeds of each kind, `SIM_SEED=N` just that one.

mod baton;
mod hostile;
mod locks;
mod model;
mod processes;
mod sync;
mod world;

use std::panic::catch_unwind;
use std::time::Instant;

#[test]
fn families_keep_their_promises() {
    run("families_keep", 1_000, world::run);
}

#[test]
fn processes_end_and_signal_as_they_should() {
    run("processes_end", 200, processes::run);
}

/// Runs as many seeds as asked for, or so many.
fn run(name: &str, seeds: u64, one: fn(u64)) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    if let Some(seed) = number("SIM_SEED") {
        one(seed);
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(seeds);
    let start = Instant::now();
    for seed in 0..seeds {
        assert!(
            catch_unwind(|| one(seed)).is_ok(),
            "seed {seed} fails; again: SIM_SEED={seed} cargo test --test simulator {name}"
        );
    }
    let rate = f64::from(u32::try_from(seeds).unwrap_or(u32::MAX)) / start.elapsed().as_secs_f64();
    println!("{seeds} seeds, {rate:.0} a second");
}
