//! Checks with several threads at one platform. They need `std`.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::vec::Vec;
use std::{thread, vec};

use super::pair::{Moved, Open, Pair, Side, fill, mismatch};
use super::readiness::watch;
use super::rules::Rule;
use super::setup::Setup;
use super::violation::{Checked, Violation, broken};
use super::waits::{event, soon};
use crate::pal::{Deadline, Event, Interest, Pal, ReadyList, Time, Token};
use crate::sync::UncheckedAtomicU64 as AtomicU64;

/// The time after which another thread has begun to wait. If it has not, a check finds less.
const BEGINS: Duration = Duration::from_millis(30);

/// Starts a thread. A thread whose call does not return stays behind.
fn start<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(run()));
    receiver
}

/// Takes the result of a thread that has to end at once.
#[track_caller]
fn ends_soon<T, P: Pal>(
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

/// Returns the ends of a long wait.
fn long<P: Pal>(pal: &P, pair: &Pair<'_, P>) -> [Deadline; 3] {
    let after = pal.now() + pair.patience * 4;
    [
        Deadline::At(after),
        Deadline::At(Time(u64::MAX)),
        Deadline::Never,
    ]
}

/// The time in which at least one of several waits has to end. A wait that looks for its end from time to time is
/// later.
const PROMPT: Duration = Duration::from_millis(200);

/// Checks the shortest time that a wait took to end: other processes may have delayed some of them.
#[track_caller]
fn is_prompt(shortest: Duration, rule: Rule, expected: &str) -> Checked {
    if shortest < PROMPT {
        return Ok(());
    }
    Err(broken(
        rule,
        expected,
        format_args!("each of several waits ended late, the first after {shortest:?}"),
    ))
}

type Shared<P> = Arc<Pair<'static, P>>;

pub(super) fn clock<P: Pal + 'static>(setup: &Setup<'static, P>) -> Checked {
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

pub(super) fn wake_during<P: Pal + 'static>(setup: &Setup<'static, P>) -> Checked {
    let pair: Shared<P> = Arc::new(setup.pair());
    let woken = "the wait of another thread ends, since Pal::wake was called";
    let mut shortest = Duration::MAX;
    for until in long(&pair.two, &pair) {
        pair.enter(Rule::WakeDuring, "Pal::wait");
        let waiting = {
            let pair = Arc::clone(&pair);
            start(move || pair.two.wait(&mut ReadyList::new(), until))
        };
        thread::sleep(BEGINS);
        let timer = pair.timer();
        pair.two.wake();
        ends_soon(&pair, &waiting, Rule::WakeDuring, woken)?;
        shortest = shortest.min(pair.elapsed(&timer));
    }
    is_prompt(shortest, Rule::WakeDuring, woken)
}

pub(super) fn event_wakes<P: Pal + 'static>(setup: &Setup<'static, P>) -> Checked {
    let pair: Shared<P> = Arc::new(setup.pair());
    let all = "the three threads that wait for the event wake when it is set";
    let mut shortest = Duration::MAX;
    // The same event is set again and again.
    let event = Arc::new(event(&pair)?);
    for until in long(&pair.two, &pair) {
        let threads = [0, 1, 2].map(|_| {
            let (pair, event) = (Arc::clone(&pair), Arc::clone(&event));
            start(move || {
                while !event.is_set() {
                    pair.two.wait_event(&event, until);
                }
            })
        });
        thread::sleep(BEGINS);
        pair.enter(Rule::EventWakesAll, "Event::set");
        let timer = pair.timer();
        event.set();
        for thread in &threads {
            ends_soon(&pair, thread, Rule::EventWakesAll, all)?;
        }
        shortest = shortest.min(pair.elapsed(&timer));
        event.clear();
    }
    is_prompt(shortest, Rule::EventWakesAll, all)
}

/// A thread that waits again and again, and keeps what is reported.
struct Waiter {
    is_over: Arc<AtomicBool>,
    /// The number of the watches that have ended.
    ended: Arc<AtomicU64>,
    reports: Receiver<Reported>,
    done: Receiver<()>,
}

/// A report, and the number of watches that had ended when its wait began.
type Reported = ((Token, Interest), u64);

