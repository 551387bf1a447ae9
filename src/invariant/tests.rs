use super::*;

/// A table whose count is wrong.
fn corrupt() -> usize {
    let mut count = 0_usize;
    count.decrement();
    count
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "a broken invariant")]
fn a_broken_invariant_ends_a_debug_build() {
    corrupt();
}

// The only test of this program that breaks invariants, because all tests share the counter.
#[test]
#[cfg(not(debug_assertions))]
fn a_release_build_counts_broken_invariants_and_keeps_the_place_of_the_first() {
    use std::string::ToString;

    let counted = || crate::counters::Counters::default().read(0, crate::Pools::default(), 0);
    assert_eq!(counted().broken_invariants, 0);
    assert_eq!(corrupt(), 0);
    assert_eq!(1_u32.minus(2), 0);
    assert_eq!(u64::MAX.plus(1), u64::MAX);
    assert_eq!(None.or_broken(7), 7);
    assert_eq!(counted().broken_invariants, 4);
    let place = first::get().to_string();
    assert!(place.contains("invariant/tests.rs:"), "{place}");
    log_broken();
    assert!(IS_LOGGED.load(Ordering::Relaxed));
}
