//! Signals for a group: the call signals all of its members, then waits for their answers.

use core::task::Poll;

use crate::error::{Errno, Error};
use crate::invariant::OrBroken;
use crate::leader::{QUEUED, SEND_DIRECTLY};
use crate::node::rpc::{
    Limits, Progress, ReplyData, Request, Undo, WaitToken, WakeTarget, done_by,
};
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{Answer, KillTarget, Message, PidKill, Process, ProcessQuery, ProcessState};
use crate::{Id, Pid, Vmid};

/// The most answers that one call waits for at once. Further members are signalled through the
/// leader, and their answers are not waited for.
const MAX_PENDING: usize = if cfg!(loom) {
    1
} else if cfg!(static_library) {
    // The members are on the stack of the call, which is small in an enclave.
    4
} else {
    8
};

/// A member that was signalled and has not answered.
struct PendingKill<'n, 'm, P: Pal> {
    kill: PidKill,
    request: Request<'n, 'm, P>,
    /// The member that the signal was sent to; `None` if it was sent through the leader.
    owner: Option<Vmid>,
}

/// A call that signals a group.
pub(in crate::node) struct GroupKill<'n, 'm, P: Pal> {
    node: &'n Node<'m, P>,
    /// The signals whose answers the call waits for.
    pending: [Option<PendingKill<'n, 'm, P>>; MAX_PENDING],
    /// The signals for members that could not be reached: the leader is asked to send them.
    unreached: heapless::Vec<PidKill, MAX_PENDING>,
    /// The time limit for room to send signals through the leader, for all of them together.
    leader_wait: Wait<'n>,
    /// The result of `kill(2)`: success if any member could be signalled.
    outcome: Result<(), Error>,
    /// The error of the call if there was no room in time to signal a member.
    cut_short: Option<Error>,
}

impl<'n, 'm, P: Pal> GroupKill<'n, 'm, P> {
    /// Merges the outcome for one member into that of the call.
    fn note(&mut self, outcome: Result<(), Error>) {
        // A member that died meanwhile does not decide the outcome.
        if self.outcome.is_err() && !matches!(outcome, Err(Error::NoSuchProcess)) {
            self.outcome = outcome;
        }
    }

    /// Returns true if the call can wait for one more answer. Other calls need waiters, too.
    fn has_room(&self) -> bool {
        let quarter = self.node.config.capacities.waiters / 4;
        let limit = quarter.clamp(1, MAX_PENDING);
        self.pending.iter().flatten().count() < limit
    }

    fn keep(&mut self, kill: PidKill, request: Request<'n, 'm, P>, owner: Option<Vmid>) {
        if let Some(place) = self.pending.iter_mut().find(|place| place.is_none()) {
            *place = Some(PendingKill {
                kill,
                request,
                owner,
            });
        }
    }

    /// Reads the answers that have arrived, and notes the members that could not be reached. The caller
    /// asks the leader to signal those. The waiter of `first`, with which the call waits, is woken by all
    /// requests.
    fn poll_answers(&mut self, first: Option<WaitToken>) {
        for at in 0..MAX_PENDING {
            let place = self.pending.get_mut(at);
            let answered = place.and_then(|place| {
                let pending = place.as_mut()?;
                let others = first.filter(|first| pending.request.token() != Some(*first));
                let target = others.map(|first| WakeTarget::Waiter(first.name()));
                let polled = pending.request.poll_step(target, &mut ReplyData::none());
                let Poll::Ready(outcome) = polled else {
                    return None;
                };
                let pending = place.take()?;
                Some((pending.kill, pending.owner, outcome))
            });
            match answered {
                None => {}
                Some((kill, Some(_), Err(Error::NoSuchProcess))) => {
                    // There is room: each of them had a place among the requests.
                    self.unreached.push(kill).map_err(drop).or_broken(());
                }
                // The leader's own process can't be reached, or this process is just ending.
                Some((_, None, Ok(Answer::Status(Ok(SEND_DIRECTLY))))) => {
                    self.note(Err(Error::NoSuchProcess));
                }
                Some((_, None, Ok(Answer::Status(Ok(QUEUED))))) => {
                    self.node.note_forwarded();
                    self.note(Ok(()));
                }
                // The member is just ending: it is still in the leader's table.
                Some((_, Some(_), Ok(Answer::Status(Err(Errno::ESRCH))))) => self.note(Ok(())),
                Some((_, owner, Ok(answer))) => self.note(done_by(owner, answer)),
                Some((_, _, Err(error))) => self.note(Err(error)),
            }
        }
    }

