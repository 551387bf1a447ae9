//! Signals for any process of the family (`kill(2)`).

use crate::error::{Error, Invalid};
use crate::leader::is_signal;
use crate::leader::{QUEUED, SEND_DIRECTLY};
use crate::node::rpc::{Undo, done, done_by};
use crate::node::upcall::Target;
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{Answer, KillTarget, Message, PidKill};
use crate::{Id, Pid, Vmid};

/// The outcome of a request to send a signal through the leader.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum ViaLeader {
    Done,
    /// The leader has not sent it: the caller sends it to the target directly.
    SendDirectly,
}

/// # Signals
impl<P: Pal> Node<'_, P> {
    /// Sends a signal. `signal` 0 only checks whether a signal could be sent. The sender is the
    /// process that [joined](Node::join), or 0. The rules are those of `kill(2)` and `tgkill(2)`.
    ///
    /// The signals of this process to another are delivered in the order of sending, whatever their
    /// targets are (the process, a thread of it, its group, all). If `wait` ended a call, the time
    /// of its signal is not known, and neither is it for a group of which a member has not
    /// answered.
    ///
    /// A signal to a zombie, or to its main thread, succeeds. All members of a group are signalled
    /// before the call waits for any answer: it succeeds if any of them could be signalled. A
    /// member that has not answered within [`Config::recall_limit`](crate::Config::recall_limit)
    /// counts as signalled. If there was no room in time to signal all of them, the call fails,
    /// although others of the group may have been signalled. [`Target::All`] goes to the leader,
    /// which forwards it to every member but this one and does not wait for them.
    ///
    /// Signals for a process that has not joined yet, or for a member that does not read, wait at
    /// the leader. Each of the signals up to 31 is pending once there; real-time signals (32 to 64)
    /// are queued, up to [`Capacities::queued_signals`](crate::Capacities::queued_signals). SIGCONT
    /// discards the waiting stop signals, and a stop signal discards SIGCONT. A thread of a process
    /// that has not joined can be signalled only by the process's pid.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if there is no such target (for [`Target::All`]: no other process),
    /// whatever the signal; [`Error::Invalid`] for an undefined signal, [`Error::Refused`] with the
    /// error of the target's embedder (`EPERM`), [`Error::Refused`] with `EAGAIN` for a real-time signal for a
    /// thread that would have to wait at the leader and finds no room; else as [every
    /// call](Node#errors-of-every-call).
    pub fn kill(&self, target: Target, signal: i32, wait: Wait<'_>) -> Result<(), Error> {
        self.kill_as(self.pid_or_zero(), target, signal, wait)
    }

    /// Like [`Node::kill`], with the given sender.
    pub(crate) fn kill_as(
        &self,
        sender: Id,
        target: Target,
        signal: i32,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        self.kill_in(sender, target, signal, wait)
    }

    /// Returns true if the signal is for a zombie of this process, or for the main thread of one: a
    /// zombie can be signalled.
    pub(in crate::node) fn is_for_zombie(&self, kill: &PidKill) -> bool {
        kill.is_for_main_thread() && self.children.lock().is_zombie(kill.pid)
    }

    /// Returns true if no signal of this process to the target is pending at the leader, so that
    /// its owner gets the signal directly. `forwarded` is the number of signals that were sent
    /// through the leader.
    pub(in crate::node) fn is_ordered(
        &self,
        kill: &PidKill,
        owner: Option<Vmid>,
        forwarded: u32,
    ) -> bool {
        if forwarded == 0 || kill.signal == 0 || !self.has_extensions() {
            return true;
        }
        let known = self.owners.lock().get(kill.pid);
        let owner = owner.or(known.map(|known| known.owner));
        // A signal of a process to itself never goes through the leader, and a signal for the
        // leader's process uses the same stream as forwarded ones.
        let is_near = |owner| owner == self.identity.vmid || Some(owner) == self.led_by();
        owner.is_some_and(is_near)
            || kill.pid == self.pid_or_zero()
            || known.is_some_and(|known| known.forwarded == forwarded && forwarded < u32::MAX)
    }

    /// Counts a signal of this process that is, or may be, pending at the leader.
    pub(in crate::node) fn note_forwarded(&self) {
        let next = |forwarded: u32| forwarded.checked_add(1);
        // At the highest number no target counts as clear any more.
        let _ = self
            .forwarded
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// Returns the cached owner of an ID.
    pub(super) fn known_owner(&self, id: Id) -> Option<Vmid> {
        self.owners.lock().get(id).map(|known| known.owner)
    }
}

/// Returns true if a request failed because its process does not own the ID, or is gone.
pub(super) fn is_wrong_owner<T>(outcome: &Result<T, Error>) -> bool {
    matches!(
        outcome,
        Err(Error::NoSuchProcess | Error::LeaderGone | Error::CutOff)
    )
}

