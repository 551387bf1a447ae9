//! Streams in simulated time. The seed determines whether and when bytes arrive, and how many bytes
//! a call moves. As on every platform, bytes arrive in order or the stream breaks.

mod arrivals;
mod deaths;
mod disturbances;
mod ends;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use fastrand::Rng;
use libos_ipc::pal::{
    AcceptError, ConnectError, Interest, READY_AT_ONCE, ReadyList, StreamError, Token,
};

use super::faults::{Fault, Faults};
use arrivals::{Arrival, Scheduled};
use deaths::{Deaths, Part};
use disturbances::Disturbances;
pub(crate) use ends::StreamEvent;

/// The end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Writer,
    Reader,
}

/// A stream and one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct End {
    pipe: usize,
    side: Side,
}

/// The rates of faults: the number of faults in 1024 calls that can have one.
#[derive(Clone, Copy, Default)]
struct Rates {
    split: u16,
    block: u16,
    busy: u16,
    delay: u16,
    stall: u16,
    silence: u16,
    disconnect: u16,
}

impl Rates {
    fn draw(faults: Faults, rng: &mut Rng) -> Rates {
        // Each rate is drawn in any case, so that one kind of fault less does not change the
        // others.
        let mut rate = |fault, most: u16| {
            let rate = rng.u16(1..=most);
            if faults.has(fault) { rate } else { 0 }
        };
        Rates {
            split: rate(Fault::Split, 700),
            block: rate(Fault::Block, 400),
            busy: rate(Fault::Busy, 300),
            delay: rate(Fault::Delay, 1024),
            stall: rate(Fault::Stall, 24),
            silence: rate(Fault::Silence, 12),
            disconnect: rate(Fault::Disconnect, 6),
        }
    }
}

/// The entry of a process in the network.
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
struct Place {
    vmid: u32,
    is_listening: bool,
    is_honest: bool,
    /// The process is closing its streams, and is allowed to.
    is_ending: bool,
    /// Its streams end without a last record: to its peers they look cut.
    omits_last_record: bool,
    /// The process was killed.
    is_dead: bool,
    /// The process is stopped, and goes on at this time.
    stopped_until: u64,
    listener_watched: bool,
    /// The streams that wait to be accepted.
    backlog: VecDeque<usize>,
    watched: Vec<(End, Token, Interest)>,
    /// The state has changed since its last poll.
    changed: bool,
    /// The process was woken since its last poll.
    woken: bool,
}

/// A stream in one direction, which was opened by its writer.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
struct Pipe {
    /// Incremented when the pipe becomes another stream.
    generation: u32,
    from: usize,
    to: usize,
    bytes: VecDeque<u8>,
    /// The number of bytes that have arrived.
    arrived: usize,
    /// The time at which the last byte that was sent arrives.
    last_arrival: u64,
    /// For each end, whether it has closed the stream and the other end knows of that.
    closed: [bool; 2],
    seen_closed: [bool; 2],
    broken: bool,
    /// The end that the host has cut; it keeps the other one silent.
    severed: Option<Side>,
    /// The writer has ended without a last record.
    is_truncated: bool,
    /// The first bytes: the VMID of the writer.
    vmid_bytes: Vec<u8>,
    /// The stream is the log of a leader, from this time on.
    is_log: bool,
    opened: u64,
    /// The stream is a log that its writer has revoked, at the moment at which it did so.
    is_revoked: bool,
    /// A fault has ended it: its writer can write no more.
    is_ended: bool,
    /// The ends that a killed process still has, although they are closed.
    is_held: [bool; 2],
}

impl Pipe {
    fn is_closed(&self, side: Side) -> bool {
        self.closed[side as usize]
    }

    /// Returns true if the process at that side knows that the stream has ended.
    fn sees_end(&self, side: Side) -> bool {
        let other = match side {
            Side::Writer => Side::Reader,
            Side::Reader => Side::Writer,
        };
        let is_ended = self.is_held[side as usize] || self.is_ended && side == Side::Writer;
        self.broken || is_ended || self.severed == Some(side) || self.seen_closed[other as usize]
    }
}

