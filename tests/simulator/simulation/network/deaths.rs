//! The deaths of the leader and of its heir: at a write of the leader that the seed determines.

use fastrand::Rng;

use libos_ipc::pal::{ConnectError, LogWriterEnd};
use libos_ipc::wire::codes;

use super::disturbances::Disturbances;
use super::{End, Fault, Faults, Network, Pipe, Place, Side, StreamEvent};

/// The most deaths of a run.
const MAX_DEATHS: u32 = 3;

/// The most writes of a leader before its death, while a member is stopped.
const MAX_WRITES_BEFORE_DEATH: u32 = 100;

/// The place of the code in a frame.
const CODE: usize = 16;

/// The process that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Leader,
    Heir,
    Both,
}

/// How much of the write is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Nothing,
    Some,
    All,
}

/// A death to come.
#[derive(Clone, Copy)]
struct Death {
    victim: Victim,
    part: Part,
    /// The number of writes of the leader before it.
    left: u32,
}

/// The deaths to come, and the state of the leader that they depend on.
pub(super) struct Deaths {
    rng: Rng,
    /// The number of deaths after the next one.
    left: u32,
    next: Option<Death>,
    /// A leader dies when a member is stopped, and there is an heir: some members go on after two deaths.
    await_stops: bool,
    /// The leader has announced its heir.
    has_named_heir: bool,
    /// The leader's place.
    leader: usize,
    /// The log's stream, which is the latest one.
    log: Option<usize>,
    /// The number of bytes after which the log ends, although no process dies.
    log_left: Option<u32>,
    /// The platform knows that a process has died from the end of its log.
    is_certain: bool,
    /// The number of writes of the log, of 1024, after which it stands still for a while.
    stalls: u16,
}

impl Deaths {
    pub(super) fn new(mut rng: Rng, leader: usize, faults: Faults) -> Deaths {
        let await_stops = faults.has(Fault::MemberStop);
        let drawn = rng.u32(..=MAX_DEATHS);
        let left = if await_stops { MAX_DEATHS } else { drawn };
        let are_deadly = faults.has(Fault::LeaderDeath);
        let mut deaths = Deaths {
            left: if are_deadly { left } else { 0 },
            await_stops,
            has_named_heir: false,
            next: None,
            leader,
            log: None,
            log_left: None,
            stalls: [0, 0, 20, 200][rng.usize(..4)],
            is_certain: rng.bool(),
            rng,
        };
        deaths.begin_epoch(leader);
        deaths
    }

    fn begin_epoch(&mut self, leader: usize) {
        self.leader = leader;
        self.log = None;
        self.has_named_heir = false;
        self.next = None;
        self.draw();
    }

    /// Draws the next death.
    fn draw(&mut self) {
        let Some(left) = self.left.checked_sub(1) else {
            return;
        };
        self.left = left;
        let rng = &mut self.rng;
        let most = [30, 150, 600, 1500][rng.usize(..4)];
        self.next = Some(Death {
            victim: match rng.u8(..10) {
                0..7 => Victim::Leader,
                7..9 => Victim::Heir,
                _ => Victim::Both,
            },
            part: [Part::Nothing, Part::Some, Part::All][rng.usize(..3)],
            left: rng.u32(..most),
        });
        if self.await_stops
            && let Some(death) = &mut self.next
        {
            death.left = u32::MAX;
        }
    }
}

impl Network {
    /// Notes that the leader writes to a member. If it announces its heir, that one can lead.
    pub(super) fn note_frame(&mut self, bytes: &[u8]) {
        if let Some(deaths) = &mut self.deaths
            && bytes.get(CODE) == Some(&codes::HEIRS)
        {
            deaths.has_named_heir = true;
        }
    }

    /// Returns true if the heir can lead, and is another process than this one.
    pub(super) fn has_heir_but(&self, place: usize) -> bool {
        let has_named = self
            .deaths
            .as_ref()
            .is_some_and(|deaths| deaths.has_named_heir);
        has_named && self.log().is_some_and(|log| log.to != place)
    }

    /// Hastens the death that waits for a stopped member: a member is stopped, and there is an heir.
    pub(super) fn hasten_death(&mut self) {
        if let Some(deaths) = &mut self.deaths
            && deaths.await_stops
            && let Some(death) = &mut deaths.next
        {
            death.left = death.left.min(deaths.rng.u32(..MAX_WRITES_BEFORE_DEATH));
        }
    }

