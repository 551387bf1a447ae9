//! What the streams of one faulty node share.

use heapless::Vec;

use super::record::LogRing;
use crate::pal::{Interest, READY_AT_ONCE, StreamError, Token};

/// How many broken streams are reported to the node at a time. More than that fail when they are
/// next read or written.
const BROKEN: usize = READY_AT_ONCE;

#[derive(Debug)]
pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) records: LogRing,
    /// The bytes read and written by all streams.
    pub(super) moved: u64,
    /// At how many of these a stream breaks.
    cut: Option<u64>,
    /// How many streams were opened.
    opened: u64,
    /// The watches on broken streams that ask for something.
    pub(super) broken: Vec<(Token, Interest), BROKEN>,
}

impl State {
    pub(super) const fn new(seed: u64, cut: Option<u64>) -> State {
        State {
            rng: Rng(seed),
            records: LogRing::new(),
            moved: 0,
            cut,
            opened: 0,
            broken: Vec::new(),
        }
    }

    /// A number for a new stream.
    pub(super) fn number(&mut self) -> u64 {
        let number = self.opened;
        self.opened = self.opened.saturating_add(1);
        number
    }

    /// How many bytes one operation may move before the cut; `None`: as many as it likes.
    pub(super) fn left(&self) -> Option<usize> {
        let left = self.cut?.saturating_sub(self.moved);
        Some(usize::try_from(left).unwrap_or(usize::MAX))
    }

    /// Counts what was moved; whether that was the last before the cut, which comes only once.
    pub(super) fn count(&mut self, result: Result<usize, StreamError>) -> bool {
        let moved = u64::try_from(result.unwrap_or(0)).unwrap_or(u64::MAX);
        self.moved = self.moved.saturating_add(moved);
        self.cut.take_if(|cut| *cut <= self.moved).is_some()
    }

    /// Reports a broken stream from now on.
    pub(super) fn report(&mut self, token: Token, interest: Interest) {
        self.retract(token);
        if !interest.is_empty() {
            let _ = self.broken.push((token, interest));
        }
    }

    /// Reports it no more.
    pub(super) fn retract(&mut self, token: Token) {
        self.broken.retain(|(broken, _)| *broken != token);
    }
}

/// A generator of numbers that look random (splitmix64).
#[derive(Debug)]
pub(super) struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Whether something that happens `rate` of 1024 times happens now.
    pub(super) fn roll(&mut self, rate: u16) -> bool {
        rate > 0 && self.next() % 1024 < u64::from(rate)
    }

    /// From 1 to `limit`; 1 if `limit` is 0.
    pub(super) fn pick_up_to(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        let below = self.next().checked_rem(limit).unwrap_or(0);
        usize::try_from(below).unwrap_or(0).saturating_add(1)
    }
}
