//! The share of one peer in a turn of the worker: a turn reads each stream once, and handles a
//! limited number of the peer's frames. The rest has its turn after the other peers.

use crate::sync::Ordering;

use crate::invariant::Count;
use crate::node::{Node, Phase};
use crate::pal::Pal;
use crate::wire::codes;

/// How many frames of one peer a turn handles. A frame that costs as much as several counts as
/// several.
pub(super) const FRAMES: u32 = 32;

/// How many entries of the process table a query looks at in the time of one frame.
const ENTRIES_PER_FRAME: usize = 128;

/// What a peer has used of its share in a turn.
#[derive(Default)]
pub(crate) struct Share {
    /// The number of the turn.
    turn: u64,
    frames: u32,
    has_read: bool,
}

impl Share {
    /// Begins a new share if the turn is a new one.
    fn enter(&mut self, turn: u64) {
        if self.turn != turn {
            *self = Share {
                turn,
                ..Share::default()
            };
        }
    }

    /// Whether the stream may be read. It may be read once, and not for frames that are left to the next
    /// turn: that reads more of them at once.
    pub(super) fn take_read(&mut self, turn: u64) -> bool {
        self.enter(turn);
        self.frames < FRAMES && !core::mem::replace(&mut self.has_read, true)
    }

    /// Whether the peer has used up its share of frames.
    pub(super) fn is_used_up(&mut self, turn: u64) -> bool {
        self.enter(turn);
        self.frames >= FRAMES
    }

    /// Charges a frame, as so many.
    pub(super) fn charge(&mut self, frames: u32) {
        self.frames = self.frames.plus(frames);
    }
}

impl<P: Pal> Node<'_, P> {
    /// Begins a turn of the worker.
    pub(super) fn begin_turn(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::node) fn turn(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Whether this node closes its streams, so that the shares do not matter any more.
    pub(super) fn is_closing(&self) -> bool {
        self.phase() >= Phase::Closing
    }

    /// How many frames a frame with that code counts as.
    pub(super) fn cost_of(&self, code: u8) -> u32 {
        match code {
            codes::GET_NEW_VMID => FRAMES,
            codes::PROCESS_QUERY => {
                let entries = self.config.capacities.processes;
                let frames = entries / ENTRIES_PER_FRAME;
                u32::try_from(frames).unwrap_or(FRAMES).clamp(1, FRAMES)
            }
            _ => 1,
        }
    }
}
