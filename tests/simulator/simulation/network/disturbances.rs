//! Disturbances of a family with heirs that kill nobody: a process is stopped for a while, or the streams between the leader
//! and its heir end.

use fastrand::Rng;

use super::{End, Fault, Faults, Network, Pipe, StreamEvent};

const MILLISECOND: u64 = 1_000_000;

/// The longest time for which a member is stopped that does not lead, in nanoseconds.
const MAX_MEMBER_STOP: u64 = 2000 * MILLISECOND;

/// The streams between a leader and its heir that end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Log,
    Others,
    All,
}

/// The disturbances of a kind that are to come.
struct Upcoming {
    left: u32,
    /// The writes of the leader before the next one.
    after: u32,
}

impl Upcoming {
    fn new(left: u32, rng: &mut Rng) -> Upcoming {
        Upcoming {
            left,
            after: writes(rng),
        }
    }

    /// Counts a write of the leader. Returns true if a disturbance is due now.
    fn is_due(&mut self, rng: &mut Rng) -> bool {
        let Some(left) = self.left.checked_sub(1) else {
            return false;
        };
        if let Some(after) = self.after.checked_sub(1) {
            self.after = after;
            return false;
        }
        *self = Upcoming::new(left, rng);
        true
    }
}

/// The disturbances to come: at writes of the leader.
pub(super) struct Disturbances {
    rng: Rng,
    stops: Upcoming,
    cuts: Upcoming,
    /// The stops to come of a member to which the leader writes, if that is not the heir.
    member_stops: u32,
    /// The platform can end a process.
    can_end: bool,
    /// The reader of a log knows at once that its writer has revoked it.
    revokes: bool,
    /// The places of each leader and heir whose streams were cut.
    heir_cuts: Vec<(usize, usize)>,
}

impl Disturbances {
    pub(super) fn new(faults: Faults, mut rng: Rng) -> Option<Disturbances> {
        let (stops, cuts) = (rng.u32(1..=4), rng.u32(1..=2));
        let kinds = [Fault::Stop, Fault::HeirCut, Fault::MemberStop];
        let has_any = kinds.into_iter().any(|fault| faults.has(fault));
        // Drawn from a copy: the other faults do not depend on it.
        let member_stops = rng.clone().u32(1..=4);
        let count = |fault, count| if faults.has(fault) { count } else { 0 };
        has_any.then(|| Disturbances {
            stops: Upcoming::new(count(Fault::Stop, stops), &mut rng),
            cuts: Upcoming::new(count(Fault::HeirCut, cuts), &mut rng),
            member_stops: count(Fault::MemberStop, member_stops),
            can_end: rng.bool(),
            // Without a revocation nothing tells an heir that it is cut off.
            revokes: rng.bool() || faults.has(Fault::HeirCut),
            heir_cuts: Vec::new(),
            rng,
        })
    }

    /// Returns the stop of a process that is due now, if one is: whether it is that of the leader, and how long it takes.
    fn next_stop(&mut self) -> Option<(bool, u64)> {
        if !self.stops.is_due(&mut self.rng) {
            return None;
        }
        let longest = [1, 30, 400][self.rng.usize(..3)] * MILLISECOND;
        Some((self.rng.bool(), self.rng.u64(..longest)))
    }

    /// Returns for how long the member is stopped to which the leader writes now, if it is.
    fn next_member_stop(&mut self) -> Option<u64> {
        let left = self.member_stops.checked_sub(1)?;
        if self.rng.u8(..16) != 0 {
            return None;
        }
        self.member_stops = left;
        Some(self.rng.u64(..MAX_MEMBER_STOP))
    }

    /// Returns which streams end now, if some do.
    fn next_cut(&mut self) -> Option<Cut> {
        let is_due = self.cuts.is_due(&mut self.rng);
        is_due.then(|| [Cut::Log, Cut::Others, Cut::All][self.rng.usize(..3)])
    }
}

/// Draws the number of writes of a leader before something happens.
fn writes(rng: &mut Rng) -> u32 {
    let most = [30, 150, 600][rng.usize(..3)];
    rng.u32(..most)
}

