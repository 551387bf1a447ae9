//! Two nodes' platforms with streams between them, and the calls that all checks make.

use core::fmt;
use core::panic::Location;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;

use heapless::String;
use spin::Mutex;

use super::rules::Rule;
use crate::Vmid;
use crate::pal::fault::fault_count;
use crate::pal::{
    AcceptError, ConnectError, Deadline, Interest, Pal, READY_AT_ONCE, ReadyList, Stream,
    StreamError, Token,
};

/// A rule that a platform has broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// The line of the check.
    pub place: &'static Location<'static>,
    /// The behaviour that the rule demands.
    pub expected: String<160>,
    /// The behaviour of the platform.
    pub seen: String<200>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} ({}): \"{}\"",
            self.rule,
            self.rule.item(),
            self.rule.text()
        )?;
        writeln!(f, "    expected: {}", self.expected)?;
        writeln!(f, "    seen:     {}", self.seen)?;
        write!(f, "    check:    {}", self.place)
    }
}

/// The result of a check.
pub(super) type Checked<T = ()> = Result<T, Violation>;

/// Makes the violation of a rule.
#[track_caller]
pub(super) fn broken(rule: Rule, expected: &str, seen: fmt::Arguments<'_>) -> Violation {
    let mut violation = Violation {
        rule,
        place: Location::caller(),
        expected: String::new(),
        seen: String::new(),
    };
    // A text that is too long is cut.
    let _ = fmt::write(&mut violation.expected, format_args!("{expected}"));
    let _ = fmt::write(&mut violation.seen, seen);
    violation
}

/// The call of the platform under way: the watchdog reports it if it does not return.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "std"),
    allow(dead_code, reason = "there is no watchdog")
)]
pub(super) struct Step {
    pub(super) rule: Rule,
    pub(super) call: &'static str,
}

impl Step {
    pub(super) const NONE: Step = Step {
        rule: Rule::Connect,
        call: "a function that makes a platform",
    };
}

/// The source of the platforms of one check.
#[cfg_attr(not(feature = "std"), allow(dead_code, reason = "there is no family"))]
pub(super) struct Setup<'a, P: Pal> {
    pub(super) make: &'a (dyn Fn(Vmid) -> P + Sync),
    pub(super) step: &'a Mutex<Step>,
    /// A report that no wait may make.
    pub(super) bad_report: &'a Mutex<Option<Violation>>,
    pub(super) next: &'a AtomicU32,
    pub(super) patience: Duration,
    /// Whether several threads use a platform.
    pub(super) has_threads: bool,
    /// Whether a node's process ends for its peers when its platform is dropped.
    pub(super) drop_ends: bool,
    /// Whether both nodes of a pair have the same platform.
    pub(super) is_only_one: bool,
}

impl<'a, P: Pal> Setup<'a, P> {
    /// Returns a VMID that no other check has.
    pub(super) fn vmid(&self) -> Vmid {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Vmid::new(number).map_or(Vmid::LEADER, |vmid| vmid)
    }

    /// Makes the platforms of two nodes.
    pub(super) fn pair(&self) -> Pair<'a, P> {
        let vmids = [self.vmid(), self.vmid()];
        Pair {
            one: (self.make)(vmids[0]),
            two: (self.make)(vmids[1]),
            vmids,
            step: self.step,
            bad_report: self.bad_report,
            patience: self.patience,
            is_two_waited: AtomicBool::new(false),
            is_only_one: self.is_only_one,
        }
    }
}

/// Measures time: by the host's clock, without `std` by the platform's.
pub(super) struct Timer {
    #[cfg(feature = "std")]
    start: std::time::Instant,
    #[cfg(not(feature = "std"))]
    start: crate::pal::Time,
}

