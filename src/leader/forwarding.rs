//! Signals that a process sends through the leader, behind its signals that are under way.

use super::Leader;
use super::op::{Outcome, Presence};
use super::processes::Destination;
use super::signals::{QUEUED, Requester, SEND_DIRECTLY, is_signal};
use crate::Vmid;
use crate::error::Errno;
use crate::wire::{Answer, PidKill};

/// The reason why a signal is sent to no member's stream.
enum NoTarget {
    /// A member that has not joined: its signals wait at the leader.
    Starting(Vmid),
    Result(Result<(), Errno>),
}

impl Leader<'_> {
    /// Returns the member that the leader sends a signal to.
    fn find_target(&mut self, kill: &PidKill) -> Result<Vmid, NoTarget> {
        let owner = self.ranges.owner_of(kill.pid);
        match (self.processes.find_destination(kill.pid), owner) {
            // The library OS that knows its other threads does not run.
            (Destination::Starting(_) | Destination::Zombie, _) if !kill.is_for_main_thread() => {
                Err(NoTarget::Result(Err(Errno::ESRCH)))
            }
            (Destination::Starting(to), _) => Err(NoTarget::Starting(to)),
            (Destination::Zombie, _) => Err(NoTarget::Result(Ok(()))),
            (Destination::Owner, Some(to)) => Ok(to),
            (Destination::Nobody, _) | (Destination::Owner, None) => {
                Err(NoTarget::Result(Err(Errno::ESRCH)))
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
        let answer = |result| Outcome::Answer(Answer::Status(result));
        if !is_signal(kill.signal) {
            return answer(Err(Errno::EINVAL));
        }
        let to = match self.find_target(kill) {
            Ok(to) => to,
            Err(NoTarget::Starting(to)) => return answer(self.queue_signal(to, kill)),
            Err(NoTarget::Result(result)) => return answer(result.map(|()| 0)),
        };
        if to == self.own() || to == from {
            // The stream of the sender keeps the order.
            return answer(Ok(SEND_DIRECTLY));
        }
        if target == Presence::Absent {
            // A process whose connection has just ended can be signalled until it is reaped.
            let is_ending = self.processes.exists(kill.pid) && kill.is_for_main_thread();
            return answer(is_ending.then_some(0).ok_or(Errno::ESRCH));
        }
        let is_own = from == self.own();
        let signals = &mut self.processes.signals;
        let is_clear = if is_own {
            // The signals sent before are on the same stream.
            !signals.is_waiting(to)
        } else {
            // The leader does not know when a process in C has handled the signals sent before.
            signals.is_clear(to) && target == Presence::Extended
        };
        if is_clear && !always {
            return answer(Ok(SEND_DIRECTLY));
        }
        let requester = Requester { vmid: from, seq };
        if seq == 0 || !signals.add_awaited(to, kill, requester) {
            return answer(self.queue_signal(to, kill));
        }
        Outcome::Later
    }

    /// Makes a signal pending for a member. Returns the result for the answer.
    fn queue_signal(&mut self, to: Vmid, kill: &PidKill) -> Result<u32, Errno> {
        self.processes.add_signal(to, kill)?;
        Ok(if kill.signal == 0 { 0 } else { QUEUED })
    }
}
