//! The progress of sending the signals that are pending at the leader.

use super::connection::Retry;
use crate::Vmid;

/// How many processes are sent signals in one turn of the worker.
const SIGNALLED_AT_ONCE: u32 = 32;

/// A pass over the processes that signals are pending for, which may take several turns.
#[derive(Default)]
pub(in crate::node) struct SignalPass {
    /// The process that the pass has come to; `None` between two passes.
    pub(in crate::node) last: Option<Vmid>,
    /// [`Signals::ready_count`](crate::leader::Signals::ready_count) at the beginning of the last
    /// pass in which all signals that could be sent were.
    pub(in crate::node) sent: u64,
    /// The same count at the beginning of this pass.
    raised: u64,
    /// Whether all signals of this pass could be sent so far.
    pub(in crate::node) is_complete: bool,
    /// The turn of the worker, and how many processes were sent signals in it.
    turn: u64,
    in_turn: u32,
}

impl SignalPass {
    pub(in crate::node) fn begin(&mut self, raised: u64) {
        (self.raised, self.is_complete) = (raised, true);
    }

    /// Whether signals may be sent to another process in this turn of the worker.
    pub(in crate::node) fn take_process(&mut self, turn: u64) -> bool {
        if self.turn != turn {
            (self.turn, self.in_turn) = (turn, 0);
        }
        self.in_turn = self.in_turn.saturating_add(1);
        self.in_turn <= SIGNALLED_AT_ONCE
    }

    /// Ends the pass. Returns when the next one is to begin; `raised` is the count now.
    pub(in crate::node) fn end(&mut self, raised: u64) -> Retry {
        self.last = None;
        if !self.is_complete {
            return Retry::Soon;
        }
        self.sent = self.raised;
        if raised == self.sent {
            Retry::No
        } else {
            Retry::Now
        }
    }
}