    /// Returns the waiter of the first request without an answer.
    fn first_request(&self) -> Option<WaitToken> {
        let mut waiting = self.pending.iter().flatten();
        waiting.find_map(|pending| pending.request.token())
    }
}

/// A dropped call waits for no answer. Its signals are sent; those that went through the leader may still be
/// pending there, so later ones must not overtake them.
impl<P: Pal> Drop for GroupKill<'_, '_, P> {
    fn drop(&mut self) {
        let mut waiting = self.pending.iter().flatten();
        if waiting.any(|pending| pending.owner.is_none()) {
            self.node.note_forwarded();
        }
    }
}

fn through_leader(kill: PidKill) -> Message<'static> {
    Message::KillOrdered { kill, always: true }
}

calls! {
    /// Signals every process of a group, in the order of their starts: a child that is started
    /// meanwhile is signalled, too.
    fn kill_group(
        &self,
        group: Option<Pid>,
        sender: Id,
        signal: i32,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        match group {
            Some(group) => wait!(self.kill_members(group, sender, signal, wait)),
            None => wait!(self.kill_own_group(sender, signal, wait)),
        }
    }

    // Its large state must not become part of the stack frame of other calls.
    #[inline(never)]
    fn kill_members(
        &self,
        group: Pid,
        sender: Id,
        signal: i32,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        let limits = Limits::of(wait, &self.pal);
        let answer_deadline = self.pal.now() + self.config.recall_limit;
        let mut query = ProcessQuery {
            group: group.get(),
            ..ProcessQuery::default()
        };
        let mut call = GroupKill {
            node: self.node(),
            pending: [const { None }; MAX_PENDING],
            unreached: heapless::Vec::new(),
            leader_wait: limits.not_after(answer_deadline).wait(),
            outcome: Err(Error::NoSuchProcess),
            cut_short: None,
        };
        loop {
            let member = match wait!(self.query(&query, limits.wait())) {
                Ok(member) => member,
                // That was the last member.
                Err(Error::NoSuchProcess) => break,
                Err(error) => return Err(error),
            };
            query.after = member.start_seq;
            let kill = PidKill {
                sender,
                pid: member.pid.get(),
                id: member.pid.get(),
                signal,
                target: KillTarget::Process,
            };
            wait!(self.signal_member(&mut call, kill, &member));
        }
        wait!(self.collect_kills(&mut call, limits))
    }

    /// Signals this process's own group. Every process has a group: if the group is empty, another
    /// thread has just moved this process to another group.
    fn kill_own_group(&self, sender: Id, signal: i32, wait: Wait<'_>) -> Result<(), Error> {
        let mut before = None;
        loop {
            let group = wait!(self.process_in(None, wait))?.group;
            if before == Some(group) {
                return Err(Error::NoSuchProcess);
            }
            before = Some(group);
            let outcome = wait!(self.kill_members(group, sender, signal, wait));
            if !matches!(outcome, Err(Error::NoSuchProcess)) {
                return outcome;
            }
        }
    }

    /// Signals a member of the group, without waiting for it.
    fn signal_member(
        &self,
        call: &mut GroupKill<'_, 'm, P>,
        kill: PidKill,
        member: &Process,
    ) -> () {
        if member.state == ProcessState::Zombie || self.is_for_zombie(&kill) {
            return call.note(Ok(()));
        }
        if !call.has_room() {
            call.poll_answers(None);
            wait!(self.kill_unreached(call));
        }
        let forwarded = self.forwarded.load(Ordering::Acquire);
        let running = member
            .vmid
            .filter(|_| member.state == ProcessState::Running);
        match running.filter(|owner| self.is_ordered(&kill, Some(*owner), forwarded)) {
            Some(owner) => wait!(self.kill_member_at_owner(call, kill, owner)),
            None => wait!(self.kill_member_at_leader(call, kill)),
        }
    }

    fn kill_member_at_owner(
        &self,
        call: &mut GroupKill<'_, 'm, P>,
        kill: PidKill,
        owner: Vmid,
    ) -> () {
        if !call.has_room() {
            return wait!(self.kill_member_without_answer(call, kill));
        }
        match call.node.begin_call(owner, &Message::PidKill(kill)) {
            Ok(request) => call.keep(kill, request, Some(owner)),
            Err(Error::Full(_)) => wait!(self.kill_member_without_answer(call, kill)),
            Err(_) => wait!(self.kill_member_at_leader(call, kill)),
        }
    }

    /// Asks the leader to signal a member that has not joined, or can't be reached, or for which a
    /// signal of this process is pending at the leader.
    fn kill_member_at_leader(&self, call: &mut GroupKill<'_, 'm, P>, kill: PidKill) -> () {
        if !call.has_room() {
            return wait!(self.kill_member_without_answer(call, kill));
        }
        match call
            .node
            .begin_call(self.leader_vmid(), &through_leader(kill))
        {
            Ok(request) => call.keep(kill, request, None),
            Err(Error::Full(_)) => wait!(self.kill_member_without_answer(call, kill)),
            Err(error) => call.note(Err(error)),
        }
    }

    /// Asks the leader to signal a member, without an answer.
    fn kill_member_without_answer(&self, call: &mut GroupKill<'_, 'm, P>, kill: PidKill) -> () {
        let message = through_leader(kill);
        let pending = Undo::new(|| self.note_forwarded());
        let sent = wait!(self.send_to(self.leader_vmid(), &message, call.leader_wait));
        drop(pending);
        match sent {
            Err(error @ (Error::Full(_) | Error::TimedOut | Error::Interrupted)) => {
                call.cut_short = Some(error);
            }
            sent => call.note(sent),
        }
    }

    /// Asks the leader to signal the members that could not be reached.
    fn kill_unreached(&self, call: &mut GroupKill<'_, 'm, P>) -> () {
        while let Some(kill) = call.unreached.pop() {
            wait!(self.kill_member_at_leader(call, kill));
        }
    }

    /// Waits for the answers. A member that sends none has the signal pending, like a process that
    /// does not run: it counts as signalled after
    /// [`Config::recall_limit`](crate::Config::recall_limit).
    fn collect_kills(
        &self,
        call: &mut GroupKill<'_, 'm, P>,
        limits: Limits<'_>,
    ) -> Result<(), Error> {
        let answer_deadline = self.pal.now() + self.config.recall_limit;
        let until = limits.not_after(answer_deadline);
        loop {
            call.poll_answers(None);
            wait!(self.kill_unreached(call));
            let Some(first) = call.first_request() else {
                if call.pending.iter().flatten().next().is_none() {
                    break;
                }
                // This process has answered its own request at once.
                continue;
            };
            let mut reached = None;
            let mut step = |limit: Option<Error>| {
                reached = limit;
                if limit.is_some() {
                    return Progress::Done;
                }
                call.poll_answers(Some(first));
                if call.unreached.is_empty() && call.first_request() == Some(first) {
                    Progress::Pending(None)
                } else {
                    Progress::Done
                }
            };
            wait!(self.run(first, until, None, &mut step));
            if let Some(error) = reached {
                if limits.reached(&self.pal).is_some() {
                    call.outcome = call.outcome.map_err(|_| error);
                } else {
                    call.note(Ok(()));
                }
                break;
            }
        }
        call.cut_short.map_or(call.outcome, Err)
    }
}
