//! Checks with several threads at one platform. They need `std`.

use core::time::Duration;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::vec::Vec;
use std::{thread, vec};

use super::pair::{Moved, Pair, Side, fill, mismatch};
use super::readiness::watch;
use super::rules::Rule;
use super::setup::CheckSetup;
use super::violation::{Checked, Violation, broken};
use super::waits::{event, soon};
use crate::pal::{Deadline, Event, Interest, Pal, ReadyList, Time, Token};

/// The time after which another thread has probably begun to wait. If it has not, a check finds fewer faults.
pub(super) const WAIT_BEGINS: Duration = Duration::from_millis(30);

/// Starts a thread. A thread whose call does not return stays behind.
pub(super) fn start<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(run()));
    receiver
}

/// Takes the result of a thread that has to end at once.
#[track_caller]
pub(super) fn ends_soon<T, P: Pal>(
    pair: &Pair<'_, P>,
    thread: &Receiver<T>,
    rule: Rule,
    expected: &str,
) -> Checked<T> {
    thread.recv_timeout(soon(pair)).map_err(|_| {
        broken(
            rule,
            expected,
            format_args!("the call had not returned {:?} later", soon(pair)),
        )
    })
}

/// Returns the time limits of long waits.
fn long_deadlines<P: Pal>(pal: &P, pair: &Pair<'_, P>) -> [Deadline; 3] {
    let after = pal.now() + pair.patience * 4;
    [
        Deadline::At(after),
        Deadline::At(Time(u64::MAX)),
        Deadline::Never,
    ]
}

/// The time in which at least one of several waits has to end. A platform that polls for the end of a wait from time to
/// time takes longer.
const PROMPT: Duration = Duration::from_millis(200);

/// Checks the shortest time that several waits took to end: other processes may have delayed some of them.
#[track_caller]
fn check_prompt(shortest: Duration, rule: Rule, expected: &str) -> Checked {
    if shortest < PROMPT {
        return Ok(());
    }
    Err(broken(
        rule,
        expected,
        format_args!("each of several waits ended late, the first after {shortest:?}"),
    ))
}

pub(super) type Shared<P> = Arc<Pair<'static, P>>;

/// Checks that the clock goes back in no thread.
pub(super) fn clock<P: Pal + 'static>(setup: &CheckSetup<'static, P>) -> Checked {
    let pair: Shared<P> = Arc::new(setup.pair());
    let last = Arc::new(Mutex::new(pair.one.now()));
    let threads = [0, 1].map(|_| {
        let (pair, last) = (Arc::clone(&pair), Arc::clone(&last));
        start(move || {
            for _ in 0..20_000 {
                let Ok(mut last) = last.lock() else { break };
                let now = pair.one.now();
                if now < *last {
                    return Some((*last, now));
                }
                *last = now;
            }
            None
        })
    });
    for thread in &threads {
        let seen = thread.recv_timeout(pair.patience * 2).ok().flatten();
        if let Some((before, after)) = seen {
            return Err(broken(
                Rule::ClockGoesBack,
                "a time that is not less than the one another thread has read before",
                format_args!("{} after {}", after.0, before.0),
            ));
        }
    }
    Ok(())
}

/// Checks that a wake ends the wait of another thread.
pub(super) fn wake_during<P: Pal + 'static>(setup: &CheckSetup<'static, P>) -> Checked {
    let pair: Shared<P> = Arc::new(setup.pair());
    let woken = "the wait of another thread ends, since Pal::wake was called";
    let mut shortest = Duration::MAX;
    for until in long_deadlines(&pair.two, &pair) {
        pair.note_call(Rule::WakeDuring, "Pal::wait");
        let waiting = {
            let pair = Arc::clone(&pair);
            start(move || pair.two.wait(&mut ReadyList::new(), until))
        };
        thread::sleep(WAIT_BEGINS);
        let timer = pair.timer();
        pair.two.wake();
        ends_soon(&pair, &waiting, Rule::WakeDuring, woken)?;
        shortest = shortest.min(pair.elapsed(&timer));
    }
    check_prompt(shortest, Rule::WakeDuring, woken)
}

/// Checks that setting an event wakes all threads that wait for it.
pub(super) fn event_wakes<P: Pal + 'static>(setup: &CheckSetup<'static, P>) -> Checked {
    let pair: Shared<P> = Arc::new(setup.pair());
    let all = "the three threads that wait for the event wake when it is set";
    let mut shortest = Duration::MAX;
    // The same event is set again and again.
    let event = Arc::new(event(&pair)?);
    for until in long_deadlines(&pair.two, &pair) {
        let threads = [0, 1, 2].map(|_| {
            let (pair, event) = (Arc::clone(&pair), Arc::clone(&event));
            start(move || {
                while !event.is_set() {
                    pair.two.wait_event(&event, until);
                }
            })
        });
        thread::sleep(WAIT_BEGINS);
        pair.note_call(Rule::EventWakesAll, "Event::set");
        let timer = pair.timer();
        event.set();
        for thread in &threads {
            ends_soon(&pair, thread, Rule::EventWakesAll, all)?;
        }
        shortest = shortest.min(pair.elapsed(&timer));
        event.clear();
    }
    check_prompt(shortest, Rule::EventWakesAll, all)
}

