//! The ends of streams: a process closes them, or a fault breaks them.

use libos_ipc::Vmid;

use super::arrivals::Arrival;
use super::{End, Network, Pipe, Side};

/// An event in the network that the checks have to handle. Processes are named by their VMIDs.
pub(crate) enum StreamEvent {
    /// A fault broke a stream between these two processes.
    Cut(u32, u32),
    /// The host has cut the leader's ends of its streams with this process, silently.
    Severed(u32),
    /// This process, which was cut off from the leader, has ended its stream to it.
    Ended(u32),
    /// This process was killed.
    Killed(u32),
    /// The first process closed its stream with the second, though neither is ending.
    Closed(u32, u32),
    /// This process is stopped until that time in nanoseconds.
    Stopped(u32, u64),
    /// A fault has ended streams between the leader and its heir.
    HeirCut(u32, u32),
}

impl Network {
    /// Breaks a stream: the bytes in flight are lost from some byte on, and both ends notice.
    pub(super) fn break_stream(&mut self, pipe: usize) {
        let keep = self.rng.usize(..=self.pipes[pipe].bytes.len());
        let broken = &mut self.pipes[pipe];
        // Bytes that were written on a severed stream do not arrive.
        let keep = match broken.severed {
            Some(_) => keep.min(broken.arrived),
            None => keep,
        };
        broken.bytes.truncate(keep);
        broken.arrived = keep;
        broken.broken = true;
        broken.generation = broken.generation.wrapping_add(1);
        let (from, to) = (broken.from, broken.to);
        self.places[from].changed = true;
        self.places[to].changed = true;
        if self.is_own(pipe) && self.record_cut(from, to) {
            let (from, to) = (self.places[from].vmid, self.places[to].vmid);
            self.stream_events.push(StreamEvent::Cut(from, to));
        }
    }

    /// Records that so many bytes were written on the stream. If it is one of the leader's, the host may have waited for
    /// that: it cuts the leader's ends of its streams with the other process, and keeps the other's silent.
    pub(super) fn sever_if_due(&mut self, pipe: usize, count: usize) {
        let Pipe { from, to, .. } = self.pipes[pipe];
        let is_leader = |place: usize| self.places[place].vmid == Vmid::LEADER.get();
        let leader = [from, to].into_iter().find(|place| is_leader(*place));
        let (Some(left), Some(leader)) = (&mut self.sever_after, leader) else {
            return;
        };
        *left = left.saturating_sub(count as u64);
        let other = from + to - leader;
        if *left > 0 || !self.is_connected(leader, other) || !self.record_cut(leader, other) {
            return;
        }
        // The next one, if another follows, comes after about as many bytes.
        self.sever_after = self.rng.bool().then(|| self.rng.u64(..6_000));
        for at in 0..self.pipes.len() {
            let pipe = &mut self.pipes[at];
            let side = match (pipe.from, pipe.to) {
                ends if ends == (leader, other) => Side::Writer,
                ends if ends == (other, leader) => Side::Reader,
                _ => continue,
            };
            // The bytes in transit are lost.
            pipe.severed = Some(side);
            pipe.bytes.truncate(pipe.arrived);
            pipe.generation = pipe.generation.wrapping_add(1);
        }
        self.places[leader].changed = true;
        let vmid = self.places[other].vmid;
        self.stream_events.push(StreamEvent::Severed(vmid));
    }

    /// Returns true if both have opened a stream to the other, and neither has closed one.
    fn is_connected(&self, one: usize, other: usize) -> bool {
        let is_there = |from, to| {
            let is_it = |pipe: &Pipe| {
                let is_open = pipe.closed == [false; 2] && !pipe.broken;
                (pipe.from, pipe.to) == (from, to) && pipe.vmid_bytes.len() == 4 && is_open
            };
            self.pipes.iter().any(is_it)
        };
        let is_ending = self.places[one].is_ending || self.places[other].is_ending;
        !is_ending && is_there(one, other) && is_there(other, one)
    }

    /// Lets the streams of a process that dies end without a last record, so that they look cut.
    pub(crate) fn omit_last_records(&mut self, place: usize) {
        self.places[place].omits_last_record = true;
    }