impl Waiter {
    fn start<P: Pal + 'static>(pair: &Shared<P>) -> Waiter {
        let is_over = Arc::new(AtomicBool::new(false));
        let ended = Arc::new(AtomicU64::new(0));
        let (sender, reports) = channel();
        pair.is_two_waited.store(true, Ordering::SeqCst);
        let done = {
            let (pair, is_over) = (Arc::clone(pair), Arc::clone(&is_over));
            let ended = Arc::clone(&ended);
            start(move || {
                while !is_over.load(Ordering::SeqCst) {
                    let mut ready = ReadyList::new();
                    let ended = ended.load(Ordering::SeqCst);
                    let until = Deadline::At(pair.two.now() + pair.patience * 4);
                    pair.two.wait(&mut ready, until);
                    for report in ready {
                        let _ = sender.send((report, ended));
                    }
                    // A stream stays ready, and this thread shall not take the processor.
                    thread::sleep(Duration::from_millis(1));
                }
            })
        };
        thread::sleep(BEGINS);
        Waiter {
            is_over,
            ended,
            reports,
            done,
        }
    }

    /// Waits for a report.
    #[track_caller]
    fn expect<P: Pal>(
        &self,
        pair: &Pair<'_, P>,
        (token, interest): (Token, Interest),
        rule: Rule,
        expected: &str,
    ) -> Checked {
        let timer = pair.timer();
        while pair.elapsed(&timer) < soon(pair) {
            // The other node may have bytes to move.
            pair.wait_for(Side::One, Duration::ZERO);
            let report = self.reports.recv_timeout(Duration::from_millis(2));
            if report.is_ok_and(|((found, ready), _)| found == token && ready.contains(interest)) {
                return Ok(());
            }
        }
        Err(broken(
            rule,
            expected,
            format_args!("the wait under way did not report it in {:?}", soon(pair)),
        ))
    }

    /// Ends the thread. If it does not end, the next check must not wait at the same platform.
    fn end<P: Pal>(&self, pair: &Pair<'_, P>) {
        self.is_over.store(true, Ordering::SeqCst);
        pair.two.wake();
        if self.done.recv_timeout(soon(pair)).is_ok() {
            pair.is_two_waited.store(false, Ordering::SeqCst);
        }
    }
}

pub(super) fn watch_during<P: Pal + 'static>(setup: &Setup<'static, P>) -> Checked {
    const FIRST: Token = Token(21);
    const SECOND: Token = Token(22);
    let pair: Shared<P> = Arc::new(setup.pair());
    let open = pair.open()?;
    pair.send(&open.out, 0, 10)?;
    let waiter = Waiter::start(&pair);
    let watched = watch(&pair, &open.inward, (Side::Two, FIRST), Interest::READ).and_then(|()| {
        let at_once = "a report of a stream that is ready when the watch begins during a wait";
        waiter.expect(&pair, (FIRST, Interest::READ), Rule::WatchDuring, at_once)
    });
    waiter.end(&pair);
    watched?;
    // Without an interest nothing is reported, until the interest changes during a wait.
    pair.two.rewatch(&open.inward, FIRST, Interest::HANG_UP);
    let waiter = Waiter::start(&pair);
    pair.enter(Rule::RewatchDuring, "Pal::rewatch");
    pair.two.rewatch(&open.inward, SECOND, Interest::READ);
    let changed = "a report of a ready stream whose interest changes during a wait";
    let report = (SECOND, Interest::READ);
    let rewatched = waiter.expect(&pair, report, Rule::RewatchDuring, changed);
    waiter.end(&pair);
    pair.two.unwatch(&open.inward);
    rewatched
}

/// A process connects, a reader makes room, and a stream is read, while a thread waits.
pub(super) fn happens_during<P: Pal + 'static>(setup: &Setup<'static, P>) -> Checked {
    const WRITES: Token = Token(31);
    let mut pair = setup.pair();
    let there = pair.open()?;
    let full = pair.fill_up(&there.out, 0)?;
    pair.swap();
    let back = pair.open()?;
    let pair: Shared<P> = Arc::new(pair);
    if full.is_some() {
        watch(&pair, &there.out, (Side::Two, WRITES), Interest::WRITE)?;
    }
    let waiter = Waiter::start(&pair);
    let result = (|| {
        calls_return(&pair, back)?;
        if let Some(sent) = full {
            pair.receive(&there.inward, 0, sent, Rule::WriteCount)?;
            let room = "WRITE during the wait, since the reader has made room";
            waiter.expect(&pair, (WRITES, Interest::WRITE), Rule::Writable, room)?;
            // Then nothing is ready, and the next wait lasts.
            pair.two.rewatch(&there.out, WRITES, Interest::HANG_UP);
            thread::sleep(BEGINS);
        }
        let out = pair.until(|| pair.try_connect())?;
        let opened = "a report of the listener during the wait, since a stream was opened";
        let report = (Token::LISTENER, Interest::READ);
        let reported = waiter.expect(&pair, report, Rule::Listener, opened);
        drop(out);
        reported
    })();
    waiter.end(&pair);
    if full.is_some() {
        pair.two.unwatch(&there.out);
    }
    result
}