/// Checks the ends of [`Pal::wait_readable`] whose cause comes during the call.
pub(super) fn wait_readable<P: Pal + 'static>(setup: &CheckSetup<'static, P>) -> Checked {
    let pair: Shared<P> = Arc::new(setup.pair());
    if !pair.two.supports_caller_read() {
        return Ok(());
    }
    for until in long_deadlines(&pair.two, &pair) {
        let event = Arc::new(event(&pair)?);
        let open = pair.open()?;
        let (out, inward) = (open.out, Arc::new(open.inward));
        let wait = || {
            let (pair, event, inward) =
                (Arc::clone(&pair), Arc::clone(&event), Arc::clone(&inward));
            let waiting = start(move || pair.two.wait_readable(&inward, &event, until));
            thread::sleep(WAIT_BEGINS);
            waiting
        };
        pair.note_call(Rule::WaitReadableEvent, "Pal::wait_readable");
        let waiting = wait();
        event.set();
        let set = "the wait of another thread ends, since the event is set";
        ends_soon(&pair, &waiting, Rule::WaitReadableEvent, set)?;
        event.clear();
        pair.note_call(Rule::WaitReadable, "Pal::wait_readable");
        let waiting = wait();
        pair.send(&out, 0, 10)?;
        let bytes = "the wait of another thread ends, since bytes arrive";
        ends_soon(&pair, &waiting, Rule::WaitReadable, bytes)?;
        pair.receive(&inward, 0, 10, Rule::Order)?;
        let waiting = wait();
        drop(out);
        let hung_up = "the wait of another thread ends, since the writer drops its end";
        ends_soon(&pair, &waiting, Rule::WaitReadable, hung_up)?;
    }
    Ok(())
}

/// Checks that threads can write and read streams of their own at the same time.
pub(super) fn transfer<P: Pal + 'static>(setup: &CheckSetup<'static, P>) -> Checked {
    // Earlier checks have done the same in one thread, so a fault in the bytes is one of several threads.
    move_bytes(setup).map_err(|violation| match violation.rule {
        Rule::Order | Rule::End | Rule::ReadCount | Rule::WriteCount => Violation {
            rule: Rule::Threads,
            ..violation
        },
        _ => violation,
    })
}

/// The number of streams that threads use at once, and the bytes that each carries.
const STREAMS: usize = 3;
const LENGTH: usize = 100_000;

/// Writes the bytes of a stream, which begin with that of number `from`, until `limit` is over.
fn write_all<P: Pal>(pair: &Pair<'_, P>, out: &P::Stream, from: usize, limit: Duration) -> Checked {
    let timer = pair.timer();
    let mut buffer = [0; 512];
    let mut sent = 0;
    while sent < LENGTH && pair.elapsed(&timer) < limit {
        let part = &mut buffer[..(LENGTH - sent).min(512)];
        fill(part, from + sent);
        match pair.write(out, &[part])? {
            Moved::Bytes(count) => sent += count,
            Moved::Nothing => thread::yield_now(),
            Moved::End => break,
        }
    }
    Ok(())
}

/// Reads the bytes of a stream, which must begin with that of number `from`, until `limit` is over.
fn read_all<P: Pal>(
    pair: &Pair<'_, P>,
    inward: &P::Stream,
    from: usize,
    limit: Duration,
) -> Checked {
    let timer = pair.timer();
    let mut buffer = [0; 700];
    let mut received = 0;
    while received < LENGTH {
        match pair.read(inward, &mut buffer)? {
            Moved::Bytes(count) => {
                if let Some(place) = mismatch(&buffer[..count], from + received) {
                    return Err(broken(
                        Rule::Threads,
                        "the bytes of the stream, while other threads use other streams",
                        format_args!("another byte at place {}", received + place),
                    ));
                }
                received += count;
            }
            Moved::Nothing if pair.elapsed(&timer) < limit => thread::yield_now(),
            _ => {
                return Err(broken(
                    Rule::Threads,
                    "all bytes of a stream, while other threads use other streams",
                    format_args!("{received} of {LENGTH} bytes in {limit:?}"),
                ));
            }
        }
    }
    Ok(())
}

fn move_bytes<P: Pal + 'static>(setup: &CheckSetup<'static, P>) -> Checked {
    let pair: Shared<P> = Arc::new(setup.pair());
    let mut threads: Vec<Receiver<Checked>> = vec![];
    for number in 0..STREAMS {
        let open = pair.open()?;
        let from = number * 1000;
        let (writer, reader) = (Arc::clone(&pair), Arc::clone(&pair));
        let limit = pair.patience * 4;
        let (out, inward) = (open.out, open.inward);
        threads.push(start(move || write_all(&writer, &out, from, limit)));
        threads.push(start(move || read_all(&reader, &inward, from, limit)));
    }
    // Meanwhile streams are opened and watched in this thread.
    let mut number = 0;
    for thread in threads {
        loop {
            if let Ok(done) = thread.recv_timeout(Duration::from_millis(1)) {
                done?;
                break;
            }
            if number < 20 {
                let open = pair.open()?;
                watch(
                    &pair,
                    &open.inward,
                    (Side::Two, Token(number)),
                    Interest::READ,
                )?;
                pair.two.unwatch(&open.inward);
                number += 1;
            }
            pair.poll();
        }
    }
    Ok(())
}