/// All streams of a run.
pub(crate) struct Network {
    /// The simulated time in nanoseconds.
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    rates: Rates,
    /// The number of bytes that a stream holds.
    capacity: usize,
    /// The number of written bytes after which one stream breaks.
    cut_after: Option<u64>,
    /// The number of bytes written on streams of the leader after which the host cuts one off silently.
    sever_after: Option<u64>,
    places: Vec<Place>,
    pipes: Vec<Pipe>,
    /// The places of `pipes` that are free for another stream.
    free: Vec<usize>,
    /// The arrivals, ordered by time and number, with their streams.
    arrivals: BinaryHeap<Reverse<Scheduled>>,
    /// The number of the last event that was scheduled.
    order: u64,
    /// Pairs of processes between which nothing arrives until that time, in one direction.
    silent: Vec<(usize, usize, u64)>,
    /// The VMIDs of honest processes whose connection was cut.
    cuts: BTreeSet<(u32, u32)>,
    /// The deaths of leaders, in a family that may outlive them.
    deaths: Option<Deaths>,
    /// The disturbances of a leader and its heir that kill nobody.
    disturbances: Option<Disturbances>,
    /// The last operation that the leader has applied, and the last one before it wrote to the member at each place.
    pub(crate) applied: u64,
    revealed: BTreeMap<usize, u64>,
    pub(crate) stream_events: Vec<StreamEvent>,
}

impl Network {
    pub(crate) fn new(faults: Faults, mut rng: Rng) -> Network {
        let rates = Rates::draw(faults, &mut rng);
        let cut_after = rng.bool().then(|| rng.u64(..20_000));
        // Drawn from a copy: the rest of the run does not depend on it.
        let sever_after = rng.clone().u64(..6_000);
        Network {
            now: 1,
            capacity: rng.usize(100..4000),
            cut_after: cut_after.filter(|_| faults.has(Fault::Disconnect)),
            sever_after: faults.has(Fault::Cut).then_some(sever_after),
            rng,
            rates,
            places: Vec::new(),
            pipes: Vec::new(),
            free: Vec::new(),
            arrivals: BinaryHeap::new(),
            order: 0,
            silent: Vec::new(),
            cuts: BTreeSet::new(),
            deaths: None,
            disturbances: None,
            applied: 0,
            revealed: BTreeMap::new(),
            stream_events: Vec::new(),
        }
    }

    /// Returns true for `rate` of 1024 calls.
    fn roll(&mut self, rate: u16) -> bool {
        rate > 0 && self.rng.u16(..1024) < rate
    }

    /// Adds a process, and returns its place.
    pub(crate) fn join(&mut self, vmid: u32, is_honest: bool) -> usize {
        self.places.push(Place {
            vmid,
            is_listening: true,
            is_honest,
            is_ending: false,
            omits_last_record: false,
            is_dead: false,
            stopped_until: 0,
            listener_watched: true,
            backlog: VecDeque::new(),
            watched: Vec::new(),
            changed: true,
            woken: false,
        });
        self.places.len() - 1
    }

    pub(crate) fn vmid_of(&self, place: usize) -> u32 {
        self.places[place].vmid
    }

    /// Allows the process to close its streams from now on.
    pub(crate) fn allow_end(&mut self, place: usize) {
        self.places[place].is_ending = true;
    }

    /// Ends the listener of the process.
    pub(crate) fn leave(&mut self, place: usize) {
        self.places[place].is_listening = false;
        self.places[place].is_ending = true;
        while let Some(pipe) = self.places[place].backlog.pop_front() {
            let side = Side::Reader;
            self.close(End { pipe, side });
        }
    }