/// Calls of the second platform return, although a thread waits there.
fn calls_return<P: Pal + 'static>(
    pair: &Shared<P>,
    Open { out, inward }: Open<P::Stream>,
) -> Checked {
    pair.enter(Rule::Threads, "a call during a wait of another thread");
    let done = {
        let pair = Arc::clone(pair);
        start(move || {
            let _ = pair.two.connect(pair.vmids[0]);
            let _ = pair.two.accept();
            let _ = pair.read(&inward, &mut [0; 16]);
            drop(inward);
        })
    };
    let returns = "Pal::connect, Pal::accept and Stream::read return while another thread waits";
    ends_soon(pair, &done, Rule::Threads, returns)?;
    drop(out);
    Ok(())
}

/// Streams are dropped and others opened while a thread waits.
pub(super) fn drop_during<P: Pal + 'static>(setup: &Setup<'static, P>) -> Checked {
    let pair: Shared<P> = Arc::new(setup.pair());
    let mut open = pair.open()?;
    watch(&pair, &open.inward, (Side::Two, Token(100)), Interest::READ)?;
    let waiter = Waiter::start(&pair);
    let result = (101..110_u64).try_for_each(|number| {
        pair.send(&open.out, 0, 1)?;
        let old = Token(number - 1);
        let bytes = "a report during the wait, since bytes have arrived";
        waiter.expect(&pair, (old, Interest::READ), Rule::Readable, bytes)?;
        pair.two.unwatch(&open.inward);
        let ended = waiter.ended.fetch_add(1, Ordering::SeqCst) + 1;
        open = pair.open()?;
        let new = Token(number);
        watch(&pair, &open.inward, (Side::Two, new), Interest::READ)?;
        thread::sleep(Duration::from_millis(5));
        // Only the wait that was under way may report the old token.
        let mut late = waiter.reports.try_iter();
        if late.any(|((token, _), seen)| token == old && seen >= ended) {
            return Err(broken(
                Rule::Dropped,
                "no report with the token of a stream that was dropped",
                format_args!("a report by a wait that began after the end of its watch"),
            ));
        }
        Ok(())
    });
    waiter.end(&pair);
    pair.two.unwatch(&open.inward);
    result
}

/// The ends of [`Pal::wait_readable`] whose cause comes during the call.
pub(super) fn wait_readable<P: Pal + 'static>(setup: &Setup<'static, P>) -> Checked {
    let pair: Shared<P> = Arc::new(setup.pair());
    if !pair.two.supports_caller_read() {
        return Ok(());
    }
    for until in long(&pair.two, &pair) {
        let event = Arc::new(event(&pair)?);
        let open = pair.open()?;
        let (out, inward) = (open.out, Arc::new(open.inward));
        let wait = || {
            let (pair, event, inward) =
                (Arc::clone(&pair), Arc::clone(&event), Arc::clone(&inward));
            let waiting = start(move || pair.two.wait_readable(&inward, &event, until));
            thread::sleep(BEGINS);
            waiting
        };
        pair.enter(Rule::WaitReadableEvent, "Pal::wait_readable");
        let waiting = wait();
        event.set();
        let set = "the wait of another thread ends, since the event is set";
        ends_soon(&pair, &waiting, Rule::WaitReadableEvent, set)?;
        event.clear();
        pair.enter(Rule::WaitReadable, "Pal::wait_readable");
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

/// Threads write and read streams of their own at the same time.
pub(super) fn transfer<P: Pal + 'static>(setup: &Setup<'static, P>) -> Checked {
    // One thread alone has done all of that before.
    move_bytes(setup).map_err(|violation| match violation.rule {
        Rule::Order | Rule::End | Rule::ReadCount | Rule::WriteCount => Violation {
            rule: Rule::Threads,
            ..violation
        },
        _ => violation,
    })
}

fn move_bytes<P: Pal + 'static>(setup: &Setup<'static, P>) -> Checked {
    const STREAMS: usize = 3;
    const LENGTH: usize = 100_000;
    let pair: Shared<P> = Arc::new(setup.pair());
    let mut threads: Vec<Receiver<Checked>> = vec![];
    for number in 0..STREAMS {
        let open = pair.open()?;
        let from = number * 1000;
        let (writer, reader) = (Arc::clone(&pair), Arc::clone(&pair));
        let limit = pair.patience * 4;
        threads.push(start(move || {
            let timer = writer.timer();
            let mut buffer = [0; 512];
            let mut sent = 0;
            while sent < LENGTH && writer.elapsed(&timer) < limit {
                let part = &mut buffer[..(LENGTH - sent).min(512)];
                fill(part, from + sent);
                match writer.write(&open.out, &[part])? {
                    Moved::Bytes(count) => sent += count,
                    Moved::Nothing => thread::yield_now(),
                    Moved::End => break,
                }
            }
            Ok(())
        }));
        threads.push(start(move || {
            let timer = reader.timer();
            let mut buffer = [0; 700];
            let mut received = 0;
            while received < LENGTH {
                match reader.read(&open.inward, &mut buffer)? {
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
                    Moved::Nothing if reader.elapsed(&timer) < limit => thread::yield_now(),
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
        }));
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
