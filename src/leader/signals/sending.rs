//! The path of signals from a target's queue to its stream, and of its answers back.

use super::rules::signal_bit;
use super::{OutgoingSignal, PendingOnce, QueuedSignal, SignalAnswer, Signals, TargetMember};
use crate::Vmid;
use crate::error::Errno;
use crate::invariant::{Count, OrBroken};
use crate::store::NONE;
use crate::wire::{KillTarget, PidKill};

/// The bit that marks the sequence number of a signal through the leader: calls of the leader's own
/// process do not have it.
const FORWARDED: u64 = 1 << 62;
impl Signals<'_> {
    /// Returns the next signal for the member. It stays until [`Signals::mark_sent`].
    pub(crate) fn next(&self, to: Vmid) -> Option<OutgoingSignal> {
        let target = self.find_target(to)?;
        let queued = self.queue.get(target.first as usize);
        match (Self::oldest_once(target), queued) {
            (Some((_, once)), Some(queued)) if once.stamp > queued.stamp => {
                Some(Self::outgoing(target.first, queued))
            }
            (Some((signal, once)), _) => {
                let target = if once.pid == 0 {
                    KillTarget::All
                } else {
                    KillTarget::Process
                };
                let kill = PidKill {
                    sender: once.sender,
                    pid: once.pid,
                    id: once.pid,
                    signal,
                    target,
                };
                let (seq, is_awaited) = (FORWARDED | u64::from(NONE), false);
                Some(OutgoingSignal {
                    kill,
                    seq,
                    is_awaited,
                })
            }
            (None, queued) => queued.map(|queued| Self::outgoing(target.first, queued)),
        }
    }

    /// Returns the signal that has been pending once for the longest time.
    fn oldest_once(target: &TargetMember) -> Option<(i32, &PendingOnce)> {
        if target.pending == 0 {
            return None;
        }
        (1_i32..)
            .zip(&target.once)
            .filter(|(signal, _)| signal_bit(*signal).is_some_and(|bit| target.pending & bit != 0))
            .min_by_key(|(_, once)| once.stamp)
    }

    fn outgoing(slot: u32, queued: &QueuedSignal) -> OutgoingSignal {
        let is_awaited = queued.requester.is_some();
        let slot = if is_awaited { slot } else { NONE };
        let generation = u64::from(queued.generation) << u32::BITS;
        OutgoingSignal {
            kill: queued.kill,
            seq: FORWARDED | generation | u64::from(slot),
            is_awaited,
        }
    }

    /// Records that the [next](Signals::next) signal was sent. `is_answered` tells whether the
    /// member answers pending signals, too. The next signal for the member comes after those for others.
    pub(in crate::leader) fn mark_sent(&mut self, to: Vmid, is_answered: bool) {
        let Some(outgoing) = self.next(to) else {
            return;
        };
        let Some(target) = self.find_target_mut(to) else {
            return;
        };
        let first = target.first;
        let once_stamp = Self::oldest_once(target).map_or(u64::MAX, |(_, once)| once.stamp);
        if !outgoing.is_awaited {
            target.unanswered = target.unanswered.plus(u32::from(is_answered));
        }
        let queued = self.queue.get(first as usize).copied();
        match queued.filter(|queued| queued.stamp < once_stamp) {
            Some(queued) => {
                let Some(target) = self.find_target_mut(to) else {
                    return;
                };
                target.first = queued.next;
                if queued.next == NONE {
                    target.last = NONE;
                }
                let sent = target.sent;
                if queued.requester.is_some() {
                    target.sent = first;
                    target.sent_count.increment();
                    if let Some(queued) = self.queue.get_mut(first as usize) {
                        queued.next = sent;
                    }
                } else {
                    self.finish(first, Ok(()));
                }
            }
            None => {
                if let Some(target) = self.find_target_mut(to) {
                    target.pending &= !signal_bit(outgoing.kill.signal).or_broken(0);
                }
            }
        }
        self.update_target(to);
        if let Some(slot) = self.by_vmid.get(to.get()) {
            self.outbox.rotate(slot);
        }
    }

    /// Returns the first member that a signal can be sent to.
    pub(crate) fn next_target(&self) -> Option<Vmid> {
        let target = self.targets.get(self.outbox.due().next()? as usize)?;
        Vmid::new(target.vmid)
    }

    /// Returns true if a signal or an answer to one is to be sent.
    pub(in crate::leader) fn has_output(&self) -> bool {
        self.answers != NONE || self.outbox.has_due()
    }

    /// Passes the member over until [`Signals::resume`], because its next signal could not be sent.
    pub(in crate::leader) fn defer(&mut self, to: Vmid) {
        if let Some(slot) = self.by_vmid.get(to.get()) {
            self.outbox.defer(slot);
        }
    }

    /// Makes the members that were passed over due again.
    pub(in crate::leader) fn resume(&mut self) {
        self.outbox.resume();
    }

    /// Returns true if a sequence number is that of a signal through the leader.
    pub(crate) const fn is_forwarded(seq: u64) -> bool {
        seq & FORWARDED != 0
    }

    /// Handles a member's answer to a signal through the leader. Returns false if no such signal
    /// was sent to it.
    pub(in crate::leader) fn on_answer(
        &mut self,
        from: Vmid,
        seq: u64,
        result: Result<(), Errno>,
    ) -> bool {
        let slot = u32::try_from(seq & u64::from(NONE)).or_broken(NONE);
        let Some(target) = self.find_target_mut(from) else {
            return false;
        };
        if slot == NONE {
            let was_sent = target.unanswered > 0;
            if was_sent {
                target.unanswered.decrement();
            }
            self.update_target(from);
            return was_sent;
        }
        let (sent, mut prev) = (target.sent, NONE);
        let mut at = sent;
        while let Some(queued) = self.queue.get(at as usize).copied() {
            self.steps.count();
            if at != slot {
                (prev, at) = (at, queued.next);
                continue;
            }
            if Self::outgoing(slot, &queued).seq != seq {
                return false;
            }
            if let Some(prev) = self.queue.get_mut(prev as usize) {
                prev.next = queued.next;
            } else if let Some(target) = self.find_target_mut(from) {
                target.sent = queued.next;
            }
            if let Some(target) = self.find_target_mut(from) {
                target.sent_count.decrement();
            }
            self.finish(slot, result);
            self.update_target(from);
            return true;
        }
        false
    }

    /// Removes the target of a member that is gone, or will never join. Senders that wait for its
    /// answer get that of `result`.
    pub(in crate::leader) fn remove_target(
        &mut self,
        vmid: Vmid,
        result: fn(&PidKill) -> Result<(), Errno>,
    ) {
        let Some(target) = self.find_target_mut(vmid) else {
            return;
        };
        let lists = [target.first, target.sent];
        target.reset(target.vmid, false);
        for mut at in lists {
            while let Some(queued) = self.queue.get(at as usize).copied() {
                self.steps.count();
                self.finish(at, result(&queued.kill));
                at = queued.next;
            }
        }
        self.update_target(vmid);
    }

    /// Returns the next answer to send. It stays until [`Signals::take_answer`].
    pub(crate) fn next_answer(&self) -> Option<SignalAnswer> {
        let queued = self.queue.get(self.answers as usize)?;
        let requester = queued.requester?;
        Some(SignalAnswer {
            to: requester.vmid,
            seq: requester.seq,
            result: queued.result,
        })
    }

    /// Records that the next answer is about to be sent.
    pub(in crate::leader) fn take_answer(&mut self) {
        let slot = self.answers;
        let Some(queued) = self.queue.get_mut(slot as usize) else {
            return;
        };
        queued.requester = None;
        self.answers = queued.next;
        self.awaited_count.decrement();
        self.free.free(slot);
    }
}