    pub(crate) fn connect(&mut self, from: usize, vmid: u32) -> Result<End, ConnectError> {
        if self.roll(self.rates.busy) {
            return Err(ConnectError::Busy);
        }
        if self.is_dead(from) {
            return Err(self.connect_error_of_killed(vmid));
        }
        let is_it = |place: &Place| place.vmid == vmid && place.is_listening;
        let to = self.places.iter().position(is_it);
        let to = to.ok_or(ConnectError::NotListening)?;
        let is_log = self.is_new_log(from, to);
        let pipe = self.free.pop().unwrap_or_else(|| {
            self.pipes.push(Pipe::default());
            self.pipes.len() - 1
        });
        let opened = &mut self.pipes[pipe];
        let (mut bytes, mut vmid_bytes) = (
            std::mem::take(&mut opened.bytes),
            std::mem::take(&mut opened.vmid_bytes),
        );
        bytes.clear();
        vmid_bytes.clear();
        *opened = Pipe {
            generation: opened.generation.wrapping_add(1),
            from,
            to,
            bytes,
            vmid_bytes,
            is_log,
            opened: self.now,
            ..Pipe::default()
        };
        if is_log {
            self.begin_log(pipe);
        }
        self.places[to].backlog.push_back(pipe);
        self.places[to].changed = true;
        let side = Side::Writer;
        Ok(End { pipe, side })
    }

    pub(crate) fn accept(&mut self, place: usize) -> Result<End, AcceptError> {
        if self.places[place].backlog.is_empty() {
            return Err(AcceptError::WouldBlock);
        }
        if self.roll(self.rates.busy / 4) {
            return Err(AcceptError::Exhausted);
        }
        let pipe = self.places[place].backlog.pop_front();
        let side = Side::Reader;
        pipe.map(|pipe| End { pipe, side })
            .ok_or(AcceptError::WouldBlock)
    }

    /// Returns the place that has opened the stream, as the kernel knows it.
    pub(crate) fn opener(&self, end: End) -> Option<u32> {
        u32::try_from(self.pipes[end.pipe].from).ok()
    }

    pub(crate) fn watch_listener(&mut self, place: usize, on: bool) {
        self.places[place].listener_watched = on;
        self.places[place].changed |= on;
    }

    pub(crate) fn watch(&mut self, place: usize, end: End, token: Token, interest: Interest) {
        let watched = &mut self.places[place].watched;
        match watched.iter_mut().find(|(of, ..)| *of == end) {
            Some(watch) => *watch = (end, token, interest),
            None => watched.push((end, token, interest)),
        }
        self.places[place].changed = true;
    }

    pub(crate) fn unwatch(&mut self, place: usize, end: End) {
        self.places[place].watched.retain(|(of, ..)| *of != end);
    }

    pub(crate) fn wake(&mut self, place: usize) {
        self.places[place].woken = true;
        self.places[place].changed = true;
    }

    /// Records that the state of the process has changed, so that it polls.
    pub(crate) fn mark_changed(&mut self, place: usize) {
        self.places[place].changed = true;
    }

    pub(crate) fn is_changed(&self, place: usize) -> bool {
        self.places[place].changed
    }

    /// Clears the flag that the state of the process has changed, before the process polls. Returns the flag.
    pub(crate) fn take_changed(&mut self, place: usize) -> bool {
        std::mem::take(&mut self.places[place].changed)
    }

    /// Reports the ready streams. Returns true if the process was woken besides.
    pub(crate) fn poll_ready(&mut self, place: usize, ready: &mut ReadyList) -> bool {
        let at = &mut self.places[place];
        if at.listener_watched && !at.backlog.is_empty() {
            let _ = ready.push((Token::LISTENER, Interest::READ));
        }
        for (end, token, interest) in &at.watched {
            let pipe = &self.pipes[end.pipe];
            let hung_up = pipe.sees_end(end.side);
            let is_reader = end.side == Side::Reader;
            let readable = is_reader && (pipe.arrived > 0 || hung_up);
            let writable = !is_reader && (pipe.bytes.len() < self.capacity || hung_up);
            let mut readiness = Interest::empty();
            readiness.set(
                Interest::READ,
                readable && interest.contains(Interest::READ),
            );
            readiness.set(
                Interest::WRITE,
                writable && interest.contains(Interest::WRITE),
            );
            readiness.set(Interest::HANG_UP, hung_up && !interest.is_empty());
            if !readiness.is_empty() {
                if ready.len() == READY_AT_ONCE {
                    break;
                }
                let _ = ready.push((*token, readiness));
            }
        }
        std::mem::take(&mut at.woken)
    }