    /// Lets the leader and its heirs die from now on, at writes that are drawn.
    pub(crate) fn schedule_deaths(&mut self, faults: Faults, rng: Rng, leader: usize) {
        self.disturbances = Disturbances::new(faults, rng.clone());
        self.deaths = Some(Deaths::new(rng, leader, faults));
    }

    /// Returns the place of the leader.
    pub(super) fn leader(&self) -> Option<usize> {
        self.deaths.as_ref().map(|deaths| deaths.leader)
    }

    /// Records that another process leads.
    pub(crate) fn record_leader(&mut self, leader: usize) {
        self.revealed.clear();
        if let Some(deaths) = &mut self.deaths {
            deaths.begin_epoch(leader);
        }
    }

    /// Returns the last operation of the leader of which a member may know, but for the one at that place.
    pub(crate) fn revealed_to_others(&self, place: usize) -> u64 {
        let others = self.revealed.iter().filter(|(to, _)| **to != place);
        others.map(|(_, op)| *op).max().unwrap_or_default()
    }

    /// Returns true if a new stream between these is the leader's log.
    pub(super) fn is_new_log(&mut self, from: usize, to: usize) -> bool {
        let Some(deaths) = &self.deaths else {
            return false;
        };
        deaths.leader == from
            && self.pipes.iter().any(|pipe| {
                (pipe.from, pipe.to) == (from, to) && pipe.closed == [false; 2] && !pipe.is_log
            })
    }

    /// Records that the stream is the leader's log.
    pub(super) fn begin_log(&mut self, pipe: usize) {
        if let Some(deaths) = &mut self.deaths {
            deaths.log = Some(pipe);
            deaths.has_named_heir = false;
            let ends = deaths.rng.u8(..8) == 0;
            deaths.log_left = ends.then(|| deaths.rng.u32(..30_000));
        }
    }

    /// Returns the leader's log, if it is open.
    pub(super) fn log(&self) -> Option<&Pipe> {
        let deaths = self.deaths.as_ref()?;
        let pipe = self.pipes.get(deaths.log?)?;
        let is_open = pipe.closed == [false; 2] && !pipe.is_ended;
        (is_open && pipe.is_log && pipe.from == deaths.leader).then_some(pipe)
    }

    /// Returns true if the leader's log stands still or is full, so that the leader sends nothing.
    pub(crate) fn is_log_blocked(&self) -> bool {
        let log = self.log();
        log.is_some_and(|log| log.last_arrival > self.now || log.bytes.len() >= self.capacity)
    }

    /// Returns the heir, or the process that is to become heir, and since when its log is open.
    pub(crate) fn heir(&self) -> Option<(u32, u64)> {
        let pipe = self.log()?;
        Some((self.places[pipe.to].vmid, pipe.opened))
    }

    /// Returns true if the leader has a log that it has not closed: it may leave the family to an heir that is dead
    /// already.
    pub(crate) fn may_hand_over(&self) -> bool {
        let log = self
            .deaths
            .as_ref()
            .and_then(|deaths| Some((deaths.leader, deaths.log?)));
        log.is_some_and(|(leader, log)| {
            let pipe = &self.pipes[log];
            pipe.is_log && pipe.from == leader && !pipe.is_closed(Side::Writer)
        })
    }

    /// Returns true if the process at that place leads.
    pub(super) fn leads(&self, place: usize) -> bool {
        let deaths = self.deaths.as_ref();
        deaths.is_some_and(|deaths| deaths.leader == place)
    }

    /// Revokes a log, as its writer: the reader knows so at once.
    pub(crate) fn revoke_log(&mut self, end: End) {
        self.pipes[end.pipe].is_revoked = self.revokes_logs();
    }

    /// Returns what the reader of a log that has ended knows of its writer.
    pub(crate) fn end_of_log(&self, end: End) -> LogWriterEnd {
        let log = &self.pipes[end.pipe];
        // A log whose end proves something goes another way than through a stream, so it can be revoked, too.
        let knows =
            self.deaths.as_ref().is_some_and(|deaths| deaths.is_certain) && self.revokes_logs();
        if log.is_revoked {
            LogWriterEnd::Revoked
        } else if knows && self.is_dead(log.from) {
            LogWriterEnd::Certain
        } else {
            LogWriterEnd::Unknown
        }
    }

