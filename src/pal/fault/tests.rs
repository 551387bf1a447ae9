use super::*;

/// Results that are refused, with their faults.
fn refused() -> [Result<usize, StreamError>; 3] {
    [
        checked_read(Ok(5), 4),
        checked_write(Ok(5), 4),
        checked_write(Ok(0), 4),
    ]
}

#[test]
fn results_that_a_platform_may_return_pass() {
    for count in 0..=4 {
        assert_eq!(checked_read(Ok(count), 4), Ok(count));
        let written = checked_write(Ok(count.max(1)), 4);
        assert_eq!(written, Ok(count.max(1)));
    }
    for error in [StreamError::WouldBlock, StreamError::Closed] {
        assert_eq!(checked_read(Err(error), 4), Err(error));
        assert_eq!(checked_write(Err(error), 4), Err(error));
    }
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "a fault of the platform: a read returned more bytes")]
fn a_platform_fault_ends_a_debug_build() {
    let _ = refused();
}

// The only test of this program that causes such faults, because all tests share the counter.
#[test]
#[cfg(not(debug_assertions))]
fn a_release_build_counts_platform_faults_and_closes_the_stream() {
    assert_eq!(refused(), [Err(StreamError::Closed); 3]);
    let mut ready = ReadyList::new();
    let _ = ready.push((Token(1), Interest::from_bits_retain(64)));
    let _ = ready.push((Token(u64::MAX - 1), Interest::READ));
    let _ = ready.push((Token::LISTENER, Interest::READ));
    check_ready(&ready);
    assert_eq!(fault_count(), 5);
    let counted = crate::counters::Counters::default().read(0, crate::Pools::default(), 0);
    assert_eq!(counted.platform_faults, 5);
    log_fault();
    assert!(IS_LOGGED.load(Ordering::Relaxed));
}
