//! Signals for a group: the call signals all of its members, then waits for their answers.

use core::time::Duration;

use crate::error::{Errno, Error};
use crate::leader::{QUEUED, SEND_DIRECTLY};
use crate::node::rpc::{Limits, Request, done};
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{Answer, KillTarget, Message, PidKill, Process, ProcessQuery, ProcessState};
use crate::{Id, Pid, Vmid};

/// The most answers that one call waits for at once. Further members are signalled through the
/// leader, and their answers are not waited for.
const MAX_PENDING: usize = if cfg!(loom) { 1 } else { 8 };

/// The interval at which the call polls the answers other than the one whose event it waits for.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// A member that was signalled and has not answered.
struct PendingKill<'n, 'm, P: Pal> {
    kill: PidKill,
    request: Request<'n, 'm, P>,
    through_leader: bool,
}

/// A call that signals a group.
struct GroupKill<'n, 'm, P: Pal> {
    node: &'n Node<'m, P>,
    asked: [Option<PendingKill<'n, 'm, P>>; MAX_PENDING],
    /// The time limit for room to send signals through the leader, for all of them together.
    leader_wait: Wait<'n>,
    /// The result of `kill(2)`: success if any member could be signalled.
    outcome: Result<(), Error>,
    /// A member was not signalled, since there was no room for that in time.
    cut_short: Option<Error>,
}

impl<P: Pal> Node<'_, P> {
    /// Signals every process of a group, in the order of their starts: a child that is started
    /// meanwhile is signalled, too.
    // Its large state must not become part of the stack frame of other calls.
    #[inline(never)]
    pub(in crate::node) fn kill_group(
        &self,
        group: Option<Pid>,
        sender: Id,
        signal: i32,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        let Some(group) = group else {
            return self.kill_own_group(sender, signal, wait);
        };
        let limits = Limits::of(wait, &self.pal);
        let answer_deadline = self.pal.now() + self.config.recall_limit;
        let mut query = ProcessQuery {
            group: group.get(),
            ..ProcessQuery::default()
        };
        let mut call = GroupKill {
            node: self,
            asked: [const { None }; MAX_PENDING],
            leader_wait: limits.not_after(answer_deadline).wait(),
            outcome: Err(Error::NoSuchProcess),
            cut_short: None,
        };
        loop {
            let member = match self.query(&query, limits.wait()) {
                Ok(member) => member,
                // That was the last member.
                Err(Error::NoSuchProcess) => break,
                Err(error) => {
                    call.abandon();
                    return Err(error);
                }
            };
            query.after = member.start_seq;
            let kill = PidKill {
                sender,
                pid: member.pid.get(),
                id: member.pid.get(),
                signal,
                target: KillTarget::Process,
            };
            call.signal(kill, &member);
        }
        call.collect(limits)
    }

    /// Signals this process's own group. Every process has a group: if the group is empty, another
    /// thread has just moved this process to another group.
    fn kill_own_group(&self, sender: Id, signal: i32, wait: Wait<'_>) -> Result<(), Error> {
        let mut group = self.group_of(None, wait)?;
        loop {
            let outcome = self.kill_group(Some(group), sender, signal, wait);
            let before = group;
            if outcome != Err(Error::NoSuchProcess) {
                return outcome;
            }
            group = self.group_of(None, wait)?;
            if group == before {
                return outcome;
            }
        }
    }
}

impl<'n, 'm, P: Pal> GroupKill<'n, 'm, P> {
    /// Signals a member of the group, without waiting for it.
    fn signal(&mut self, kill: PidKill, member: &Process) {
        if member.state == ProcessState::Zombie || self.node.is_for_zombie(&kill) {
            return self.note(Ok(()));
        }
        let forwarded = self.node.forwarded.load(Ordering::Acquire);
        let running = member
            .vmid
            .filter(|_| member.state == ProcessState::Running);
        match running.filter(|owner| self.node.is_ordered(&kill, Some(*owner), forwarded)) {
            Some(owner) => self.send_to_owner(kill, owner),
            None => self.send_to_leader(kill),
        }
    }

    /// Merges the outcome for one member into that of the call.
    fn note(&mut self, outcome: Result<(), Error>) {
        // A member that died meanwhile does not decide the outcome.
        if self.outcome.is_err() && outcome != Err(Error::NoSuchProcess) {
            self.outcome = outcome;
        }
    }

    fn send_to_owner(&mut self, kill: PidKill, owner: Vmid) {
        let node = self.node;
        if !self.has_room() {
            return self.send_via_leader(kill);
        }
        match node.begin_call(owner, &Message::PidKill(kill)) {
            Ok(request) => self.keep(kill, request, false),
            Err(Error::Full(_)) => self.send_via_leader(kill),
            Err(_) => self.send_to_leader(kill),
        }
    }

