//! The ends of waits on the host platform: no wake-up is lost, and every time limit is kept.
#![cfg(feature = "std")]
#![allow(missing_docs)]

mod common;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{LONG, family};
use libos_ipc::pal::{Deadline, Event, Pal, ReadyList, Stream};

#[test]
fn wait_keeps_its_time_limit() {
    let family = family();
    for limit in [Duration::from_micros(300), Duration::from_millis(12)] {
        let start = family.one.now();
        let mut ready = ReadyList::new();
        family.one.wait(&mut ready, Deadline::At(start + limit));
        assert!(ready.is_empty());
        assert!(family.one.now().since(start) >= limit);
    }
    let past = family.one.now();
    family.one.wait(&mut ReadyList::new(), Deadline::At(past));
}

/// The time in which rounds are made: all of them, unless the machine is busy.
const ROUNDS_TIME: Duration = Duration::from_secs(5);

#[test]
fn no_wake_is_lost() {
    const ROUNDS: u32 = 20_000;
    const THREADS: u32 = 2;
    let family = family();
    family.one.wake();
    family.one.wake();
    family.one.wait(&mut ReadyList::new(), Deadline::Never);
    let (asked, done, working) = (
        AtomicU32::new(0),
        AtomicU32::new(0),
        AtomicU32::new(THREADS),
    );
    let mut lost = false;
    let enough = Instant::now() + ROUNDS_TIME;
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let mine = asked.fetch_add(1, Ordering::AcqRel) + 1;
                    family.one.wake();
                    while done.load(Ordering::Acquire) < mine {
                        thread::yield_now();
                    }
                    if Instant::now() > enough {
                        break;
                    }
                }
                // The last wake ends the last wait.
                working.fetch_sub(1, Ordering::AcqRel);
                family.one.wake();
            });
        }
        while working.load(Ordering::Acquire) > 0 {
            let until = family.one.now() + LONG;
            family.one.wait(&mut ReadyList::new(), Deadline::At(until));
            lost |= family.one.now() >= until;
            // After a lost wake-up the other threads end, too.
            let all = if lost {
                u32::MAX
            } else {
                asked.load(Ordering::Acquire)
            };
            done.store(all, Ordering::Release);
        }
    });
    assert!(!lost, "a wake was lost");
}

#[test]
fn an_event_is_set_or_clear() {
    let family = family();
    let event = family.one.event().unwrap();
    assert!(!event.is_set());
    let start = family.one.now();
    let limit = Duration::from_micros(500);
    while family.one.now().since(start) < limit {
        family.one.wait_event(&event, Deadline::At(start + limit));
    }
    event.set();
    event.set();
    assert!(event.is_set());
    family.one.wait_event(&event, Deadline::Never);
    event.clear();
    assert!(!event.is_set());
}

#[test]
fn a_reader_is_woken_by_data_event_time_and_end() {
    let family = family();
    let (out, inward) = family.stream();
    let event = family.two.event().unwrap();
    let two = &family.two;
    let soon = || Deadline::At(two.now() + Duration::from_micros(200));
    assert!(!two.wait_readable(&inward, &event, soon()));
    assert!(!two.wait_readable(&inward, &event, Deadline::Now));
    out.write(&[b"x"]).unwrap();
    assert!(two.wait_readable(&inward, &event, Deadline::Never));
    event.set();
    assert!(!two.wait_readable(&inward, &event, Deadline::Never));
    event.clear();
    assert_eq!(inward.read(&mut [0; 4]), Ok(1));
    assert!(!two.wait_readable(&inward, &event, soon()));
    drop(out);
    assert!(two.wait_readable(&inward, &event, Deadline::Never));
}

/// Two threads wake each other in turn: after one lost wake-up they stop. Each waits on its own
/// event, in one of the two ways.
#[test]
fn no_set_is_lost() {
    const ROUNDS: u32 = 10_000;
    for polls in [[false, false], [true, true], [false, true]] {
        let family = family();
        let (_out, inward) = family.stream();
        let host = &family.two;
        let events = [host.event().unwrap(), host.event().unwrap()];
        let (turn, rounds) = (AtomicU32::new(0), AtomicU32::new(ROUNDS));
        let enough = Instant::now() + ROUNDS_TIME;
        thread::scope(|scope| {
            let threads = [0, 1].map(|me| {
                let (turn, rounds, inward) = (&turn, &rounds, &inward);
                let (mine, others, polls) = (&events[me], &events[1 - me], polls[me]);
                scope.spawn(move || {
                    let mut round = 0;
                    while round < rounds.load(Ordering::Acquire) {
                        let my_turn = 2 * round + u32::from(me == 1);
                        let until = host.now() + LONG;
                        while turn.load(Ordering::Acquire) != my_turn {
                            if polls {
                                host.wait_readable(inward, mine, Deadline::At(until));
                            } else {
                                host.wait_event(mine, Deadline::At(until));
                            }
                            mine.clear();
                            assert!(host.now() < until, "a wake-up was lost");
                        }
                        round += 1;
                        // The other thread sees this before it has had its turn in this round.
                        if me == 0 && Instant::now() > enough {
                            rounds.store(round, Ordering::Release);
                        }
                        turn.store(my_turn + 1, Ordering::Release);
                        others.set();
                    }
                })
            });
            // The thread sanitizer does not see the end of a scope.
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }
}

#[test]
fn setting_an_event_wakes_all_waiters() {
    const ROUNDS: u64 = 2_000;
    const WAITERS: usize = 4;
    let family = family();
    let (_out, inward) = family.stream();
    let event = family.two.event().unwrap();
    let (round, rounds) = (AtomicU64::new(0), AtomicU64::new(ROUNDS));
    let barrier = Barrier::new(WAITERS + 1);
    let lost = AtomicBool::new(false);
    let enough = Instant::now() + ROUNDS_TIME;
    thread::scope(|scope| {
        for number in 0..WAITERS {
            let (family, inward, event) = (&family, &inward, &event);
            let (round, rounds, barrier, lost) = (&round, &rounds, &barrier, &lost);
            scope.spawn(move || {
                for mine in 1..=ROUNDS {
                    barrier.wait();
                    let until = family.two.now() + LONG;
                    while round.load(Ordering::Acquire) < mine {
                        if number % 2 == 0 {
                            family.two.wait_event(event, Deadline::At(until));
                        } else {
                            family.two.wait_readable(inward, event, Deadline::At(until));
                        }
                        if family.two.now() >= until {
                            lost.store(true, Ordering::Relaxed);
                            break; // The others count on us at the barrier.
                        }
                    }
                    barrier.wait();
                    if mine == rounds.load(Ordering::Acquire) {
                        break;
                    }
                }
            });
        }
        for next in 1..=ROUNDS {
            event.clear();
            // A busy machine makes fewer rounds. The others see this behind the barrier.
            if Instant::now() > enough {
                rounds.store(next, Ordering::Release);
            }
            barrier.wait();
            // Sometimes they sleep already, sometimes not.
            for _ in 0..next % 64 {
                thread::yield_now();
            }
            round.store(next, Ordering::Release);
            event.set();
            barrier.wait();
            if next == rounds.load(Ordering::Acquire) {
                break;
            }
        }
    });
    assert!(!lost.into_inner(), "a wake-up was lost");
}
