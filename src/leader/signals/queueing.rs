//! How a signal gets into its target's queue, and how it leaves without having been sent.

use super::rules::{REAL_TIME, discarded_by, signal_bit};
use super::{GENERATIONS, PendingOnce, QueuedSignal, Requester, Signals};
use crate::Vmid;
use crate::error::Errno;
use crate::invariant::Count;
use crate::store::NONE;
use crate::wire::{KillTarget, PidKill};

impl Signals<'_> {
    /// Adds a signal whose sender waits for no answer. It is not sent before the member has joined.
    ///
    /// # Errors
    /// `EAGAIN` for a real-time signal for a thread, at the limit.
    pub(in crate::leader) fn add_pending(
        &mut self,
        to: Vmid,
        kill: &PidKill,
        has_joined: bool,
    ) -> Result<(), Errno> {
        let Some(bit) = signal_bit(kill.signal) else {
            return Ok(());
        };
        let is_for_thread = kill.target == KillTarget::Thread;
        let is_real_time = kill.signal >= REAL_TIME;
        let is_full = self.queued_count >= self.limit;
        if is_for_thread && is_real_time && is_full {
            return Err(Errno::EAGAIN);
        }
        self.discard(to, discarded_by(kill.signal));
        if (is_for_thread || is_real_time) && !is_full && self.enqueue(to, kill, None, has_joined) {
            self.queued_count.increment();
            self.queued_peak = self.queued_peak.max(self.queued_count);
            return Ok(());
        }
        if is_real_time && self.is_queued(to, kill.signal) {
            // The signal is pending already.
            return Ok(());
        }
        let stamp = self.next_stamp();
        let Some(target) = self.find_or_add_target(to, has_joined) else {
            return Err(Errno::EAGAIN);
        };
        let slot = usize::try_from(kill.signal)
            .ok()
            .and_then(|signal| signal.checked_sub(1));
        let Some(once) = slot.and_then(|slot| target.once.get_mut(slot)) else {
            return Err(Errno::EINVAL);
        };
        let pid = match kill.target {
            KillTarget::All | KillTarget::Group => 0,
            KillTarget::Process | KillTarget::Thread => kill.pid,
        };
        if target.pending & bit == 0 {
            *once = PendingOnce {
                stamp,
                sender: kill.sender,
                pid,
            };
        } else if once.sender != kill.sender {
            // There is room for one sender: of several senders none is named.
            once.sender = 0;
        }
        target.pending |= bit;
        self.update_target(to);
        Ok(())
    }

    /// Adds a signal whose sender waits for the target's answer. Returns false if there is no room
    /// for that: then it can only be pending.
    pub(in crate::leader) fn add_awaited(
        &mut self,
        to: Vmid,
        kill: &PidKill,
        requester: Requester,
    ) -> bool {
        if self.awaited_count >= self.limit {
            return false;
        }
        self.discard(to, discarded_by(kill.signal));
        let is_awaited = self.enqueue(to, kill, Some(requester), true);
        self.awaited_count = self.awaited_count.plus(usize::from(is_awaited));
        is_awaited
    }

    /// Appends a signal to the target's queue, in a new slot.
    fn enqueue(
        &mut self,
        to: Vmid,
        kill: &PidKill,
        requester: Option<Requester>,
        has_joined: bool,
    ) -> bool {
        if self.find_or_add_target(to, has_joined).is_none() {
            return false;
        }
        let Some(slot) = self.free.alloc() else {
            self.update_target(to);
            return false;
        };
        let stamp = self.next_stamp();
        if let Some(queued) = self.queue.get_mut(slot as usize) {
            *queued = QueuedSignal {
                kill: *kill,
                stamp,
                requester,
                next: NONE,
                generation: queued.generation.wrapping_add(1) & GENERATIONS,
                result: Ok(()),
            };
        }
        let Some(target) = self.find_target_mut(to) else {
            return false;
        };
        let last = core::mem::replace(&mut target.last, slot);
        if last == NONE {
            target.first = slot;
        } else if let Some(last) = self.queue.get_mut(last as usize) {
            last.next = slot;
        }
        self.update_target(to);
        true
    }

    /// Iterates over the slots of a list.
    pub(super) fn list(&self, first: u32) -> impl Iterator<Item = (u32, &QueuedSignal)> {
        let get = |slot: u32| {
            self.steps.count();
            Some((slot, self.queue.get(slot as usize)?))
        };
        core::iter::successors(get(first), move |(_, queued)| get(queued.next))
    }

    pub(super) fn is_queued(&self, to: Vmid, signal: i32) -> bool {
        let first = self.find_target(to).map_or(NONE, |target| target.first);
        self.list(first)
            .any(|(_, queued)| queued.kill.signal == signal)
    }

    /// Discards signals that have not been sent yet. For their senders they count as sent.
    pub(super) fn discard(&mut self, to: Vmid, signals: u64) {
        if signals == 0 {
            return;
        }
        let Some(target) = self.find_target_mut(to) else {
            return;
        };
        target.pending &= !signals;
        let mut at = core::mem::replace(&mut target.first, NONE);
        target.last = NONE;
        // The queue is rebuilt from the remaining signals.
        while let Some(queued) = self.queue.get_mut(at as usize) {
            self.steps.count();
            let next = core::mem::replace(&mut queued.next, NONE);
            let bit = signal_bit(queued.kill.signal).unwrap_or(0);
            if bit & signals != 0 {
                self.finish(at, Ok(()));
            } else if let Some(target) = self.find_target_mut(to) {
                let last = core::mem::replace(&mut target.last, at);
                if last == NONE {
                    target.first = at;
                } else if let Some(last) = self.queue.get_mut(last as usize) {
                    last.next = at;
                }
            }
            at = next;
        }
        self.update_target(to);
    }

    /// Ends the use of a slot that is in no list: queues the answer for a waiting sender, or frees
    /// the slot.
    pub(super) fn finish(&mut self, slot: u32, result: Result<(), Errno>) {
        let answers = self.answers;
        let Some(queued) = self.queue.get_mut(slot as usize) else {
            return;
        };
        if queued.requester.is_some() {
            queued.result = result;
            queued.next = answers;
            self.answers = slot;
        } else {
            self.queued_count.decrement();
            self.free.free(slot);
        }
    }
}