    /// Returns true if the stream belongs to its process itself, and not to a process that
    /// announces the end of a VMID.
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

    /// Records that the connection of two processes was cut. Returns false if that was recorded
    /// before, or if one of them is hostile.
    fn record_cut(&mut self, one: usize, other: usize) -> bool {
        let (one, other) = (&self.places[one], &self.places[other]);
        let pair = (one.vmid.min(other.vmid), one.vmid.max(other.vmid));
        one.is_honest && other.is_honest && self.cuts.insert(pair)
    }

    /// Returns true if a stream between these two was ever broken or closed before its time.
    pub(crate) fn is_cut(&self, one: u32, other: u32) -> bool {
        self.cuts.contains(&(one.min(other), one.max(other)))
    }

    /// Closes an end.
    pub(crate) fn close(&mut self, end: End) {
        let pipe = &mut self.pipes[end.pipe];
        if std::mem::take(&mut pipe.is_held[end.side as usize]) {
            // The end was closed when its process was killed.
            let own = [pipe.from, pipe.to][end.side as usize];
            self.unwatch(own, end);
            self.free_if_unused(end.pipe);
            return;
        }
        self.close_end(end);
    }

    /// Closes an end, and reports to the checks what follows from that.
    pub(super) fn close_end(&mut self, end: End) {
        let pipe = &self.pipes[end.pipe];
        // A killed process learns that its streams have ended.
        let is_held = pipe.is_held[end.side as usize];
        let (own, other, is_open) = match end.side {
            Side::Writer => (pipe.from, pipe.to, !pipe.is_closed(Side::Reader)),
            Side::Reader => (pipe.to, pipe.from, !pipe.is_closed(Side::Writer)),
        };
        // A reader may also close a stream whose writer has not identified itself yet: it had no
        // slot left, or has waited too long.
        let is_own = self.is_own(end.pipe);
        let at_end = self.places[own].is_ending || self.places[other].is_ending;
        // The leader may give its log up, and an heir's probe of its leader is closed at once.
        let is_expected = pipe.is_log || self.deaths.is_some() && pipe.vmid_bytes.is_empty();
        let is_heir_cut = self.is_heir_cut_at(own, other);
        if is_heir_cut {
            // Only the leader's opinion counts: it may die before it knows, and then its heir leads.
            let is_over = self.is_dead(own) || self.places[other].is_ending;
            if self.leads(own) && is_own && !is_over && self.record_cut(own, other) {
                let (own, other) = (self.places[own].vmid, self.places[other].vmid);
                self.stream_events.push(StreamEvent::Cut(own, other));
            }
        } else if is_open
            && is_own
            && !is_expected
            && !at_end
            && !pipe.broken
            && self.record_cut(own, other)
        {
            let (own, other) = (self.places[own].vmid, self.places[other].vmid);
            self.stream_events.push(StreamEvent::Closed(own, other));
        }
        if !is_held {
            self.unwatch(own, end);
        }
        let (vmid, to) = (self.places[own].vmid, self.places[other].vmid);
        if end.side == Side::Writer && to == Vmid::LEADER.get() && self.is_cut(vmid, to) {
            self.stream_events.push(StreamEvent::Ended(vmid));
        }
        let omits_last_record = self.places[own].omits_last_record;
        let pipe = &mut self.pipes[end.pipe];
        pipe.closed[end.side as usize] = true;
        pipe.is_truncated |= omits_last_record && end.side == Side::Writer;
        if end.side == Side::Reader {
            pipe.bytes.clear();
            pipe.arrived = 0;
        }
        if pipe.closed == [true; 2] {
            pipe.generation = pipe.generation.wrapping_add(1);
            self.free_if_unused(end.pipe);
            return;
        }
        if !pipe.broken && pipe.severed.is_none() {
            self.schedule(end.pipe, own, other, Arrival::Closed(end.side));
        }
    }

    /// Frees the stream for another one, if no process has an end of it.
    fn free_if_unused(&mut self, pipe: usize) {
        let unused = &self.pipes[pipe];
        if unused.closed == [true; 2] && unused.is_held == [false; 2] {
            self.free.push(pipe);
        }
    }
}