/// The platforms of two nodes: streams are opened at the first and accepted at the second.
pub(super) struct Pair<'a, P: Pal> {
    pub(super) one: P,
    pub(super) two: P,
    pub(super) vmids: [Vmid; 2],
    step: &'a Mutex<Step>,
    bad_report: &'a Mutex<Option<Violation>>,
    pub(super) patience: Duration,
    /// A thread is in [`Pal::wait`] of the second platform.
    pub(super) is_two_waited: AtomicBool,
    is_only_one: bool,
}

/// Both ends of a stream.
pub(super) struct Open<S> {
    pub(super) out: S,
    pub(super) inward: S,
}

/// The result of a read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    Bytes(usize),
    /// Nothing at present.
    Nothing,
    /// The end of the stream.
    End,
}

/// The side of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    One,
    Two,
}

/// The most calls in a row that may do nothing although they could: some platforms fail at random.
pub(super) const TRIES: usize = 40;

/// Returns the byte at that place of a stream.
#[allow(clippy::cast_possible_truncation)]
pub(super) fn byte(place: usize) -> u8 {
    (place ^ (place >> 8).wrapping_mul(7) ^ (place >> 16)) as u8
}

/// Fills the buffer with the bytes from that place of a stream on.
pub(super) fn fill(buffer: &mut [u8], from: usize) {
    for (place, to) in (from..).zip(buffer) {
        *to = byte(place);
    }
}

/// Returns the first byte that is not the one of a stream.
pub(super) fn mismatch(buffer: &[u8], from: usize) -> Option<usize> {
    (from..)
        .zip(buffer)
        .position(|(place, found)| *found != byte(place))
}

