//! Checks of the clock, of events, and of the ends of waits, in one thread.

use core::time::Duration;

use super::pair::{Moved, Pair, Side, Timer};
use super::rules::Rule;
use super::setup::CheckSetup;
use super::violation::{Checked, broken};
use crate::pal::fault::fault_count;
use crate::pal::{Deadline, Event, Pal, ReadyList, Time};

/// A short wait.
const SHORT: Duration = Duration::from_millis(20);

/// Returns the time in which a wait that ends at once must have ended: long, since other processes may have the
/// processor.
pub(super) fn soon<P: Pal>(pair: &Pair<'_, P>) -> Duration {
    pair.patience / 2
}

/// Checks that a wait ended at once.
#[track_caller]
pub(super) fn ended_soon<P: Pal>(
    pair: &Pair<'_, P>,
    timer: &Timer,
    rule: Rule,
    expected: &str,
) -> Checked {
    let took = pair.elapsed(timer);
    if took < soon(pair) {
        return Ok(());
    }
    Err(broken(
        rule,
        expected,
        format_args!("it ended after {took:?}"),
    ))
}

/// Makes an event that is ready to wait for.
#[track_caller]
pub(super) fn event<P: Pal>(pair: &Pair<'_, P>) -> Checked<P::Event> {
    pair.note_call(Rule::EventState, "Pal::event");
    let event = pair.two.event();
    let event = event.and_then(|event| event.prepare().map(|()| event));
    event.map_err(|_| broken(Rule::EventState, "an event", format_args!("OutOfResources")))
}

/// Checks that the clock goes on, never goes back, and counts nanoseconds.
pub(super) fn clock<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    /// A clock may have ticks of some milliseconds; without `std` there is no other clock to compare with.
    const MAX_READS: u32 = 20_000_000;
    let pair = setup.pair();
    pair.note_call(Rule::ClockStands, "Pal::now");
    let timer = pair.timer();
    let start = pair.one.now();
    let mut last = start;
    let mut reads = 0;
    while last.since(start) < SHORT {
        let now = pair.one.now();
        if now < last {
            return Err(broken(
                Rule::ClockGoesBack,
                "a time that is not less than the one before",
                format_args!("{} after {}", now.0, last.0),
            ));
        }
        last = now;
        reads += 1;
        let is_over = cfg!(feature = "std") && pair.elapsed(&timer) > pair.patience;
        if is_over || !cfg!(feature = "std") && reads > MAX_READS {
            let passed = last.since(start);
            let rule = if passed.is_zero() {
                Rule::ClockStands
            } else {
                Rule::ClockUnit
            };
            return Err(broken(
                rule,
                "a clock that goes on",
                format_args!("it went on by {passed:?} in {:?}", pair.patience),
            ));
        }
    }
    #[cfg(feature = "std")]
    {
        // The clock may have jumped.
        check_span(last.since(start), Duration::ZERO, pair.elapsed(&timer))?;
        check_unit(&pair)?;
    }
    Ok(())
}

/// Compares a span of the platform's clock with the bounds that the host's clock sets. A tick may take 20 ms, and a
/// simulated clock may be late.
#[cfg(feature = "std")]
fn check_span(passed: Duration, least: Duration, most: Duration) -> Checked {
    const TICK: Duration = Duration::from_millis(20);
    if passed <= most * 2 + TICK && (passed + TICK) * 4 >= least {
        return Ok(());
    }
    Err(broken(
        Rule::ClockUnit,
        "the nanoseconds that have passed",
        format_args!("{passed:?} in {least:?} to {most:?} of the host's clock"),
    ))
}

/// Checks that the clock counts nanoseconds, as the host's does.
#[cfg(feature = "std")]
fn check_unit<P: Pal>(pair: &Pair<'_, P>) -> Checked {
    let start = (pair.timer(), pair.one.now(), pair.timer());
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(10));
        let least = pair.elapsed(&start.2);
        let passed = pair.one.now().since(start.1);
        check_span(passed, least, pair.elapsed(&start.0))?;
    }
    Ok(())
}

