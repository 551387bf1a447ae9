//! Streams in simulated time. Whether and when bytes arrive, and how many a call moves, is for
//! the seed to say; that they arrive in order or the stream breaks is what every platform promises.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

use fastrand::Rng;
use libos_ipc::pal::{
    AcceptError, ConnectError, Interest, READY_AT_ONCE, Readiness, ReadyList, StreamError, Token,
};

use super::faults::{Fault, Faults};

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;

/// Which end of a stream.
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

/// How often something goes wrong: of 1024 calls where it could.
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
        // Drawn in any case, so that a kind of fault less leaves the others as they are.
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

/// A process's place in the network.
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
struct Place {
    vmid: u32,
    is_listening: bool,
    is_honest: bool,
    /// It is closing its streams, and may.
    is_ending: bool,
    listener_watched: bool,
    backlog: VecDeque<usize>,
    watched: Vec<(End, Token, Interest)>,
    /// Something has changed since it last looked.
    stirred: bool,
    woken: bool,
}

#[derive(Default)]
struct Pipe {
    /// Rises when the pipe becomes another stream.
    generation: u32,
    from: usize,
    to: usize,
    bytes: VecDeque<u8>,
    /// So many of them have arrived.
    arrived: usize,
    /// When the last of what was sent arrives.
    last: u64,
    /// As each end has closed it, and as the other end knows it.
    closed: [bool; 2],
    seen_closed: [bool; 2],
    broken: bool,
    /// The first bytes: as whom the writer goes.
    said: Vec<u8>,
}

impl Pipe {
    fn is_closed(&self, side: Side) -> bool {
        self.closed[side as usize]
    }

