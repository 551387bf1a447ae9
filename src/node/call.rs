//! Sending, and asking: how a call gets its frame out and its answer in.
//!
//! A call that waits for an answer reads it off the peer's stream itself where it can: the stream
//! is taken from the worker's watch for as long as the call lasts, which costs two cheap system
//! calls and saves a hand-over between threads. Such a call takes in answers only, its own and
//! others'; the first other frame sends the stream back to the worker, so that nothing that calls
//! the embedder ever runs in a thread that waits.

use crate::sync::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;

use super::{ANSWER_RESERVE, Late, Node, PeerRef, Phase, Reading};
use crate::Vmid;
use crate::arch::spin_hint;
use crate::config::Driving;
use crate::error::{Error, Resource};
use crate::pal::{Event, Interest, Pal, Stream, StreamError, Time};
use crate::store::Guard;
use crate::wire::{Answer, Expected, Message, codes};

use super::waiters::Claim;

/// How long a call may wait, and who may interrupt it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wait<'a> {
    limit: Option<Duration>,
    interrupt: Option<&'a Interrupt>,
}

impl Wait<'_> {
    /// As long as it takes: until the answer or the peer's end.
    pub const FOREVER: Wait<'static> = Wait {
        limit: None,
        interrupt: None,
    };

    /// At most that long; then [`Error::TimedOut`].
    pub const fn at_most(limit: Duration) -> Wait<'static> {
        Wait {
            limit: Some(limit),
            interrupt: None,
        }
    }

    /// Until another thread raises `interrupt`; then [`Error::Interrupted`].
    #[must_use]
    pub const fn or_until(self, interrupt: &Interrupt) -> Wait<'_> {
        Wait {
            limit: self.limit,
            interrupt: Some(interrupt),
        }
    }
}

/// Ends a call from another thread. For one call at a time.
#[derive(Debug, Default)]
pub struct Interrupt {
    raised: AtomicBool,
    /// The name of the call's waiter; 0 for none.
    slot: AtomicU32,
}

impl Interrupt {
    /// One that was not raised yet.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Interrupt {
            raised: AtomicBool::new(false),
            slot: AtomicU32::new(0),
        }
    }

    /// Ends the call of `node` that waits with this, or the next one to.
    pub fn raise<P: Pal>(&self, node: &Node<'_, P>) {
        self.raised.store(true, Ordering::SeqCst);
        // If the slot has gone to another call by now, that one wakes up in vain and no more.
        node.waiters.nudge(self.slot.load(Ordering::SeqCst));
        if node.config.driving == Driving::Caller {
            node.wake();
        }
    }

    /// Makes it fit for the next call.
    pub fn reset(&self) {
        self.raised.store(false, Ordering::SeqCst);
    }

    fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }
}

/// A wait under way: its end, and what may end it before.
#[derive(Clone, Copy)]
struct Limits<'a> {
    until: Option<Time>,
    interrupt: Option<&'a Interrupt>,
}

impl<'a> Limits<'a> {
    fn of<P: Pal>(wait: Wait<'a>, pal: &P) -> Limits<'a> {
        let until = wait.limit.map(|limit| {
            if limit.is_zero() {
                Time(0)
            } else {
                pal.now() + limit
            }
        });
        Limits {
            until,
            interrupt: wait.interrupt,
        }
    }

    fn reached<P: Pal>(&self, pal: &P) -> Option<Error> {
        if self.interrupt.is_some_and(Interrupt::is_raised) {
            return Some(Error::Interrupted);
        }
        let until = self.until?;
        (until == Time(0) || pal.now() >= until).then_some(Error::TimedOut)
    }
}

/// A request under way, for a caller that doesn't want to block. Dropped before its answer came,
/// it is given up: a late answer is dropped and counted.
pub struct Request<'n, 'm, P: Pal> {
    node: &'n Node<'m, P>,
    claim: Option<Claim>,
}

impl<P: Pal> Request<'_, '_, P> {
    /// What became of it: `None` as long as nothing did. Once it has said something it says `None`.
    pub fn poll(&mut self) -> Option<Result<Answer<'static>, Error>> {
        let claim = self.claim?;
        let outcome = self.node.waiters.outcome(claim)?;
        self.node.waiters.give(claim);
        self.claim = None;
        Some(outcome)
    }
}