/// Checks that an event keeps its own state.
pub(super) fn event_state<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    let (event, other) = (event(&pair)?, event(&pair)?);
    let check_state = |event: &P::Event, expected: bool, when: &str| {
        let is_set = event.is_set();
        if is_set == expected {
            return Ok(());
        }
        let seen = if is_set { "set" } else { "clear" };
        Err(broken(Rule::EventState, when, format_args!("it is {seen}")))
    };
    let is = |expected, when| check_state(&event, expected, when);
    is(false, "a new event is clear")?;
    for _ in 0..3 {
        event.set();
        is(true, "set after it was set")?;
        event.set();
        is(true, "set after it was set twice")?;
        pair.note_call(
            Rule::EventSetBefore,
            "Pal::wait_event of an event that is set",
        );
        pair.two.wait_event(&event, Deadline::Now);
        is(true, "set after a wait, since nothing has cleared it")?;
        event.clear();
        is(false, "clear after it was cleared")?;
        event.clear();
        is(false, "clear after it was cleared twice")?;
        other.set();
        is(false, "clear although another event is set")?;
        event.set();
        event.clear();
        check_state(&other, true, "set although another event was cleared")?;
        other.clear();
    }
    Ok(())
}

/// Checks that a wait for an event ends at its time limit, or at once if the event is set.
pub(super) fn event_waits<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    let event = event(&pair)?;
    for until in [
        Deadline::Now,
        Deadline::At(Time(0)),
        Deadline::At(pair.two.now() + SHORT),
    ] {
        pair.note_call(Rule::EventTime, "Pal::wait_event with a time limit");
        let timer = pair.timer();
        pair.two.wait_event(&event, until);
        let over = "a wait that ends at its time limit";
        ended_soon(&pair, &timer, Rule::EventTime, over)?;
    }
    for until in [pair.two.now() + pair.patience, Time(u64::MAX)] {
        event.set();
        pair.note_call(
            Rule::EventSetBefore,
            "Pal::wait_event of an event that is set",
        );
        let timer = pair.timer();
        pair.two.wait_event(&event, Deadline::At(until));
        let at_once = "a wait that ends at once, since the event is set";
        ended_soon(&pair, &timer, Rule::EventSetBefore, at_once)?;
        event.clear();
    }
    Ok(())
}

/// Checks that a wait ends at its time limit.
pub(super) fn wait_time<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    for until in [
        Deadline::Now,
        Deadline::At(Time(0)),
        Deadline::At(pair.two.now() + SHORT),
    ] {
        pair.note_call(Rule::WaitTime, "Pal::wait with a time limit");
        let timer = pair.timer();
        pair.two.wait(&mut ReadyList::new(), until);
        let over = "a wait that ends at its time limit";
        ended_soon(&pair, &timer, Rule::WaitTime, over)?;
    }
    Ok(())
}

/// Checks that a wake ends the next wait.
pub(super) fn wake_before<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    let until = pair.two.now() + pair.patience;
    for until in [until, Time(u64::MAX), until] {
        pair.wait_for(Side::Two, Duration::ZERO);
        pair.two.wake();
        pair.note_call(Rule::WakeBefore, "Pal::wait after Pal::wake");
        let timer = pair.timer();
        pair.two.wait(&mut ReadyList::new(), Deadline::At(until));
        let at_once = "a wait that ends at once, since Pal::wake was called before";
        ended_soon(&pair, &timer, Rule::WakeBefore, at_once)?;
    }
    Ok(())
}