impl<P: Pal> Pair<'_, P> {
    #[cfg_attr(
        feature = "std",
        allow(clippy::unused_self, reason = "without `std` it has the clock")
    )]
    pub(super) fn timer(&self) -> Timer {
        Timer {
            #[cfg(feature = "std")]
            start: std::time::Instant::now(),
            #[cfg(not(feature = "std"))]
            start: self.one.now(),
        }
    }

    /// Returns the time since the timer was made.
    #[cfg_attr(
        feature = "std",
        allow(clippy::unused_self, reason = "without `std` it has the clock")
    )]
    pub(super) fn elapsed(&self, timer: &Timer) -> Duration {
        #[cfg(feature = "std")]
        return timer.start.elapsed();
        #[cfg(not(feature = "std"))]
        return self.one.now() - timer.start;
    }

    /// Records the call that is made next, and the rule that it breaks if it does not return.
    pub(super) fn enter(&self, rule: Rule, call: &'static str) {
        *self.step.lock() = Step { rule, call };
    }

    pub(super) fn pal(&self, side: Side) -> &P {
        match side {
            Side::One => &self.one,
            Side::Two => &self.two,
        }
    }

    /// Waits once, and returns the report.
    pub(super) fn wait_for(&self, side: Side, span: Duration) -> ReadyList {
        let pal = self.pal(side);
        if self.is_only_one && self.is_two_waited.load(Ordering::SeqCst) {
            return ReadyList::new();
        }
        let until = if span.is_zero() {
            Deadline::Now
        } else {
            Deadline::At(pal.now() + span)
        };
        self.enter(Rule::WaitTime, "Pal::wait with a time limit");
        let mut ready = ReadyList::new();
        let faults = fault_count();
        pal.wait(&mut ready, until);
        self.check_report(&ready, faults);
        ready
    }

    /// Keeps the violation of a report that no wait may make, whatever is watched.
    fn check_report(&self, ready: &ReadyList, faults: u64) {
        let unknown = ready
            .iter()
            .find(|(_, readiness)| !Interest::all().contains(*readiness));
        let violation = if fault_count() != faults {
            broken(
                Rule::ReadyCount,
                "at most as many entries as there is room for",
                format_args!("more than {READY_AT_ONCE}"),
            )
        } else if let Some((token, readiness)) = unknown {
            broken(
                Rule::Readiness,
                "READ, WRITE and HANG_UP",
                format_args!("{readiness:?} of {token:?}"),
            )
        } else {
            return;
        };
        self.bad_report.lock().get_or_insert(violation);
    }

    /// Lets both platforms move bytes.
    pub(super) fn poll(&self) {
        self.wait_for(Side::One, Duration::ZERO);
        if !self.is_two_waited.load(Ordering::SeqCst) {
            self.wait_for(Side::Two, Duration::ZERO);
        }
        #[cfg(feature = "std")]
        std::thread::sleep(Duration::from_micros(20));
    }

    /// Repeats `attempt` until it returns a result, in the time that a check may take.
    pub(super) fn until<T>(
        &self,
        mut attempt: impl FnMut() -> Checked<Option<T>>,
    ) -> Checked<Option<T>> {
        let timer = self.timer();
        loop {
            if let Some(result) = attempt()? {
                return Ok(Some(result));
            }
            if self.elapsed(&timer) > self.patience {
                return Ok(None);
            }
            self.poll();
        }
    }

    /// Returns the readiness that one wait reports for that token.
    pub(super) fn report(&self, side: Side, token: Token, span: Duration) -> Interest {
        let ready = self.wait_for(side, span);
        let other = match side {
            Side::One => Side::Two,
            Side::Two => Side::One,
        };
        if other == Side::One || !self.is_two_waited.load(Ordering::SeqCst) {
            self.wait_for(other, Duration::ZERO);
        }
        let of_token = ready.iter().filter(|(reported, _)| *reported == token);
        of_token.fold(Interest::empty(), |sum, (_, readiness)| sum | *readiness)
    }

    /// Waits until that readiness is reported.
    #[track_caller]
    pub(super) fn await_report(
        &self,
        (side, token): (Side, Token),
        wanted: Interest,
        rule: Rule,
        expected: &str,
    ) -> Checked<Interest> {
        let timer = self.timer();
        let mut last = Interest::empty();
        while self.elapsed(&timer) <= self.patience {
            let found = self.report(side, token, Duration::from_millis(2));
            if found.contains(wanted) {
                return Ok(found);
            }
            last |= found;
        }
        Err(broken(
            rule,
            expected,
            format_args!("{last:?} in {:?}", self.patience),
        ))
    }

    /// Checks that a token is not reported with any of `unwanted` for a while.
    #[track_caller]
    pub(super) fn stays_quiet(
        &self,
        (side, token): (Side, Token),
        unwanted: Interest,
        rule: Rule,
        expected: &str,
    ) -> Checked {
        for _ in 0..3 {
            let found = self.report(side, token, Duration::from_millis(5));
            if found.intersects(unwanted) {
                return Err(broken(
                    rule,
                    expected,
                    format_args!("{found:?} is reported"),
                ));
            }
        }
        Ok(())
    }

    /// Reads once.
    #[track_caller]
    pub(super) fn read(&self, stream: &P::Stream, buffer: &mut [u8]) -> Checked<Moved> {
        self.enter(Rule::WouldBlock, "Stream::read");
        let faults = fault_count();
        let read = stream.read(buffer);
        Self::check_read(read, buffer.len(), faults)
    }

    #[track_caller]
    pub(super) fn check_read(
        read: Result<usize, StreamError>,
        room: usize,
        faults: u64,
    ) -> Checked<Moved> {
        match read {
            Ok(count) if count > room || fault_count() != faults => Err(broken(
                Rule::ReadCount,
                "a result of at most the buffer's length",
                format_args!("{count} bytes for a buffer of {room}"),
            )),
            _ if fault_count() != faults => Err(broken(
                Rule::ReadCount,
                "a result of at most the buffer's length",
                format_args!("more than the {room} bytes of the buffer"),
            )),
            Ok(0) | Err(StreamError::Closed) => Ok(Moved::End),
            Ok(count) => Ok(Moved::Bytes(count)),
            Err(StreamError::WouldBlock | StreamError::Interrupted) => Ok(Moved::Nothing),
        }
    }

    /// Writes once.
    #[track_caller]
    pub(super) fn write(&self, stream: &P::Stream, parts: &[&[u8]]) -> Checked<Moved> {
        self.enter(Rule::WouldBlock, "Stream::write");
        let offered: usize = parts.iter().map(|part| part.len()).sum();
        let faults = fault_count();
        let written = stream.write(parts);
        let expected = "a result from 1 to the number of bytes that were offered";
        match written {
            Ok(count) if count == 0 || count > offered => Err(broken(
                Rule::WriteCount,
                expected,
                format_args!("{count} for {offered} bytes"),
            )),
            _ if fault_count() != faults => Err(broken(
                Rule::WriteCount,
                expected,
                format_args!("another number for {offered} bytes"),
            )),
            Ok(count) => Ok(Moved::Bytes(count)),
            Err(StreamError::Closed) => Ok(Moved::End),
            Err(StreamError::WouldBlock | StreamError::Interrupted) => Ok(Moved::Nothing),
        }
    }

    /// Tries to connect once.
    #[track_caller]
    pub(super) fn try_connect(&self) -> Checked<Option<P::Stream>> {
        self.enter(Rule::Connect, "Pal::connect");
        match self.one.connect(self.vmids[1]) {
            Ok(stream) => Ok(Some(stream)),
            Err(ConnectError::Busy) => Ok(None),
            Err(error) => Err(broken(
                Rule::Connect,
                "a stream to a process that listens, or Busy for a while",
                format_args!("{error:?}"),
            )),
        }
    }

    /// Tries to accept once.
    #[track_caller]
    pub(super) fn try_accept(&self) -> Checked<Option<P::Stream>> {
        self.enter(Rule::Accept, "Pal::accept");
        match self.two.accept() {
            Ok(stream) => Ok(Some(stream)),
            Err(AcceptError::WouldBlock) => Ok(None),
            Err(error) => Err(broken(
                Rule::Accept,
                "the stream that was opened",
                format_args!("{error:?}"),
            )),
        }
    }

    /// Opens a stream from the first node to the second. It begins with the VMID of the first, like all
    /// streams of nodes.
    #[track_caller]
    pub(super) fn open(&self) -> Checked<Open<P::Stream>> {
        self.open_if_there_is_room()?.ok_or_else(|| {
            broken(
                Rule::Connect,
                "a stream to a process that listens",
                format_args!("no stream was opened and accepted in {:?}", self.patience),
            )
        })
    }

    /// As [`Pair::open`]; `None` if the platform has no stream for it.
    #[track_caller]
    pub(super) fn open_if_there_is_room(&self) -> Checked<Option<Open<P::Stream>>> {
        let (mut out, mut inward) = (None, None);
        // A wrapper may exchange keys first, which takes reads and writes at both ends.
        let mut sent = 0;
        let mut received = 0;
        let hello = self.vmids[0].get().to_le_bytes();
        let opened = self.until(|| {
            if out.is_none() {
                out = self.try_connect()?;
            }
            if inward.is_none() {
                inward = self.try_accept()?;
            }
            if let Some(out) = out.as_ref().filter(|_| sent < hello.len()) {
                match self.write(out, &[&hello[sent..]])? {
                    Moved::Bytes(count) => sent += count,
                    Moved::Nothing => {}
                    Moved::End => return Err(early_end("writes")),
                }
            }
            if let Some(inward) = &inward {
                let mut buffer = [0; 4];
                let room = hello.len() - received;
                match self.read(inward, &mut buffer[..room])? {
                    Moved::Bytes(count) if buffer[..count] != hello[received..][..count] => {
                        return Err(broken(
                            Rule::Order,
                            "the first bytes that were written",
                            format_args!("{:?} for {hello:?}", &buffer[..count]),
                        ));
                    }
                    Moved::Bytes(count) => received += count,
                    Moved::Nothing => {}
                    Moved::End => return Err(early_end("reads")),
                }
            }
            Ok((received == hello.len()).then_some(()))
        })?;
        if opened.is_none() && out.is_some() && inward.is_some() {
            return Err(broken(
                Rule::Order,
                "the bytes that were written arrive",
                format_args!("{received} of {sent} bytes arrived in {:?}", self.patience),
            ));
        }
        Ok(opened.and_then(|()| {
            Some(Open {
                out: out?,
                inward: inward?,
            })
        }))
    }

    /// Writes bytes of the pattern from that place on until all are written.
    #[track_caller]
    pub(super) fn send(&self, out: &P::Stream, from: usize, length: usize) -> Checked {
        let mut buffer = [0; 1024];
        let mut sent = 0;
        let done = self.until(|| {
            while sent < length {
                let part = &mut buffer[..(length - sent).min(1024)];
                fill(part, from + sent);
                match self.write(out, &[part])? {
                    Moved::Bytes(count) => sent += count,
                    Moved::Nothing => return Ok(None),
                    Moved::End => return Err(early_end("writes")),
                }
            }
            Ok(Some(()))
        })?;
        done.ok_or_else(|| {
            broken(
                Rule::WriteCount,
                "a stream with room takes bytes",
                format_args!("{sent} of {length} bytes were taken in {:?}", self.patience),
            )
        })
    }

    /// Reads bytes of the pattern from that place on until so many have arrived.
    #[track_caller]
    pub(super) fn receive(
        &self,
        inward: &P::Stream,
        from: usize,
        length: usize,
        rule: Rule,
    ) -> Checked {
        let mut buffer = [0; 1024];
        let mut received = 0;
        let done = self.until(|| {
            while received < length {
                let part = &mut buffer[..(length - received).min(1024)];
                match self.read(inward, part)? {
                    Moved::Bytes(count) => {
                        if let Some(place) = mismatch(&part[..count], from + received) {
                            return Err(broken(
                                rule,
                                "the bytes that were written, in their order",
                                format_args!("another byte at place {}", received + place),
                            ));
                        }
                        received += count;
                    }
                    Moved::Nothing => return Ok(None),
                    Moved::End => {
                        return Err(broken(
                            if rule == Rule::Order { Rule::End } else { rule },
                            "the end only after all bytes were read",
                            format_args!("the end after {received} of {length} bytes"),
                        ));
                    }
                }
            }
            Ok(Some(()))
        })?;
        done.ok_or_else(|| {
            broken(
                rule,
                "all bytes that were written arrive",
                format_args!(
                    "{received} of {length} bytes arrived in {:?}",
                    self.patience
                ),
            )
        })
    }

    /// Writes from that place on until the stream takes no more; returns how much it took. `None` if it
    /// takes any number of bytes.
    #[track_caller]
    #[allow(
        clippy::large_stack_arrays,
        reason = "a check has a stack of 64 MiB with `std`"
    )]
    pub(super) fn fill_up(&self, out: &P::Stream, from: usize) -> Checked<Option<usize>> {
        const MOST: usize = 16 << 20;
        // A long write is more often taken in part.
        const LENGTH: usize = if cfg!(feature = "std") {
            96 << 10
        } else {
            4096
        };
        let mut buffer = [0; LENGTH];
        let (mut sent, mut refused) = (0, 0);
        while refused < TRIES {
            let (first, second) = buffer.split_at_mut(1000);
            fill(first, from + sent);
            fill(second, from + sent + 1000);
            match self.write(out, &[first, &[], second])? {
                Moved::Bytes(count) => (sent, refused) = (sent + count, 0),
                Moved::Nothing => {
                    refused += 1;
                    self.poll();
                }
                Moved::End => return Err(early_end("writes")),
            }
            if sent > MOST {
                return Ok(None);
            }
        }
        Ok(Some(sent))
    }
}

#[track_caller]
fn early_end(verb: &str) -> Violation {
    broken(
        Rule::End,
        "an open stream, since both ends are open",
        format_args!("the one end {verb} the end of the stream"),
    )
}
