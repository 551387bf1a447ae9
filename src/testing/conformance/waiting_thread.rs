//! Checks of what happens while a thread waits at the platform. They need `std`.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use super::pair::{Pair, Side, StreamEnds};
use super::readiness::watch;
use super::rules::Rule;
use super::setup::CheckSetup;
use super::threads::{Shared, WAIT_BEGINS, ends_soon, start};
use super::violation::{Checked, broken};
use super::waits::soon;
use crate::pal::{Deadline, Interest, Pal, ReadyList, Token};
use crate::sync::UncheckedAtomicU64 as AtomicU64;

/// A thread that waits again and again, and keeps what is reported.
struct WaitingThread {
    is_over: Arc<AtomicBool>,
    /// The number of the watches that have ended.
    ended: Arc<AtomicU64>,
    reports: Receiver<Reported>,
    done: Receiver<()>,
}

/// A report, and the number of watches that had ended when its wait began.
type Reported = ((Token, Interest), u64);

impl WaitingThread {
    fn start<P: Pal + 'static>(pair: &Shared<P>) -> WaitingThread {
        let is_over = Arc::new(AtomicBool::new(false));
        let ended = Arc::new(AtomicU64::new(0));
        let (sender, reports) = channel();
        pair.is_waiting_on_two.store(true, Ordering::SeqCst);
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
                    // A stream may stay ready all the time: the pause leaves the processor to other threads.
                    thread::sleep(Duration::from_millis(1));
                }
            })
        };
        thread::sleep(WAIT_BEGINS);
        WaitingThread {
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
            pair.is_waiting_on_two.store(false, Ordering::SeqCst);
        }
    }
}

/// Checks that a watch, and a change of a watch, take effect for a wait under way.
pub(super) fn watch_during<P: Pal + 'static>(setup: &CheckSetup<'static, P>) -> Checked {
    const FIRST: Token = Token(21);
    const SECOND: Token = Token(22);
    let pair: Shared<P> = Arc::new(setup.pair());
    let open = pair.open()?;
    pair.send(&open.out, 0, 10)?;
    let waiter = WaitingThread::start(&pair);
    let watched = watch(&pair, &open.inward, (Side::Two, FIRST), Interest::READ).and_then(|()| {
        let at_once = "a report of a stream that is ready when the watch begins during a wait";
        waiter.expect(&pair, (FIRST, Interest::READ), Rule::WatchDuring, at_once)
    });
    waiter.end(&pair);
    watched?;
    // The stream is not reported without an interest in it, until the interest changes during a wait.
    pair.two.rewatch(&open.inward, FIRST, Interest::HANG_UP);
    let waiter = WaitingThread::start(&pair);
    pair.note_call(Rule::RewatchDuring, "Pal::rewatch");
    pair.two.rewatch(&open.inward, SECOND, Interest::READ);
    let changed = "a report of a ready stream whose interest changes during a wait";
    let report = (SECOND, Interest::READ);
    let rewatched = waiter.expect(&pair, report, Rule::RewatchDuring, changed);
    waiter.end(&pair);
    pair.two.unwatch(&open.inward);
    rewatched
}

/// Checks that a wait under way reports a new stream and new room, and that other calls return meanwhile.
pub(super) fn happens_during<P: Pal + 'static>(setup: &CheckSetup<'static, P>) -> Checked {
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
    let waiter = WaitingThread::start(&pair);
    let result = (|| {
        calls_return(&pair, back)?;
        if let Some(sent) = full {
            pair.receive(&there.inward, 0, sent, Rule::WriteCount)?;
            let room = "WRITE during the wait, since the reader has made room";
            waiter.expect(&pair, (WRITES, Interest::WRITE), Rule::Writable, room)?;
            // Then nothing is ready, and the next wait lasts.
            pair.two.rewatch(&there.out, WRITES, Interest::HANG_UP);
            thread::sleep(WAIT_BEGINS);
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

/// Checks that calls of the second platform return although a thread waits there.
fn calls_return<P: Pal + 'static>(
    pair: &Shared<P>,
    StreamEnds { out, inward }: StreamEnds<P::Stream>,
) -> Checked {
    pair.note_call(Rule::Threads, "a call during a wait of another thread");
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

/// Checks that the tokens of dropped streams are not reported while a thread waits.
pub(super) fn drop_during<P: Pal + 'static>(setup: &CheckSetup<'static, P>) -> Checked {
    let pair: Shared<P> = Arc::new(setup.pair());
    let mut open = pair.open()?;
    watch(&pair, &open.inward, (Side::Two, Token(100)), Interest::READ)?;
    let waiter = WaitingThread::start(&pair);
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
