//! A whole family in one thread: real nodes on the loopback platform, with faults. A seed decides
//! who runs next, what is asked, what is cut short, and who dies. What was promised is checked
//! after every step.
//!
//! `SIM_SEEDS=N` runs so many seeds (1,000 without it), `SIM_SEED=N` just that one.

mod hostile;
mod model;
mod world;

use std::panic::catch_unwind;
use std::time::Instant;

#[test]
fn families_keep_their_promises() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    if let Some(seed) = number("SIM_SEED") {
        world::run(seed);
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(1_000);
    let start = Instant::now();
    for seed in 0..seeds {
        assert!(
            catch_unwind(|| world::run(seed)).is_ok(),
            "seed {seed} fails; again: SIM_SEED={seed} cargo test --test simulator"
        );
    }
    let rate = f64::from(u32::try_from(seeds).unwrap_or(u32::MAX)) / start.elapsed().as_secs_f64();
    println!("{seeds} seeds, {rate:.0} a second");
}