impl<P: Pal> Drop for Request<'_, '_, P> {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            self.node.waiters.give_up(claim);
        }
    }
}

/// Sleeps in `wait`, with the interrupt led to the claim's event; not at all if it is raised.
fn interruptible(claim: Claim, limits: Limits<'_>, wait: impl FnOnce()) {
    let Some(interrupt) = limits.interrupt else {
        return wait();
    };
    interrupt.slot.store(claim.name(), Ordering::SeqCst);
    if !interrupt.is_raised() {
        wait();
    }
    interrupt.slot.store(0, Ordering::SeqCst);
}

impl<'m, P: Pal> Node<'m, P> {
    /// Opens a stream to `dest`, if there is none yet. Returns before it is known whether anybody
    /// is there.
    ///
    /// # Errors
    /// [`Error::Full`] at the limit of peers; [`Error::Invalid`] for this node itself.
    pub fn connect(&self, dest: Vmid) -> Result<(), Error> {
        let peer = self.peer(dest)?;
        self.flush(&peer);
        Ok(())
    }

    /// Closes the connection with `dest`, if there is one. Calls that wait for its answer get
    /// [`Error::NoSuchProcess`]; what waits to be sent to it is dropped.
    pub fn disconnect(&self, dest: Vmid) {
        if let Some(peer) = self.peers.find(dest) {
            self.give_up_on(&peer);
        }
    }

    /// Sends a message that has no answer. Blocks only for room in the peer's send queue, as long
    /// as `wait` allows.
    ///
    /// # Errors
    /// [`Error::Full`] if there is no room and `wait` is zero, [`Error::TimedOut`] or
    /// [`Error::Interrupted`] as `wait` says, [`Error::NoSuchProcess`] if the peer is known to be
    /// gone. That it was accepted does not mean that it arrived.
    pub fn send(&self, dest: Vmid, message: &Message<'_>, wait: Wait<'_>) -> Result<(), Error> {
        self.queue(dest, message, wait)?;
        if let Some(peer) = self.peers.find(dest) {
            self.flush(&peer);
        }
        Ok(())
    }

    /// As [`Node::send`], but leaves the frame in the send queue until the next send, request or
    /// [`Node::flush_to`] to the same peer, or until there is no more room: many frames go in
    /// one write.
    ///
    /// # Errors
    /// As [`Node::send`].
    pub fn queue(&self, dest: Vmid, message: &Message<'_>, wait: Wait<'_>) -> Result<(), Error> {
        let peer = self.peer(dest)?;
        self.put(&peer, 0, message, Limits::of(wait, &self.pal))
    }

    /// Sends what [`Node::queue`] left.
    pub fn flush_to(&self, dest: Vmid) {
        if let Some(peer) = self.peers.find(dest) {
            self.flush(&peer);
        }
    }

    /// Sends a message to every connected peer but `except`. Never blocks. Returns how many it was
    /// accepted for, and how many had no room for it.
    pub fn broadcast(&self, message: &Message<'_>, except: Option<Vmid>) -> (usize, usize) {
        let (mut accepted, mut full) = (0_usize, 0_usize);
        let now = Limits {
            until: Some(Time(0)),
            interrupt: None,
        };
        for peer in self.peers.all() {
            if Some(peer.vmid()) == except {
                continue;
            }
            match self.put(&peer, 0, message, now) {
                Ok(()) => {
                    accepted = accepted.saturating_add(1);
                    self.flush(&peer);
                }
                Err(_) => full = full.saturating_add(1),
            }
        }
        (accepted, full)
    }