calls! {
    fn kill_in(
        &self,
        sender: Id,
        target: Target,
        signal: i32,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        self.check_running()?;
        let wait = self.begin(wait);
        if is_signal(signal) {
            return wait!(self.kill_target(sender, target, signal, wait));
        }
        // The kernel looks up the target before it checks the signal.
        match wait!(self.kill_target(sender, target, 0, wait)) {
            Err(Error::NoSuchProcess) => Err(Error::NoSuchProcess),
            _ => Err(Error::Invalid(Invalid::Signal)),
        }
    }

    fn kill_target(
        &self,
        sender: Id,
        target: Target,
        signal: i32,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        let kill = |pid: Option<Pid>, id, target| PidKill {
            sender,
            pid: Pid::number(pid),
            id,
            signal,
            target,
        };
        let one = match target {
            Target::Thread { pid, tid } => kill(Some(pid), tid, KillTarget::Thread),
            Target::Process(pid) => kill(Some(pid), pid.get(), KillTarget::Process),
            Target::Group(group) if self.is_known_process() => {
                return wait!(self.kill_group(group, sender, signal, wait));
            }
            // A process in C sends it like this.
            Target::Group(group) => kill(group, Pid::number(group), KillTarget::Group),
            Target::All => {
                let all = kill(None, 0, KillTarget::All);
                return wait!(self.kill_all(all, wait));
            }
        };
        wait!(self.kill_one(one, wait))
    }

    fn kill_one(&self, kill: PidKill, wait: Wait<'_>) -> Result<(), Error> {
        if self.is_for_zombie(&kill) {
            return Ok(());
        }
        match wait!(self.kill_in_order(kill, wait)) {
            // The target has died meanwhile.
            Err(Error::NoSuchProcess) if self.is_for_zombie(&kill) => Ok(()),
            outcome => outcome,
        }
    }

    /// Sends a signal to the owner of its target, after the signals of this process that are
    /// pending at the leader.
    fn kill_in_order(&self, kill: PidKill, wait: Wait<'_>) -> Result<(), Error> {
        let forwarded = self.forwarded.load(Ordering::Acquire);
        let is_ordered = self.is_ordered(&kill, None, forwarded);
        if !is_ordered {
            match wait!(self.kill_via_leader(kill, false, wait)) {
                Ok(ViaLeader::SendDirectly) | Err(Error::LeaderGone | Error::CutOff) => {}
                Ok(ViaLeader::Done) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let leader = self.led_by();
        let outcome = wait!(self.kill_at_owner(kill, wait));
        if !is_ordered {
            self.owners.lock().set_forwarded(kill.pid, forwarded);
        }
        if !matches!(outcome, Err(Error::NoSuchProcess)) || !kill.is_for_main_thread() {
            return outcome;
        }
        // The target may be about to join, or its process or its connection may be just ending.
        if !self.has_extensions() {
            return outcome;
        }
        match wait!(self.kill_via_leader(kill, true, wait)) {
            // The target leads by now, or another process does: the connection with it was made anew.
            Ok(ViaLeader::SendDirectly) if self.led_by() != leader => {
                wait!(self.kill_at_owner(kill, wait))
            }
            Err(Error::LeaderGone | Error::CutOff) | Ok(ViaLeader::SendDirectly) => outcome,
            Err(error) => Err(error),
            Ok(ViaLeader::Done) => Ok(()),
        }
    }

    /// Asks the leader to send a signal, after those of this process that it has not delivered yet:
    /// only if there are any, or `always`.
    fn kill_via_leader(
        &self,
        kill: PidKill,
        always: bool,
        wait: Wait<'_>,
    ) -> Result<ViaLeader, Error> {
        self.check_running()?;
        let message = Message::KillOrdered { kill, always };
        // Without an answer that says otherwise, the signal may be pending at the leader.
        let pending = Undo::new(|| self.note_forwarded());
        let answer = wait!(self.call(self.leader_vmid(), &message, wait))?;
        if matches!(answer, Answer::Status(Ok(QUEUED))) {
            return Ok(ViaLeader::Done);
        }
        pending.keep();
        match answer {
            Answer::Status(Ok(SEND_DIRECTLY)) => Ok(ViaLeader::SendDirectly),
            answer => done(answer).map(|()| ViaLeader::Done),
        }
    }

    /// Sends a signal to the owner of its target. If the cached owner is wrong, the leader is asked for
    /// the owner.
    fn kill_at_owner(&self, kill: PidKill, wait: Wait<'_>) -> Result<(), Error> {
        let message = Message::PidKill(kill);
        let known = self.known_owner(kill.pid);
        if let Some(owner) = known {
            let answer = wait!(self.call(owner, &message, wait));
            let outcome = answer.and_then(|answer| done_by(Some(owner), answer));
            if !is_wrong_owner(&outcome) {
                return outcome;
            }
        }
        let owner = wait!(self.other_owner(kill.pid, known, wait))?;
        done_by(Some(owner), wait!(self.call(owner, &message, wait))?)
    }

    /// Asks the leader for the owner of an ID, after the cached one was wrong.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if no other process owns it.
    fn other_owner(&self, id: Id, known: Option<Vmid>, wait: Wait<'_>) -> Result<Vmid, Error> {
        let owner = wait!(self.owner_of_in(id, wait))?;
        self.owners.lock().put(id, owner);
        let other = owner.filter(|owner| Some(*owner) != known);
        other.ok_or(Error::NoSuchProcess)
    }

    fn kill_all(&self, kill: PidKill, wait: Wait<'_>) -> Result<(), Error> {
        // Whatever ends the call, the signal may be pending at the leader afterwards.
        let pending = Undo::new(|| {
            if kill.signal != 0 {
                self.note_forwarded();
            }
        });
        let message = Message::PidKill(kill);
        let answer = wait!(self.call(self.leader_vmid(), &message, wait));
        drop(pending);
        done(answer?)
    }
}
