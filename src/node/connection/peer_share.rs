//! The share of one peer in a poll iteration of the worker, which reads each stream once, and handles a limited
//! number of the peer's frames: fewer if many peers need the worker, since each waits for the shares of
//! all others. The other frames are handled after those of the other peers. A peer that is served alone
//! may go on with frames that take few steps each: a poll iteration that finds nothing else to do takes as long as
//! many of them.

use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::invariant::Count;
use crate::node::{Node, Phase};
use crate::pal::Pal;
use crate::wire::codes;

/// How many frames of one peer a poll iteration handles. A frame that costs as much as several counts as
/// several.
pub(super) const FRAMES: u32 = 32;

/// How many frames of a peer a poll iteration handles at least, however many peers need the worker.
const FRAMES_AMONG_MANY: u32 = 4;

/// How many frames of a peer a poll iteration handles if no other peer needs the worker and each frame takes few
/// steps. Another peer waits that long at most.
const FRAMES_ALONE: u32 = 256;

/// The number of entries of the process table that a query visits in the time of one frame.
const ENTRIES_PER_FRAME: usize = 128;

/// The part of its share that a peer has used in a poll iteration.
#[derive(Default)]
pub(crate) struct Share {
    /// The number of the poll iteration.
    iteration: u64,
    frames: u32,
    has_read: bool,
    /// A frame was handled that may take many steps.
    has_costly_frame: bool,
}

/// The part of the share of its peer that a frame takes.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    /// The number of frames as which it counts.
    pub(super) frames: u32,
    /// The frame takes few steps, however full the tables are.
    pub(super) is_cheap: bool,
    /// The frame may scan the process table.
    pub(super) is_scan: bool,
}

impl Share {
    /// Begins a new share if the poll iteration is a new one.
    #[inline]
    fn enter(&mut self, iteration: u64) {
        if self.iteration != iteration {
            *self = Share {
                iteration,
                ..Share::default()
            };
        }
    }

    /// Returns true if the stream may be read. It may be read once, and not for frames that are left to
    /// the next poll iteration: that reads more of them at once.
    pub(super) fn take_read(&mut self, iteration: u64) -> bool {
        self.enter(iteration);
        self.frames < FRAMES && !core::mem::replace(&mut self.has_read, true)
    }

    /// Returns true if the peer has used up its share of frames; `is_alone`: no other peer needs the
    /// worker.
    #[inline]
    pub(super) fn is_used_up(&mut self, iterations: &PollIterations, is_alone: bool) -> bool {
        self.enter(iterations.number());
        let most = if is_alone && !self.has_costly_frame {
            FRAMES_ALONE
        } else {
            iterations.frames.load(Ordering::Relaxed)
        };
        self.frames >= most
    }

    /// Charges a frame.
    #[inline]
    pub(super) fn charge(&mut self, cost: Cost) {
        self.frames = self.frames.plus(cost.frames);
        self.has_costly_frame |= !cost.is_cheap;
    }
}

/// The poll iterations of the worker. Only the worker changes them.
pub(crate) struct PollIterations {
    /// The number of the poll iteration.
    number: AtomicU64,
    /// The peers that were served in this poll iteration, and in the one before: [`NOBODY`], the index of the
    /// only peer, or [`SEVERAL`].
    served: AtomicU32,
    served_before: AtomicU32,
    /// The platform reported several streams at once the last time.
    are_several_ready: AtomicBool,
    /// The share of each peer, in frames: less than [`FRAMES`] if many peers need the worker, so that a round of
    /// all of them takes about as long as [`FRAMES_ALONE`] frames.
    frames: AtomicU32,
    /// The number of frames as which the scans of the process table in this poll iteration count.
    scans: AtomicU32,
}

const NOBODY: u32 = u32::MAX;
const SEVERAL: u32 = u32::MAX - 1;

impl PollIterations {
    pub(in crate::node) fn new() -> PollIterations {
        PollIterations {
            number: AtomicU64::new(0),
            served: AtomicU32::new(NOBODY),
            served_before: AtomicU32::new(NOBODY),
            are_several_ready: AtomicBool::new(false),
            frames: AtomicU32::new(FRAMES),
            scans: AtomicU32::new(0),
        }
    }

    fn begin(&self) {
        let number = self.number.load(Ordering::Relaxed);
        self.number.store(number.plus(1), Ordering::Relaxed);
        let served = self.served.load(Ordering::Relaxed);
        self.served_before.store(served, Ordering::Relaxed);
        self.served.store(NOBODY, Ordering::Relaxed);
        self.scans.store(0, Ordering::Relaxed);
    }

    /// Returns true if one more scan of the process table may run in this poll iteration: all peers together have the
    /// share of one, because each scan delays all others.
    pub(super) fn take_scan(&self, cost: Cost) -> bool {
        self.scans.fetch_add(cost.frames, Ordering::Relaxed) < FRAMES
    }

    fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    /// Records how many streams the platform has reported at once, and how many peers are scheduled besides.
    pub(super) fn set_ready(&self, count: usize, scheduled: usize) {
        self.are_several_ready.store(count > 1, Ordering::Relaxed);
        let frames = (FRAMES_ALONE as usize)
            .checked_div(count.plus(scheduled))
            .and_then(|frames| u32::try_from(frames).ok())
            .map_or(FRAMES, |frames| frames.clamp(FRAMES_AMONG_MANY, FRAMES));
        self.frames.store(frames, Ordering::Relaxed);
    }

    /// Records that the peer with that index is served. Returns whether it is the only one, in this poll iteration
    /// so far and in the one before, and no more than one stream was ready.
    pub(super) fn serve(&self, peer: u32) -> bool {
        let is_only = |served| served == NOBODY || served == peer;
        let is_alone = is_only(self.served.load(Ordering::Relaxed));
        let served = if is_alone { peer } else { SEVERAL };
        self.served.store(served, Ordering::Relaxed);
        is_alone
            && is_only(self.served_before.load(Ordering::Relaxed))
            && !self.are_several_ready.load(Ordering::Relaxed)
    }
}

impl<P: Pal> Node<'_, P> {
    /// Begins a poll iteration.
    pub(super) fn begin_iteration(&self) {
        self.iterations.begin();
        self.leader_limits.begin_iteration();
    }

    /// Returns the number of the poll iteration.
    pub(in crate::node) fn iteration(&self) -> u64 {
        self.iterations.number()
    }

    /// Returns true if this node closes its streams, so that the shares do not matter any more.
    pub(super) fn is_closing(&self) -> bool {
        self.phase() >= Phase::Closing
    }

    /// Returns the part of the share that a frame with that code takes.
    pub(super) fn cost_of(&self, code: u8) -> Cost {
        let is_scan = matches!(
            code,
            codes::PROCESS_QUERY | codes::PROCESS_CHANGE | codes::PROCESS_REAP | codes::PROCESS_END
        );
        let frames = if is_scan {
            let entries = self.config.capacities.processes;
            let frames = entries / ENTRIES_PER_FRAME;
            u32::try_from(frames).map_or(FRAMES, |frames| frames.clamp(1, FRAMES))
        } else if code == codes::GET_NEW_VMID {
            FRAMES
        } else {
            1
        };
        let is_cheap = matches!(
            code,
            codes::RESP
                | codes::ALLOC_ID_RANGE
                | codes::RELEASE_ID_RANGE
                | codes::CHANGE_ID_OWNER
                | codes::GET_ID_OWNER
        );
        Cost {
            frames,
            is_cheap,
            is_scan,
        }
    }
}
