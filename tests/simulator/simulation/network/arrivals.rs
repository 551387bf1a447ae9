//! The events under way in the network, and their times of arrival.

use std::cmp::Reverse;

use super::{Network, Side};

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Arrival {
    /// So many bytes.
    Bytes(usize),
    /// The news that this end was closed.
    Closed(Side),
}

/// An event under way: the time of its arrival in nanoseconds, its number, its stream, the generation of the stream, and
/// what arrives.
pub(super) type Scheduled = (u64, u64, usize, u32, Arrival);

impl Network {
    /// Adds an event that is under way.
    pub(super) fn schedule(&mut self, pipe: usize, from: usize, to: usize, what: Arrival) {
        let mut then = self.now;
        if self.roll(self.rates.delay) {
            let most = [50 * MICROSECOND, MILLISECOND, 20 * MILLISECOND][self.rng.usize(..3)];
            then += self.rng.u64(..most);
        }
        if self.roll(self.rates.stall) {
            let most = [10, 500, 10_000][self.rng.usize(..3)] * MILLISECOND;
            then += self.rng.u64(..most);
        }
        if self.roll(self.rates.silence) {
            let span = [20, 1_000, 30_000][self.rng.usize(..3)] * MILLISECOND;
            self.silent.push((from, to, self.now + span));
        }
        if let Arrival::Bytes(count) = what {
            then += self.log_delay(pipe, count);
        }
        for (of, at, until) in &self.silent {
            if (*of, *at) == (from, to) {
                then = then.max(*until);
            }
        }
        let is_forward = self.pipes[pipe].from == from;
        let sent = &mut self.pipes[pipe];
        if is_forward {
            then = then.max(sent.last_arrival);
            sent.last_arrival = then;
        }
        let generation = sent.generation;
        if then <= self.now {
            self.deliver(pipe, generation, what);
        } else {
            self.order += 1;
            self.arrivals
                .push(Reverse((then, self.order, pipe, generation, what)));
        }
    }

    /// Lets an event arrive, unless the stream is another one by now.
    fn deliver(&mut self, pipe: usize, generation: u32, what: Arrival) {
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
        self.places[place].changed = true;
    }

    /// Returns the time of the next arrival.
    pub(crate) fn next_arrival(&self) -> Option<u64> {
        self.arrivals.peek().map(|Reverse((then, ..))| *then)
    }

    /// Advances the time to `now`.
    pub(crate) fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        while let Some(Reverse((then, ..))) = self.arrivals.peek()
            && *then <= self.now
        {
            if let Some(Reverse((_, _, pipe, generation, what))) = self.arrivals.pop() {
                self.deliver(pipe, generation, what);
            }
        }
        let now = self.now;
        self.silent.retain(|(.., until)| *until > now);
    }
}