    pub(crate) fn is_readable(&self, end: End) -> bool {
        let pipe = &self.pipes[end.pipe];
        pipe.arrived > 0 || pipe.sees_end(Side::Reader)
    }

    pub(crate) fn write(&mut self, end: End, parts: &[&[u8]]) -> Result<usize, StreamError> {
        let pipe = &self.pipes[end.pipe];
        let writer = pipe.from;
        if pipe.sees_end(Side::Writer) || self.is_dead(writer) {
            return Err(StreamError::Closed);
        }
        let room = self.capacity.saturating_sub(pipe.bytes.len());
        let mut count = parts.iter().map(|part| part.len()).sum::<usize>().min(room);
        if count == 0 {
            return Err(StreamError::WouldBlock);
        }
        if self.roll(self.rates.block) {
            return Err(self.draw_block_error());
        }
        if self.roll(self.rates.split) {
            count = self.rng.usize(1..=count);
        }
        let death = self.draw_death_at_write(writer);
        match death {
            Some(Part::Nothing) => {
                self.kill(writer);
                return Err(StreamError::Closed);
            }
            Some(Part::Some) => count = self.rng.usize(1..=count),
            Some(Part::All) | None => {}
        }
        let mut breaks = self.roll(self.rates.disconnect);
        if let Some(left) = &mut self.cut_after {
            *left = left.saturating_sub(count as u64);
            breaks |= *left == 0;
        }
        if breaks {
            self.cut_after = None;
            count = self.rng.usize(..=count);
        }
        let pipe = &mut self.pipes[end.pipe];
        let mut left = count;
        for part in parts {
            let part = &part[..part.len().min(left)];
            left -= part.len();
            pipe.bytes.extend(part);
            let missing = 4 - pipe.vmid_bytes.len().min(4);
            pipe.vmid_bytes.extend(part.iter().take(missing));
        }
        let (from, to, is_log) = (pipe.from, pipe.to, pipe.is_log);
        if !is_log && self.leads(from) {
            self.revealed.insert(to, self.applied);
            self.note_frame(parts.first().copied().unwrap_or_default());
        }
        let pipe = &self.pipes[end.pipe];
        if pipe.severed.is_none() {
            self.schedule(end.pipe, from, to, Arrival::Bytes(count));
        }
        self.sever_if_due(end.pipe, count);
        if death.is_some() {
            self.kill(writer);
        }
        if breaks {
            self.break_stream(end.pipe);
            return if count == 0 {
                Err(StreamError::Closed)
            } else {
                Ok(count)
            };
        }
        self.disturb(writer, to);
        Ok(count)
    }

    pub(crate) fn read(&mut self, end: End, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let pipe = &self.pipes[end.pipe];
        if pipe.arrived == 0 {
            let is_held = pipe.is_held[Side::Reader as usize];
            let is_cut =
                pipe.broken || is_held || pipe.is_truncated || pipe.severed == Some(Side::Reader);
            return match (is_cut, pipe.sees_end(Side::Reader)) {
                (true, true) => Err(StreamError::Closed),
                (_, true) => Ok(0),
                _ => Err(StreamError::WouldBlock),
            };
        }
        let mut count = buffer.len().min(pipe.arrived);
        if self.roll(self.rates.block) {
            return Err(self.draw_block_error());
        }
        if self.roll(self.rates.split) {
            count = self.rng.usize(1..=count);
        }
        if self.roll(self.rates.disconnect) {
            self.break_stream(end.pipe);
            return Err(StreamError::Closed);
        }
        let pipe = &mut self.pipes[end.pipe];
        for (to, from) in buffer.iter_mut().zip(pipe.bytes.drain(..count)) {
            *to = from;
        }
        pipe.arrived -= count;
        let from = pipe.from;
        self.places[from].changed = true;
        Ok(count)
    }

    /// Draws the error of a call that could go on, and does not.
    fn draw_block_error(&mut self) -> StreamError {
        if self.rng.u8(..) < 64 {
            StreamError::Interrupted
        } else {
            StreamError::WouldBlock
        }
    }
}
