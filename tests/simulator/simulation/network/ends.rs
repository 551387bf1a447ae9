//! The ends of streams: a process closes them, or a fault breaks them.

use super::arrivals::Arrival;
use super::{End, Network, Pipe, Side};

/// An end of a stream that the checks have to handle.
pub(crate) enum StreamEvent {
    /// A fault broke a stream between these two processes.
    Cut(u32, u32),
    /// The first process closed its stream with the second, though neither is ending.
    Closed(u32, u32),
}

impl Network {
    /// Breaks a stream: the bytes in flight are lost from some byte on, and both ends notice.
    pub(super) fn break_off(&mut self, pipe: usize) {
        let keep = self.rng.usize(..=self.pipes[pipe].bytes.len());
        let broken = &mut self.pipes[pipe];
        broken.bytes.truncate(keep);
        broken.arrived = keep;
        broken.broken = true;
        broken.generation = broken.generation.wrapping_add(1);
        let (from, to) = (broken.from, broken.to);
        self.places[from].changed = true;
        self.places[to].changed = true;
        if self.is_own(pipe) && self.cut(from, to) {
            let (from, to) = (self.places[from].vmid, self.places[to].vmid);
            self.stream_events.push(StreamEvent::Cut(from, to));
        }
    }

    /// Whether the stream belongs to its process itself, and not to a process that announces the
    /// end of a VMID.
    fn is_own(&self, pipe: usize) -> bool {
        let Pipe {
            from,
            to,
            vmid_bytes,
            ..
        } = &self.pipes[pipe];
        let own = self.places[*from].vmid.to_le_bytes();
        let has_other = || {
            let is_other = |(at, other): (usize, &Pipe)| {
                at != pipe && (other.from, other.to) == (*from, *to) && other.closed == [false; 2]
            };
            self.pipes.iter().enumerate().any(is_other)
        };
        own.starts_with(vmid_bytes) && !(vmid_bytes.is_empty() && has_other())
    }

    /// Records that the connection of two processes was cut. False if that was recorded before, or
    /// if one of them is hostile.
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
        // A reader may also close a stream whose writer has not identified itself yet: it had no
        // slot left, or has waited too long.
        let is_own = self.is_own(end.pipe);
        let at_end = self.places[own].is_ending || self.places[other].is_ending;
        if is_open && is_own && !at_end && !pipe.broken && self.cut(own, other) {
            let (own, other) = (self.places[own].vmid, self.places[other].vmid);
            self.stream_events.push(StreamEvent::Closed(own, other));
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
}
