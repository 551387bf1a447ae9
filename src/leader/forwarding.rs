//! Signals that a process sends through the leader, behind its signals that are under way.

use super::Leader;
use super::op::{Outcome, Presence};
use super::processes::Destination;
use super::signals::{QUEUED, Requester, SEND_DIRECTLY, is_signal};
use crate::Vmid;
use crate::error::{errno, negated};
use crate::wire::{Answer, PidKill};

/// The reason why a signal is sent to no member's stream.
enum NoTarget {
    /// A member that has not joined: its signals wait at the leader.
    Starting(Vmid),
    Status(i32),
}

impl Leader<'_> {
    /// Returns the member that the leader sends a signal to.
    fn find_target(&mut self, kill: &PidKill) -> Result<Vmid, NoTarget> {
        let owner = self.ranges.owner_of(kill.pid);
        match (self.processes.find_destination(kill.pid), owner) {
            // The library OS that knows its other threads does not run.
            (Destination::Starting(_) | Destination::Zombie, _) if !kill.is_for_main_thread() => {
                Err(NoTarget::Status(-errno::ESRCH))
            }
            (Destination::Starting(to), _) => Err(NoTarget::Starting(to)),
            (Destination::Zombie, _) => Err(NoTarget::Status(0)),
            (Destination::Owner, Some(to)) => Ok(to),
            (Destination::Nobody, _) | (Destination::Owner, None) => {
                Err(NoTarget::Status(-errno::ESRCH))
            }
        }
    }

    /// Returns the connected member that is the target of the signal, if it has joined.
    pub(super) fn target_of(&mut self, kill: &PidKill) -> Result<Vmid, ()> {
        self.find_target(kill).map_err(drop)
    }

    /// Sends a signal behind those of the same sender that are under way: only if there are any, or
    /// `always`. `target` is the connection of its target.
    pub(super) fn signal_ordered(
        &mut self,
        (from, seq): (Vmid, u64),
        kill: &PidKill,
        always: bool,
        target: Presence,
    ) -> Outcome {
        let answer = |status| Outcome::Answer(Answer::Status(status));
        if !is_signal(kill.signal) {
            return answer(-errno::EINVAL);
        }
        let to = match self.find_target(kill) {
            Ok(to) => to,
            Err(NoTarget::Starting(to)) => return answer(self.queue_signal(to, kill)),
            Err(NoTarget::Status(status)) => return answer(status),
        };
        if to == Vmid::LEADER || to == from {
            // The stream of the sender keeps the order.
            return answer(SEND_DIRECTLY);
        }
        if target == Presence::Absent {
            // A process whose connection has just ended can be signalled until it is reaped.
            let is_ending = self.processes.exists(kill.pid) && kill.is_for_main_thread();
            return answer(if is_ending { 0 } else { -errno::ESRCH });
        }
        let signals = &mut self.processes.signals;
        let is_clear = if from == Vmid::LEADER {
            // The signals sent before are on the same stream.
            !signals.is_waiting(to)
        } else {
            // The leader does not know when a process in C has handled the signals sent before.
            signals.is_clear(to) && target == Presence::Extended
        };
        if is_clear && !always {
            return answer(SEND_DIRECTLY);
        }
        let requester = Requester { vmid: from, seq };
        if seq == 0 || !signals.add_awaited(to, kill, requester) {
            return answer(self.queue_signal(to, kill));
        }
        Outcome::Later
    }

    /// Makes a signal pending for a member. Returns the status of the answer.
    fn queue_signal(&mut self, to: Vmid, kill: &PidKill) -> i32 {
        match self.processes.signals.add_pending(to, kill) {
            Ok(()) if kill.signal == 0 => 0,
            Ok(()) => QUEUED,
            Err(errno) => negated(errno),
        }
    }
}