    /// Notes that the log of the leader takes some bytes. Returns the time for which it then stands still.
    pub(super) fn log_delay(&mut self, pipe: usize, count: usize) -> u64 {
        let Some(deaths) = &mut self.deaths else {
            return 0;
        };
        // Another stream may have the place of a log that is closed.
        if deaths.log != Some(pipe) || !self.pipes[pipe].is_log {
            return 0;
        }
        if let Some(left) = &mut deaths.log_left {
            *left = left.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
            if *left == 0 {
                deaths.log_left = None;
                self.end_stream(pipe);
                return 0;
            }
        }
        let stands_still = deaths.rng.u16(..1024) < deaths.stalls;
        if stands_still {
            deaths.rng.u64(..300_000_000)
        } else {
            0
        }
    }

    /// Ends the stream, although no process dies: its writer can write no more, and its reader gets what was written.
    pub(super) fn end_stream(&mut self, pipe: usize) {
        let log = &mut self.pipes[pipe];
        log.is_ended = true;
        let (from, to) = (log.from, log.to);
        self.places[from].changed = true;
        self.schedule(pipe, from, to, super::Arrival::Closed(Side::Writer));
    }

    /// Draws whether a process that writes dies. Returns how much it writes before it dies, if it dies.
    pub(super) fn draw_death_at_write(&mut self, from: usize) -> Option<Part> {
        let deaths = self.deaths.as_mut()?;
        if deaths.leader != from {
            return None;
        }
        let death = deaths.next.as_mut()?;
        if let Some(left) = death.left.checked_sub(1) {
            death.left = left;
            return None;
        }
        let Death { victim, part, .. } = *death;
        deaths.next = None;
        if victim != Victim::Leader
            && let Some(heir) = self.log().map(|log| log.to)
        {
            self.kill(heir);
        }
        if victim == Victim::Heir {
            if let Some(deaths) = &mut self.deaths {
                deaths.draw();
            }
            return None;
        }
        Some(part)
    }

    /// Kills the process at this moment: its streams end, and it listens no more.
    pub(crate) fn kill(&mut self, place: usize) {
        if self.places[place].is_dead {
            return;
        }
        self.leave(place);
        let dead = &mut self.places[place];
        dead.is_dead = true;
        dead.stopped_until = 0;
        dead.changed = true;
        dead.woken = true;
        for at in 0..self.pipes.len() {
            for side in [Side::Writer, Side::Reader] {
                let pipe = &mut self.pipes[at];
                let owner = match side {
                    Side::Writer => pipe.from,
                    Side::Reader => pipe.to,
                };
                if owner == place && !pipe.is_closed(side) {
                    pipe.is_held[side as usize] = true;
                    self.close_end(End { pipe: at, side });
                }
            }
        }
        let vmid = self.places[place].vmid;
        self.stream_events.push(StreamEvent::Killed(vmid));
    }

    /// Returns why a killed process can't connect. It gives other processes up, but does not lead.
    pub(super) fn connect_error_of_killed(&self, to: u32) -> ConnectError {
        let is_dead = |place: &Place| place.vmid == to && place.is_dead;
        let leader = self.leader();
        if leader.is_some_and(|leader| self.places[leader].vmid == to)
            || self.places.iter().any(is_dead)
        {
            ConnectError::Busy
        } else {
            ConnectError::NotListening
        }
    }

    /// Returns true if no other process of the family is left.
    pub(crate) fn is_alone(&self, place: usize) -> bool {
        let mut others = self
            .places
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != place);
        others.all(|(_, other)| other.is_dead || !other.is_listening || !other.is_honest)
    }

    /// Returns true if that process was killed, or listens no more.
    pub(crate) fn is_dead_or_gone(&self, vmid: u32) -> bool {
        let mut places = self.places.iter();
        places.all(|place| place.vmid != vmid || place.is_dead || !place.is_listening)
    }

    /// Returns true if the process at that place was killed. What runs of it still is of no
    /// consequence.
    pub(crate) fn is_dead(&self, place: usize) -> bool {
        self.places.get(place).is_some_and(|place| place.is_dead)
    }
}