impl Network {
    /// Disturbs a process that has written to another one. If the writer leads, it, its heir or the reader may be stopped
    /// now, or the writer may be cut off from its heir.
    pub(super) fn disturb(&mut self, writer: usize, reader: usize) {
        if !self.leads(writer) || self.is_dead(writer) {
            return;
        }
        let heir = self.log().map(|log| log.to);
        let Some(disturbances) = &mut self.disturbances else {
            return;
        };
        if let Some((is_leader, span)) = disturbances.next_stop()
            && let Some(place) = if is_leader { Some(writer) } else { heir }
        {
            self.stop(place, span);
        }
        if self.has_heir_but(reader)
            && let Some(disturbances) = &mut self.disturbances
            && let Some(span) = disturbances.next_member_stop()
            && !self.is_dead(reader)
        {
            self.stop(reader, span);
        }
        if self.has_heir_but(reader) && self.is_any_stopped() {
            self.hasten_death();
        }
        if let Some(heir) = heir
            && let Some(disturbances) = &mut self.disturbances
            && let Some(cut) = disturbances.next_cut()
        {
            self.cut_between(writer, heir, cut);
        }
    }

    /// Stops the process for that time, in nanoseconds.
    fn stop(&mut self, place: usize, span: u64) {
        let until = self.now + span;
        let stopped = &mut self.places[place];
        stopped.stopped_until = until;
        let event = StreamEvent::Stopped(stopped.vmid, until);
        self.stream_events.push(event);
    }

    /// Returns true if a process is stopped.
    fn is_any_stopped(&self) -> bool {
        let mut places = self.places.iter();
        places.any(|place| place.stopped_until > self.now)
    }

    /// Ends streams between a leader and its heir: what was written arrives, and no later write succeeds.
    fn cut_between(&mut self, leader: usize, heir: usize, cut: Cut) {
        let is_between = |pipe: &Pipe| {
            let ends = (pipe.from, pipe.to);
            (ends == (leader, heir) || ends == (heir, leader)) && !pipe.is_ended && !pipe.broken
        };
        let is_cut = |pipe: &Pipe| {
            is_between(pipe)
                && match cut {
                    Cut::Log => pipe.is_log,
                    Cut::Others => !pipe.is_log,
                    Cut::All => true,
                }
        };
        if cut != Cut::Log
            && let Some(disturbances) = &mut self.disturbances
        {
            disturbances.heir_cuts.push((leader, heir));
        }
        for at in 0..self.pipes.len() {
            if is_cut(&self.pipes[at]) && self.pipes[at].closed == [false; 2] {
                self.end_stream(at);
            }
        }
        let (leader, heir) = (self.places[leader].vmid, self.places[heir].vmid);
        self.stream_events.push(StreamEvent::HeirCut(leader, heir));
    }

    /// Returns true if the streams between these two have ended, although neither was to end them.
    pub(super) fn is_heir_cut_at(&self, one: usize, other: usize) -> bool {
        let disturbances = self.disturbances.as_ref();
        disturbances.is_some_and(|disturbances| {
            let cuts = &disturbances.heir_cuts;
            cuts.contains(&(one, other)) || cuts.contains(&(other, one))
        })
    }

    /// Like [`Network::is_heir_cut_at`], of the processes with these VMIDs.
    pub(crate) fn is_heir_cut(&self, one: u32, other: u32) -> bool {
        let place = |vmid| self.places.iter().position(|place| place.vmid == vmid);
        match (place(one), place(other)) {
            (Some(one), Some(other)) => self.is_heir_cut_at(one, other),
            _ => false,
        }
    }

    /// Returns the time until which the process at that place is stopped, if it is.
    pub(crate) fn stopped(&self, place: usize) -> Option<u64> {
        let until = self.places.get(place)?.stopped_until;
        (until > self.now).then_some(until)
    }

    /// Like [`Network::stopped`], of the process that has written to a stream.
    pub(crate) fn stopped_writer(&self, end: End) -> Option<u64> {
        let pipe = &self.pipes[end.pipe];
        self.stopped(pipe.from)
    }

    /// Returns the place of a process that the platform is to end. None if it can't, or that is over.
    pub(crate) fn place_to_end(&self, vmid: u32) -> Option<usize> {
        let is_it = |place: &super::Place| place.vmid == vmid && place.is_listening;
        let place = self.places.iter().position(is_it);
        place.filter(|_| self.can_end())
    }

    /// Returns true if the reader of a log knows that its writer has revoked it.
    pub(super) fn revokes_logs(&self) -> bool {
        let disturbances = self.disturbances.as_ref();
        disturbances.is_none_or(|disturbances| disturbances.revokes)
    }

    /// Returns true if the platform can end a process for certain.
    pub(crate) fn can_end(&self) -> bool {
        let disturbances = self.disturbances.as_ref();
        disturbances.is_some_and(|disturbances| disturbances.can_end)
    }
}