    /// Asks the leader to signal a member that has not joined, or can't be reached, or for which a
    /// signal of this process is pending at the leader.
    fn send_to_leader(&mut self, kill: PidKill) {
        let node = self.node;
        if !self.has_room() {
            return self.send_via_leader(kill);
        }
        match node.begin_call(node.leader_vmid(), &through_leader(kill)) {
            Ok(request) => self.keep(kill, request, true),
            Err(Error::Full(_)) => self.send_via_leader(kill),
            Err(error) => self.note(Err(error)),
        }
    }

    /// Asks the leader to signal a member, without an answer.
    fn send_via_leader(&mut self, kill: PidKill) {
        let node = self.node;
        let sent = node.send_to(node.leader_vmid(), &through_leader(kill), self.leader_wait);
        node.note_forwarded();
        match sent {
            Err(error @ (Error::Full(_) | Error::TimedOut | Error::Interrupted)) => {
                self.cut_short = Some(error);
            }
            sent => self.note(sent),
        }
    }

    /// Whether the call can wait for one more answer. Other calls need waiters, too.
    fn has_room(&mut self) -> bool {
        let quarter = self.node.config.capacities.waiters / 4;
        let limit = quarter.clamp(1, MAX_PENDING);
        let count = |call: &Self| call.asked.iter().flatten().count();
        if count(self) >= limit {
            self.poll_answers();
        }
        count(self) < limit
    }

    fn keep(&mut self, kill: PidKill, request: Request<'n, 'm, P>, through_leader: bool) {
        if let Some(place) = self.asked.iter_mut().find(|place| place.is_none()) {
            *place = Some(PendingKill {
                kill,
                request,
                through_leader,
            });
        }
    }

    /// Reads the answers that have arrived. The leader signals a member that could not be reached.
    fn poll_answers(&mut self) {
        for at in 0..MAX_PENDING {
            let place = self.asked.get_mut(at);
            let answered = place.and_then(|place| {
                let asked = place.as_mut()?;
                asked.request.prepare_to_sleep();
                let outcome = asked.request.poll()?;
                let asked = place.take()?;
                Some((asked.kill, asked.through_leader, outcome))
            });
            match answered {
                None => {}
                Some((kill, false, Err(Error::NoSuchProcess))) => self.send_to_leader(kill),
                // The leader's own process can't be reached, or this process is just ending.
                Some((_, true, Ok(Answer::Status(Ok(SEND_DIRECTLY))))) => {
                    self.note(Err(Error::NoSuchProcess));
                }
                Some((_, true, Ok(Answer::Status(Ok(QUEUED))))) => {
                    self.node.note_forwarded();
                    self.note(Ok(()));
                }
                // The member is just ending: it is still in the leader's table.
                Some((_, false, Ok(Answer::Status(Err(Errno::ESRCH))))) => self.note(Ok(())),
                Some((_, _, Ok(answer))) => self.note(done(answer)),
                Some((_, _, Err(error))) => self.note(Err(error)),
            }
        }
    }

    /// Waits for the answers. A member that sends none has the signal pending, like a process that
    /// does not run: it counts as signalled after
    /// [`Config::recall_limit`](crate::Config::recall_limit).
    fn collect(mut self, limits: Limits<'_>) -> Result<(), Error> {
        let node = self.node;
        let answer_deadline = node.pal.now() + node.config.recall_limit;
        loop {
            self.poll_answers();
            let waiting = || self.asked.iter().flatten();
            let Some(first) = waiting().next() else {
                return self.cut_short.map_or(self.outcome, Err);
            };
            if let Some(error) = limits.reached(&node.pal) {
                self.abandon();
                return self.cut_short.map_or(self.outcome.map_err(|_| error), Err);
            }
            let now = node.pal.now();
            if now >= answer_deadline {
                self.note(Ok(()));
                self.abandon();
                return self.cut_short.map_or(self.outcome, Err);
            }
            let mut limits = limits.not_after(answer_deadline);
            if waiting().nth(1).is_some() {
                limits = limits.not_after(now + POLL_INTERVAL);
            }
            first.request.sleep(limits);
        }
    }

    /// Stops waiting. The members without an answer are signalled, but the signals may still be
    /// pending.
    fn abandon(&self) {
        let mut waiting = self.asked.iter().flatten();
        if waiting.any(|asked| asked.through_leader) {
            self.node.note_forwarded();
        }
    }
}

fn through_leader(kill: PidKill) -> Message<'static> {
    Message::KillOrdered { kill, always: true }
}
