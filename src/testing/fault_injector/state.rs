//! The state that the streams of one fault injector share.

use heapless::Vec;

use super::operation_log::LogRing;
use crate::invariant::Count;
use crate::pal::{Interest, READY_AT_ONCE, StreamError, Token};

/// The greatest number of broken streams that are reported to the node. Further ones fail at their
/// next read or write.
const MAX_REPORTED: usize = READY_AT_ONCE;

#[derive(Debug)]
pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) log: LogRing,
    /// The number of bytes that all streams have read and written.
    pub(super) moved: u64,
    /// The number of bytes after which a stream breaks.
    cut: Option<u64>,
    /// The number of streams that were opened.
    opened: u64,
    /// The watches on broken streams with an interest.
    pub(super) broken: Vec<(Token, Interest), MAX_REPORTED>,
}

impl State {
    pub(super) const fn new(seed: u64, cut: Option<u64>) -> State {
        State {
            rng: Rng(seed),
            log: LogRing::new(),
            moved: 0,
            cut,
            opened: 0,
            broken: Vec::new(),
        }
    }

    /// Returns the number for a new stream.
    pub(super) fn number(&mut self) -> u64 {
        let number = self.opened;
        self.opened.increment();
        number
    }

    /// Returns the number of bytes that one operation may move before the cut; `None` for no limit.
    pub(super) fn left(&self) -> Option<usize> {
        let left = self.cut?.saturating_sub(self.moved);
        Some(usize::try_from(left).unwrap_or(usize::MAX))
    }

    /// Counts the bytes of an operation. Returns true if they were the last before the cut, which
    /// occurs once.
    pub(super) fn count(&mut self, result: Result<usize, StreamError>) -> bool {
        let moved = u64::try_from(result.unwrap_or(0)).unwrap_or(u64::MAX);
        self.moved = self.moved.saturating_add(moved);
        self.cut.take_if(|cut| *cut <= self.moved).is_some()
    }

    /// Begins to report a broken stream.
    pub(super) fn report(&mut self, token: Token, interest: Interest) {
        self.retract(token);
        if !interest.is_empty() {
            let _ = self.broken.push((token, interest));
        }
    }

    /// Ends the report of a broken stream.
    pub(super) fn retract(&mut self, token: Token) {
        self.broken.retain(|(broken, _)| *broken != token);
    }
}

/// A pseudo-random generator (splitmix64).
#[derive(Debug)]
pub(super) struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns true with a chance of `rate` in 1024.
    pub(super) fn roll(&mut self, rate: u16) -> bool {
        rate > 0 && self.next() % 1024 < u64::from(rate)
    }

    /// Returns a number from 1 to `limit`; 1 if `limit` is 0.
    pub(super) fn pick_up_to(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        let below = self.next().checked_rem(limit).unwrap_or(0);
        usize::try_from(below).unwrap_or(0).saturating_add(1)
    }
}