    /// Sends a request and returns at once; [`Request::poll`] says when the answer is there.
    ///
    /// # Errors
    /// [`Error::Full`] where a limit is reached, [`Error::Invalid`] if the message has no answer
    /// or `dest` is this node, [`Error::NoSuchProcess`] if the peer is known to be gone.
    pub fn request(&self, dest: Vmid, message: &Message<'_>) -> Result<Request<'_, 'm, P>, Error> {
        let peer = self.peer(dest)?;
        let expected = Expected::of(message.code()).ok_or(Error::Invalid)?;
        let claim = self.waiters.claim(dest, Some(expected), Late::Drop)?;
        let request = Request {
            node: self,
            claim: Some(claim),
        };
        self.put(
            &peer,
            claim.seq,
            message,
            Limits {
                until: Some(Time(0)),
                interrupt: None,
            },
        )?;
        self.flush(&peer);
        Ok(request)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// As [`Node::request`]; and [`Error::TimedOut`] or [`Error::Interrupted`] as `wait` says.
    pub fn ask(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        self.ask_with(dest, message, Late::Drop, wait)
    }

    pub(crate) fn ask_with(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        late: Late,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        let limits = Limits::of(wait, &self.pal);
        let peer = self.peer(dest)?;
        let expected = Expected::of(message.code()).ok_or(Error::Invalid)?;
        let claim = self.waiters.claim(dest, Some(expected), late)?;
        // Before the request goes out, so that the worker doesn't wake up for the answer.
        let reading = self.take_reading(&peer, claim);
        if let Err(error) = self.put(&peer, claim.seq, message, limits) {
            self.give_reading(&peer, reading);
            self.waiters.give(claim);
            return Err(error);
        }
        let sent = if self.config.spin.is_zero() {
            Time(0)
        } else {
            self.pal.now()
        };
        self.flush(&peer);
        self.await_outcome(&peer, claim, reading, limits, sent)
    }

    fn peer(&self, dest: Vmid) -> Result<PeerRef<'_, 'm, P::Stream>, Error> {
        if self.phase() != Phase::Running {
            return Err(Error::ShuttingDown);
        }
        if dest == self.identity.vmid {
            return Err(Error::Invalid);
        }
        if Some(dest) == self.identity.leader && self.leader_gone.load(Ordering::Acquire) {
            return Err(Error::LeaderGone);
        }
        self.peers.find_or_add(dest)
    }

    /// Puts a frame into the peer's send queue, waiting for room if it must and may.
    fn put(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        message: &Message<'_>,
        limits: Limits<'_>,
    ) -> Result<(), Error> {
        let length = message.length();
        if length > self.config.capacities.frame_length {
            return Err(Error::Full(Resource::FrameLength));
        }
        let mut waiting: Option<Claim> = None;
        let result = loop {
            if let Some(event) = waiting.and_then(|claim| self.waiters.event(claim)) {
                event.clear();
                // Before the look at the queue: whoever makes room after that look sees the wish.
                peer.room_wanted.store(true, Ordering::SeqCst);
            }
            {
                let mut queue = peer.queue.lock();
                if queue.closed {
                    break Err(self.gone(peer.vmid()));
                }
                if queue.filling.room() >= length.saturating_add(ANSWER_RESERVE) {
                    break match queue.filling.push(seq, message) {
                        Ok(()) => {
                            queue.note();
                            self.counters.frames_out.add(1);
                            Ok(())
                        }
                        Err(_) => Err(Error::Invalid),
                    };
                }
            }
            if limits.until == Some(Time(0)) {
                break Err(Error::Full(Resource::SendQueue));
            }
            let Some(claim) = waiting else {
                self.flush(peer);
                match self.waiters.claim(peer.vmid(), None, Late::Drop) {
                    Ok(claim) => waiting = Some(claim),
                    Err(error) => break Err(error),
                }
                continue;
            };
            if let Some(Err(error)) = self.waiters.outcome(claim) {
                break Err(error);
            }
            if let Some(error) = limits.reached(&self.pal) {
                break Err(error);
            }
            self.sleep(claim, limits);
        };
        if let Some(claim) = waiting {
            self.waiters.give(claim);
        }
        result
    }

    /// What a call to a peer that is gone gets.
    pub(crate) fn gone(&self, vmid: Vmid) -> Error {
        if Some(vmid) == self.identity.leader {
            Error::LeaderGone
        } else {
            Error::NoSuchProcess
        }
    }

    /// Waits on the claim's event.
    fn sleep(&self, claim: Claim, limits: Limits<'_>) {
        if let Some(event) = self.waiters.event(claim) {
            interruptible(claim, limits, || self.rest(event, limits.until));
        }
    }

    /// Takes the stream that the peer's answers come on from the worker, if that can be done.
    fn take_reading<'a>(
        &self,
        peer: &'a PeerRef<'_, 'm, P::Stream>,
        claim: Claim,
    ) -> Option<Guard<'a, Reading<'m, P::Stream>>> {
        if !P::CALLER_READS || self.config.driving == Driving::Caller {
            return None;
        }
        let reading = peer.reading.try_lock()?;
        let idle = !reading.held_back && reading.frames.is_empty();
        let stream = reading.stream.as_ref().filter(|_| idle)?;
        peer.reader.store(claim.name(), Ordering::SeqCst);
        self.pal.rewatch(stream, peer.incoming(), Interest::empty());
        Some(reading)
    }