    fn sees_end(&self, side: Side) -> bool {
        let other = match side {
            Side::Writer => Side::Reader,
            Side::Reader => Side::Writer,
        };
        self.broken || self.seen_closed[other as usize]
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Arrival {
    Bytes(usize),
    Closed(Side),
}

type Coming = (u64, u64, usize, u32, Arrival);

/// What the checks have to hear of.
pub(crate) enum News {
    /// A fault broke a stream between these two.
    Cut(u32, u32),
    /// The first closed a stream that it had with the second, though neither is at its end.
    Closed(u32, u32),
}

/// All streams of a run.
pub(crate) struct Network {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    rates: Rates,
    /// How many bytes a stream holds.
    room: usize,
    /// When that many bytes have been written one stream breaks.
    cut_after: Option<u64>,
    places: Vec<Place>,
    pipes: Vec<Pipe>,
    free: Vec<usize>,
    /// When, and in which order, in which stream and what.
    arrivals: BinaryHeap<Reverse<Coming>>,
    order: u64,
    /// From whom to whom nothing gets until then.
    silent: Vec<(usize, usize, u64)>,
    cuts: BTreeSet<(u32, u32)>,
    pub(crate) news: Vec<News>,
}

impl Network {
    pub(crate) fn new(faults: Faults, mut rng: Rng) -> Network {
        let rates = Rates::draw(faults, &mut rng);
        let cut_after = rng.bool().then(|| rng.u64(..20_000));
        Network {
            now: 1,
            room: rng.usize(100..4000),
            cut_after: cut_after.filter(|_| faults.has(Fault::Disconnect)),
            rng,
            rates,
            places: Vec::new(),
            pipes: Vec::new(),
            free: Vec::new(),
            arrivals: BinaryHeap::new(),
            order: 0,
            silent: Vec::new(),
            cuts: BTreeSet::new(),
            news: Vec::new(),
        }
    }

    fn strikes(&mut self, rate: u16) -> bool {
        rate > 0 && self.rng.u16(..1024) < rate
    }

    /// A new process: its place.
    pub(crate) fn join(&mut self, vmid: u32, is_honest: bool) -> usize {
        self.places.push(Place {
            vmid,
            is_listening: true,
            is_honest,
            is_ending: false,
            listener_watched: true,
            backlog: VecDeque::new(),
            watched: Vec::new(),
            stirred: true,
            woken: false,
        });
        self.places.len() - 1
    }

    pub(crate) fn vmid_of(&self, place: usize) -> u32 {
        self.places[place].vmid
    }

    /// From now on it may close its streams.
    pub(crate) fn may_end(&mut self, place: usize) {
        self.places[place].is_ending = true;
    }

    /// It listens no more.
    pub(crate) fn leave(&mut self, place: usize) {
        self.places[place].is_listening = false;
        self.places[place].is_ending = true;
        while let Some(pipe) = self.places[place].backlog.pop_front() {
            let side = Side::Reader;
            self.close(End { pipe, side });
        }
    }

    pub(crate) fn connect(&mut self, from: usize, vmid: u32) -> Result<End, ConnectError> {
        if self.strikes(self.rates.busy) {
            return Err(ConnectError::Busy);
        }
        let is_it = |place: &Place| place.vmid == vmid && place.is_listening;
        let to = self.places.iter().position(is_it);
        let to = to.ok_or(ConnectError::NobodyThere)?;
        let pipe = self.free.pop().unwrap_or_else(|| {
            self.pipes.push(Pipe::default());
            self.pipes.len() - 1
        });
        let opened = &mut self.pipes[pipe];
        let (mut bytes, mut said) = (
            std::mem::take(&mut opened.bytes),
            std::mem::take(&mut opened.said),
        );
        bytes.clear();
        said.clear();
        *opened = Pipe {
            generation: opened.generation.wrapping_add(1),
            from,
            to,
            bytes,
            said,
            ..Pipe::default()
        };
        self.places[to].backlog.push_back(pipe);
        self.places[to].stirred = true;
        let side = Side::Writer;
        Ok(End { pipe, side })
    }

    pub(crate) fn accept(&mut self, place: usize) -> Result<End, AcceptError> {
        if self.places[place].backlog.is_empty() {
            return Err(AcceptError::WouldBlock);
        }
        if self.strikes(self.rates.busy / 4) {
            return Err(AcceptError::Exhausted);
        }
        let pipe = self.places[place].backlog.pop_front();
        let side = Side::Reader;
        pipe.map(|pipe| End { pipe, side })
            .ok_or(AcceptError::WouldBlock)
    }

    pub(crate) fn watch_listener(&mut self, place: usize, on: bool) {
        self.places[place].listener_watched = on;
        self.places[place].stirred |= on;
    }

    pub(crate) fn watch(&mut self, place: usize, end: End, token: Token, interest: Interest) {
        let watched = &mut self.places[place].watched;
        match watched.iter_mut().find(|(of, ..)| *of == end) {
            Some(watch) => *watch = (end, token, interest),
            None => watched.push((end, token, interest)),
        }
        self.places[place].stirred = true;
    }

    pub(crate) fn unwatch(&mut self, place: usize, end: End) {
        self.places[place].watched.retain(|(of, ..)| *of != end);
    }

    pub(crate) fn wake(&mut self, place: usize) {
        self.places[place].woken = true;
        self.places[place].stirred = true;
    }

    pub(crate) fn stir(&mut self, place: usize) {
        self.places[place].stirred = true;
    }

    pub(crate) fn is_stirred(&self, place: usize) -> bool {
        self.places[place].stirred
    }

    /// The process is about to look.
    pub(crate) fn calm(&mut self, place: usize) -> bool {
        std::mem::take(&mut self.places[place].stirred)
    }

    /// Fills in what is ready. True if the process was woken besides.
    pub(crate) fn look(&mut self, place: usize, ready: &mut ReadyList) -> bool {
        let at = &mut self.places[place];
        if at.listener_watched && !at.backlog.is_empty() {
            let _ = ready.push((Token::LISTENER, Readiness::READ));
        }
        for (end, token, interest) in &at.watched {
            let pipe = &self.pipes[end.pipe];
            let hung_up = pipe.sees_end(end.side);
            let is_reader = end.side == Side::Reader;
            let readable = is_reader && (pipe.arrived > 0 || hung_up);
            let writable = !is_reader && (pipe.bytes.len() < self.room || hung_up);
            let mut readiness = Readiness::empty();
            readiness.set(
                Readiness::READ,
                readable && interest.contains(Interest::READ),
            );
            readiness.set(
                Readiness::WRITE,
                writable && interest.contains(Interest::WRITE),
            );
            readiness.set(Readiness::HANG_UP, hung_up && !interest.is_empty());
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
        if pipe.sees_end(Side::Writer) {
            return Err(StreamError::Closed);
        }
        let room = self.room.saturating_sub(pipe.bytes.len());
        let mut count = parts.iter().map(|part| part.len()).sum::<usize>().min(room);
        if count == 0 {
            return Err(StreamError::WouldBlock);
        }
        if self.strikes(self.rates.block) {
            return Err(self.hold_off());
        }
        if self.strikes(self.rates.split) {
            count = self.rng.usize(1..=count);
        }
        let mut breaks = self.strikes(self.rates.disconnect);
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
            let missing = 4 - pipe.said.len().min(4);
            pipe.said.extend(part.iter().take(missing));
        }
        let (from, to) = (pipe.from, pipe.to);
        self.arrives(end.pipe, from, to, Arrival::Bytes(count));
        if breaks {
            self.break_off(end.pipe);
            return if count == 0 {
                Err(StreamError::Closed)
            } else {
                Ok(count)
            };
        }
        Ok(count)
    }

    pub(crate) fn read(&mut self, end: End, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let pipe = &self.pipes[end.pipe];
        if pipe.arrived == 0 {
            return match (pipe.broken, pipe.sees_end(Side::Reader)) {
                (true, _) => Err(StreamError::Closed),
                (_, true) => Ok(0),
                _ => Err(StreamError::WouldBlock),
            };
        }
        let mut count = buffer.len().min(pipe.arrived);
        if self.strikes(self.rates.block) {
            return Err(self.hold_off());
        }
        if self.strikes(self.rates.split) {
            count = self.rng.usize(1..=count);
        }
        if self.strikes(self.rates.disconnect) {
            self.break_off(end.pipe);
            return Err(StreamError::Closed);
        }
        let pipe = &mut self.pipes[end.pipe];
        for (to, from) in buffer.iter_mut().zip(pipe.bytes.drain(..count)) {
            *to = from;
        }
        pipe.arrived -= count;
        let from = pipe.from;
        self.places[from].stirred = true;
        Ok(count)
    }

    fn hold_off(&mut self) -> StreamError {
        if self.rng.u8(..) < 64 {
            StreamError::Interrupted
        } else {
            StreamError::WouldBlock
        }
    }

    /// A fault: what was under way is lost from some byte on, and both ends find out.
    fn break_off(&mut self, pipe: usize) {
        let keep = self.rng.usize(..=self.pipes[pipe].bytes.len());
        let broken = &mut self.pipes[pipe];
        broken.bytes.truncate(keep);
        broken.arrived = keep;
        broken.broken = true;
        broken.generation = broken.generation.wrapping_add(1);
        let (from, to) = (broken.from, broken.to);
        self.places[from].stirred = true;
        self.places[to].stirred = true;
        if self.is_own(pipe) && self.cut(from, to) {
            let (from, to) = (self.places[from].vmid, self.places[to].vmid);
            self.news.push(News::Cut(from, to));
        }
    }

    /// Whether it is the stream of its process itself, and not one that says that a VMID will never be.
    fn is_own(&self, pipe: usize) -> bool {
        let Pipe { from, to, said, .. } = &self.pipes[pipe];
        let own = self.places[*from].vmid.to_le_bytes();
        let has_other = || {
            let is_other = |(at, other): (usize, &Pipe)| {
                at != pipe && (other.from, other.to) == (*from, *to) && other.closed == [false; 2]
            };
            self.pipes.iter().enumerate().any(is_other)
        };
        own.starts_with(said) && !(said.is_empty() && has_other())
    }

    /// Notes that the connection of two is not what it was. False if it was noted before, or is
    /// that of somebody for whom nothing is promised.
    fn cut(&mut self, one: usize, other: usize) -> bool {
        let (one, other) = (&self.places[one], &self.places[other]);
        let pair = (one.vmid.min(other.vmid), one.vmid.max(other.vmid));
        one.is_honest && other.is_honest && self.cuts.insert(pair)
    }

    /// Whether a stream between these two was ever broken or closed before its time.
    pub(crate) fn is_cut(&self, one: u32, other: u32) -> bool {
        self.cuts.contains(&(one.min(other), one.max(other)))
    }

    /// Closes an end.
    pub(crate) fn close(&mut self, end: End) {
        let pipe = &self.pipes[end.pipe];
        let (own, other, is_open) = match end.side {
            Side::Writer => (pipe.from, pipe.to, !pipe.is_closed(Side::Reader)),
            Side::Reader => (pipe.to, pipe.from, !pipe.is_closed(Side::Writer)),
        };
        let is_own = pipe.said.len() == 4 && self.is_own(end.pipe);
        let at_end = self.places[own].is_ending || self.places[other].is_ending;
        if is_open && is_own && !at_end && !pipe.broken && self.cut(own, other) {
            let (own, other) = (self.places[own].vmid, self.places[other].vmid);
            self.news.push(News::Closed(own, other));
        }
        self.unwatch(own, end);
        let pipe = &mut self.pipes[end.pipe];
        pipe.closed[end.side as usize] = true;
        if end.side == Side::Reader {
            pipe.bytes.clear();
            pipe.arrived = 0;
        }
        if pipe.closed == [true; 2] {
            pipe.generation = pipe.generation.wrapping_add(1);
            self.free.push(end.pipe);
            return;
        }
        if !pipe.broken {
            self.arrives(end.pipe, own, other, Arrival::Closed(end.side));
        }
    }

    /// Something is on its way.
    fn arrives(&mut self, pipe: usize, from: usize, to: usize, what: Arrival) {
        let mut then = self.now;
        if self.strikes(self.rates.delay) {
            let most = [50 * MICROSECOND, MILLISECOND, 20 * MILLISECOND][self.rng.usize(..3)];
            then += self.rng.u64(..most);
        }
        if self.strikes(self.rates.stall) {
            let most = [10, 500, 10_000][self.rng.usize(..3)] * MILLISECOND;
            then += self.rng.u64(..most);
        }
        if self.strikes(self.rates.silence) {
            let span = [20, 1_000, 30_000][self.rng.usize(..3)] * MILLISECOND;
            self.silent.push((from, to, self.now + span));
        }
        for (of, at, until) in &self.silent {
            if (*of, *at) == (from, to) {
                then = then.max(*until);
            }
        }
        let is_forward = self.pipes[pipe].from == from;
        let sent = &mut self.pipes[pipe];
        if is_forward {
            then = then.max(sent.last);
            sent.last = then;
        }
        let generation = sent.generation;
        if then <= self.now {
            self.arrive(pipe, generation, what);
        } else {
            self.order += 1;
            self.arrivals
                .push(Reverse((then, self.order, pipe, generation, what)));
        }
    }

    fn arrive(&mut self, pipe: usize, generation: u32, what: Arrival) {
        let at = &mut self.pipes[pipe];
        if at.generation != generation {
            return;
        }
        let place = match what {
            Arrival::Bytes(count) => {
                at.arrived = (at.arrived + count).min(at.bytes.len());
                at.to
            }
            Arrival::Closed(side) => {
                at.seen_closed[side as usize] = true;
                match side {
                    Side::Writer => at.to,
                    Side::Reader => at.from,
                }
            }
        };
        self.places[place].stirred = true;
    }

    /// When the next of what is under way arrives.
    pub(crate) fn next_arrival(&self) -> Option<u64> {
        self.arrivals.peek().map(|Reverse((then, ..))| *then)
    }

    /// Time passes until `now`.
    pub(crate) fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        while let Some(Reverse((then, ..))) = self.arrivals.peek()
            && *then <= self.now
        {
            if let Some(Reverse((_, _, pipe, generation, what))) = self.arrivals.pop() {
                self.arrive(pipe, generation, what);
            }
        }
        let now = self.now;
        self.silent.retain(|(.., until)| *until > now);
    }
}