/// Checks the ends of [`Pal::wait_readable`] whose cause comes before the call.
pub(super) fn wait_readable<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    if !pair.two.supports_caller_read() {
        return Ok(());
    }
    let open = pair.open()?;
    let event = event(&pair)?;
    let wait = |rule, until, expected: &str| {
        pair.note_call(rule, "Pal::wait_readable");
        let timer = pair.timer();
        let is_readable = pair.two.wait_readable(&open.inward, &event, until);
        ended_soon(&pair, &timer, rule, expected).map(|()| is_readable)
    };
    let far = || Deadline::At(pair.two.now() + pair.patience);
    let over = "a wait that ends at its time limit";
    for until in [
        Deadline::Now,
        Deadline::At(Time(0)),
        Deadline::At(pair.two.now() + SHORT),
    ] {
        wait(Rule::WaitReadableTime, until, over)?;
    }
    event.set();
    let set = "a wait that ends at once, since the event is set";
    wait(Rule::WaitReadableEvent, far(), set)?;
    event.clear();
    pair.send(&open.out, 0, 10)?;
    let readable = "a wait that ends at once, since bytes have arrived";
    // Bytes may take a moment, and a wrapper may fail at random.
    let found = pair.until(|| Ok(wait(Rule::WaitReadable, far(), readable)?.then_some(())))?;
    if found.is_none() {
        return Err(broken(
            Rule::WaitReadable,
            "true, since bytes have arrived",
            format_args!("false"),
        ));
    }
    pair.receive(&open.inward, 0, 10, Rule::Order)?;
    drop(open.out);
    pair.poll();
    let hung_up = "a wait that ends at once, since the writer has dropped its end";
    pair.note_call(Rule::WaitReadable, "Pal::wait_readable after a hang-up");
    let timer = pair.timer();
    pair.two.wait_readable(&open.inward, &event, far());
    ended_soon(&pair, &timer, Rule::WaitReadable, hung_up)
}

/// Checks the ends of [`Pal::read_waiting`].
pub(super) fn read_waiting<P: Pal>(setup: &CheckSetup<'_, P>) -> Checked {
    let pair = setup.pair();
    if !pair.two.supports_caller_read() {
        return Ok(());
    }
    let open = pair.open()?;
    let event = event(&pair)?;
    let read = |until: Deadline| {
        let mut buffer = [0; 64];
        pair.note_call(Rule::ReadWaiting, "Pal::read_waiting");
        let (timer, faults) = (pair.timer(), fault_count());
        let read = pair
            .two
            .read_waiting(&open.inward, &event, &mut buffer, until);
        let moved = Pair::<P>::check_read(read, buffer.len(), faults)?;
        let at_once = "a read that ends at once, by bytes, the event or the time limit";
        ended_soon(&pair, &timer, Rule::ReadWaiting, at_once)?;
        Ok((moved, buffer))
    };
    let nothing = |moved, when: &str| {
        if moved == Moved::Nothing {
            return Ok(());
        }
        Err(broken(Rule::ReadWaiting, when, format_args!("{moved:?}")))
    };
    let far = || Deadline::At(pair.two.now() + pair.patience);
    for until in [Deadline::Now, Deadline::At(pair.two.now() + SHORT)] {
        nothing(read(until)?.0, "WouldBlock at the time limit")?;
    }
    event.set();
    nothing(read(far())?.0, "WouldBlock, since the event is set")?;
    event.clear();
    pair.send(&open.out, 0, 10)?;
    let mut received = 0;
    let done = pair.until(|| {
        let (moved, buffer) = read(far())?;
        match moved {
            Moved::Bytes(count) => {
                if super::pair::mismatch(&buffer[..count], received).is_some() {
                    return Err(broken(
                        Rule::ReadWaiting,
                        "the bytes that were written",
                        format_args!("other bytes"),
                    ));
                }
                received += count;
            }
            Moved::Nothing => {}
            Moved::End => nothing(moved, "bytes")?,
        }
        Ok((received == 10).then_some(()))
    })?;
    if done.is_none() {
        return Err(broken(
            Rule::ReadWaiting,
            "the bytes that were written",
            format_args!("{received} of 10 bytes"),
        ));
    }
    drop(open.out);
    let ended = pair.until(|| Ok((read(far())?.0 == Moved::End).then_some(())))?;
    ended.ok_or_else(|| {
        broken(
            Rule::ReadWaiting,
            "the end, since the writer has dropped its end",
            format_args!("WouldBlock for {:?}", pair.patience),
        )
    })
}