    /// Gives the stream back to the worker.
    fn give_reading(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        reading: Option<Guard<'_, Reading<'m, P::Stream>>>,
    ) {
        let Some(reading) = reading else { return };
        if let Some(stream) = &reading.stream {
            self.pal.rewatch(stream, peer.incoming(), Interest::READ);
        }
        let left_over = !reading.frames.is_empty();
        peer.reader.store(0, Ordering::SeqCst);
        drop(reading);
        // After the token is free: whoever wanted it in vain has set `broken` before.
        if left_over || peer.broken.load(Ordering::SeqCst) {
            self.call_worker(peer);
        }
    }

    fn await_outcome(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        claim: Claim,
        mut reading: Option<Guard<'_, Reading<'m, P::Stream>>>,
        limits: Limits<'_>,
        sent: Time,
    ) -> Result<Answer<'static>, Error> {
        loop {
            if let Some(event) = self.waiters.event(claim) {
                event.clear();
            }
            if let Some(outcome) = self.waiters.outcome(claim) {
                self.give_reading(peer, reading);
                self.waiters.give(claim);
                return outcome;
            }
            if let Some(error) = limits.reached(&self.pal) {
                self.give_reading(peer, reading);
                return self.waiters.give_up(claim).unwrap_or(Err(error));
            }
            let goes_on = if let Some(reading) = reading.as_mut() {
                !peer.broken.load(Ordering::SeqCst)
                    && self.read_answers(peer, reading, claim, limits, sent)
            } else {
                self.sleep(claim, limits);
                true
            };
            if !goes_on {
                self.give_reading(peer, reading.take());
            }
        }
    }

    /// Waits for bytes on the peer's stream and takes in the answers among them. False if there is
    /// something for the worker.
    fn read_answers(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        reading: &mut Reading<'m, P::Stream>,
        claim: Claim,
        limits: Limits<'_>,
        sent: Time,
    ) -> bool {
        let (Some(stream), Some(event)) = (&reading.stream, self.waiters.event(claim)) else {
            return false;
        };
        let spin = !self.config.spin.is_zero() && self.caller_spin.is_worth_it();
        let mut read = Err(StreamError::WouldBlock);
        if spin {
            read = self.spin_read(stream, reading.frames.space());
        }
        if read == Err(StreamError::WouldBlock) {
            interruptible(claim, limits, || {
                self.pal.wait_readable(stream, event, limits.until);
            });
            read = stream.read(reading.frames.space());
        }
        if !self.config.spin.is_zero() {
            // From before the request went out: on a single core that is when the peer gets to run.
            self.caller_spin
                .learn(spin, self.pal.now() - sent, self.config.spin);
        }
        match read {
            // The end is for the worker to see: it closes connections.
            Ok(0) | Err(StreamError::Closed) => false,
            Err(StreamError::WouldBlock | StreamError::Interrupted) => true,
            Ok(count) => {
                reading.frames.filled(count);
                self.counters.reads.add(1);
                self.counters.bytes_in.add(count);
                self.take_answers(peer, reading)
            }
        }
    }

    /// Reads again and again for a while.
    fn spin_read(&self, stream: &P::Stream, space: &mut [u8]) -> Result<usize, StreamError> {
        let start = self.pal.now();
        loop {
            let read = stream.read(space);
            if read != Err(StreamError::WouldBlock) {
                self.counters.spins_won.add(1);
                return read;
            }
            if self.pal.now() - start >= self.config.spin {
                self.counters.spins_lost.add(1);
                return read;
            }
            spin_hint();
        }
    }

    /// Takes in the answers at the head of what was read. False if something else comes first.
    fn take_answers(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        reading: &mut Reading<'m, P::Stream>,
    ) -> bool {
        loop {
            let length = match reading.frames.peek() {
                Ok(Some(frame)) if frame.code == codes::RESP => {
                    if self.take_answer(peer, frame.seq, frame.payload).is_err() {
                        return false;
                    }
                    frame.length()
                }
                // A partial frame: what follows will tell.
                Ok(None) => return true,
                _ => return false,
            };
            self.counters.frames_in.add(1);
            reading.frames.skip(length);
        }
    }
}
