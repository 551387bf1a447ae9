//! Signals that are under way through the leader: to processes that have not joined, to members
//! that do not read, and behind such signals.
//!
//! Each target has its signals in the order in which the leader got them, from all senders. A
//! signal whose sender waits for the target's answer is *awaited*; any other is *pending*. Each of
//! the pending signals 1 to 31 is pending once; pending signals 32 to 64, and those for threads,
//! are queued one by one in slots of a pool. At that pool's limit a signal is pending once, too, as
//! with `kill(2)`.

mod invariants;
mod queueing;
mod rules;
mod sending;

use crate::error::Errno;
use crate::invariant::Count;
use crate::store::{
    Arena, Digest, NONE, SlotAllocator, SortedMap, Steps, Table, TransmitQueue, bytes_for, entry,
    image, list_length, memory_sum,
};
use crate::wire::{KillTarget, PidKill};
use crate::{Id, Vmid};
use core::hash::Hash;

pub use rules::SIGNAL_MAX;
pub(crate) use rules::{QUEUED, SEND_DIRECTLY, is_signal};
pub(super) use rules::{SIGCONT, SIGHUP};

/// The number of different signals.
const ALL: usize = 64;

/// The bits of a sequence number that count the uses of a slot.
const GENERATIONS: u32 = (1 << 28) - 1;

/// The most signals that a member has got through the leader and not answered. The next ones are pending at the leader. So
/// a member knows how much room its answers need.
pub(crate) const MAX_UNANSWERED: u32 = 32;

/// The limits of the leader's signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SignalLimits {
    /// The greatest number of members with signals under way: as many as there can be, so that no
    /// signal is lost.
    pub targets: usize,
    /// Signals that are queued one by one, and calls that wait for an answer.
    pub queued: usize,
}

impl SignalLimits {
    /// No signals.
    pub const NONE: SignalLimits = SignalLimits {
        targets: 0,
        queued: 0,
    };

    const fn slot_count(&self) -> usize {
        self.queued.saturating_mul(2)
    }
}

/// A signal that is pending once.
#[derive(Clone, Copy, Hash)]
struct PendingOnce {
    stamp: u64,
    sender: Id,
    /// The process that is the target; 0 for all.
    pid: Id,
}

entry!(PendingOnce { stamp, sender, pid });

/// A member with signals under way.
#[derive(Clone, Copy, Hash)]
struct TargetMember {
    vmid: u32,
    /// Whether the member's process has joined, so that signals can be sent to it.
    has_joined: bool,
    /// The set of signals that are pending once.
    pending: u64,
    once: [PendingOnce; ALL],
    /// The slots of the queued signals, in their order.
    first: u32,
    last: u32,
    /// The slots of signals that were sent and are not answered, in no order.
    sent: u32,
    /// The number of those.
    sent_count: u32,
    /// The number of pending signals that were sent and are not answered.
    unanswered: u32,
}

entry!(TargetMember {
    vmid,
    has_joined,
    pending,
    once,
    first,
    last,
    sent,
    sent_count,
    unanswered,
});

impl TargetMember {
    /// A target without signals. It is no constant, which would take a KiB.
    #[inline]
    fn idle() -> TargetMember {
        TargetMember {
            vmid: 0,
            has_joined: false,
            pending: 0,
            once: [PendingOnce {
                stamp: 0,
                sender: 0,
                pid: 0,
            }; ALL],
            first: NONE,
            last: NONE,
            sent: NONE,
            sent_count: 0,
            unanswered: 0,
        }
    }

    /// Drops all signals for the member.
    #[cfg_attr(static_library, inline(never))]
    fn reset(&mut self, vmid: u32, has_joined: bool) {
        (self.vmid, self.has_joined) = (vmid, has_joined);
        (self.pending, self.sent_count, self.unanswered) = (0, 0, 0);
        self.once.fill(PendingOnce {
            stamp: 0,
            sender: 0,
            pid: 0,
        });
        (self.first, self.last, self.sent) = (NONE, NONE, NONE);
    }

    /// Returns true if a signal waits to be sent.
    fn is_waiting(&self) -> bool {
        self.pending != 0 || self.first != NONE
    }

    /// Returns true if a signal can be sent.
    fn is_ready(&self) -> bool {
        let unanswered = self.unanswered.plus(self.sent_count);
        self.has_joined && self.is_waiting() && unanswered < MAX_UNANSWERED
    }
}

/// The sender that waits for the answer of a target.
#[derive(Clone, Copy, Hash)]
pub(in crate::leader) struct Requester {
    pub(in crate::leader) vmid: Vmid,
    pub(in crate::leader) seq: u64,
}

entry!(Requester { vmid, seq });

/// A signal with a slot of its own.
#[derive(Clone, Copy, Hash)]
struct QueuedSignal {
    kill: PidKill,
    stamp: u64,
    requester: Option<Requester>,
    next: u32,
    generation: u32,
    /// The answer, once it is known.
    result: Result<(), Errno>,
}

entry!(QueuedSignal {
    kill,
    stamp,
    requester,
    next,
    generation,
    result,
});

image!(Signals<'_> {
    fields { queued_count, queued_peak, awaited_count, answers, stamp }
    tables {
        targets: free_targets.high_water() as usize => TargetMember::idle(),
        queue: free.high_water() as usize => EMPTY,
    }
    parts { free_targets, by_vmid, free, outbox }
    omitted { limit, steps }
});

const EMPTY: QueuedSignal = QueuedSignal {
    kill: PidKill {
        sender: 0,
        pid: 0,
        id: 0,
        signal: 0,
        target: KillTarget::Process,
    },
    stamp: 0,
    requester: None,
    next: NONE,
    generation: 0,
    result: Ok(()),
};

/// A signal that is to be sent to its target now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutgoingSignal {
    pub(crate) kill: PidKill,
    /// The sequence number of the target's answer.
    pub(crate) seq: u64,
    /// Whether the sender waits for the answer.
    pub(crate) is_awaited: bool,
}

/// An answer for a process that sent a signal through the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SignalAnswer {
    pub(crate) to: Vmid,
    pub(crate) seq: u64,
    pub(crate) result: Result<(), Errno>,
}

/// The signals under way.
pub(crate) struct Signals<'m> {
    targets: Table<'m, TargetMember>,
    free_targets: SlotAllocator<'m>,
    by_vmid: SortedMap<'m>,
    queue: Table<'m, QueuedSignal>,
    free: SlotAllocator<'m>,
    limit: usize,
    queued_count: usize,
    queued_peak: usize,
    awaited_count: usize,
    /// The slots of answers that are to be sent.
    answers: u32,
    /// The targets that have joined and for which a signal waits to be sent.
    outbox: TransmitQueue<'m>,
    stamp: u64,
    steps: Steps,
}

impl<'m> Signals<'m> {
    pub(super) const fn bytes(limits: &SignalLimits) -> usize {
        memory_sum!(
            bytes_for::<TargetMember>(limits.targets),
            SlotAllocator::bytes(limits.targets),
            SortedMap::bytes(limits.targets),
            TransmitQueue::bytes(limits.targets),
            bytes_for::<QueuedSignal>(limits.slot_count()),
            SlotAllocator::bytes(limits.slot_count()),
        )
    }

    #[cfg_attr(static_library, inline(never))]
    pub(super) fn new(arena: &mut Arena<'m>, limits: &SignalLimits) -> Self {
        Signals {
            targets: arena.alloc_made(limits.targets, TargetMember::idle),
            free_targets: SlotAllocator::new(arena, limits.targets),
            by_vmid: SortedMap::new(arena, limits.targets),
            queue: arena.alloc_filled(limits.slot_count(), &EMPTY),
            free: SlotAllocator::new(arena, limits.slot_count()),
            limit: limits.queued,
            queued_count: 0,
            queued_peak: 0,
            awaited_count: 0,
            answers: NONE,
            outbox: TransmitQueue::new(arena, limits.targets),
            stamp: 0,
            steps: Steps::default(),
        }
    }

    pub(in crate::leader) fn digest(&self, digest: &mut Digest) {
        self.free_targets.digest(digest);
        self.free.digest(digest);
        let mut last = 0;
        while let Some(vmid) = self.by_vmid.next(last) {
            Vmid::new(vmid)
                .and_then(|to| self.find_target(to))
                .hash(digest);
            last = vmid;
        }
        digest.add_all(self.queue.iter().take(self.free.high_water() as usize));
        (
            self.queued_count,
            self.queued_peak,
            self.awaited_count,
            self.answers,
        )
            .hash(digest);
        self.stamp.hash(digest);
        self.outbox.digest(digest);
    }

    /// Returns the greatest number of signals that are queued one by one, and of targets.
    #[cfg(debug_assertions)]
    pub(in crate::leader) fn capacity(&self) -> u64 {
        (self.queue.len() as u64).wrapping_add(self.targets.len() as u64)
    }

    /// Returns the number of table entries that were visited.
    #[cfg(debug_assertions)]
    pub(in crate::leader) fn steps(&self) -> u64 {
        self.steps.get().wrapping_add(self.by_vmid.steps())
    }

    /// Returns true if all lists end, for entries that may be wrong.
    pub(in crate::leader) fn is_valid(&self) -> bool {
        let most = self.queue.len();
        let next = |slot: u32| self.queue.get(slot as usize).map(|queued| queued.next);
        let is_list = |first: u32| list_length(first, most, next).is_some();
        let is_right = |target: &TargetMember| is_list(target.first) && is_list(target.sent);
        self.free_targets.is_valid()
            && self.free.is_valid()
            && self.by_vmid.is_valid(self.targets.len())
            && self.outbox.is_valid()
            && self.targets.iter().all(is_right)
            && is_list(self.answers)
    }

    /// Returns the number of signals that are queued one by one, and the highest number so far.
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.queued_count, self.queued_peak)
    }

    /// Returns true if the member has answered every signal that the leader has sent to it.
    pub(crate) fn is_clear(&self, to: Vmid) -> bool {
        self.by_vmid.get(to.get()).is_none()
    }

    /// Returns true if a signal waits to be sent to the member.
    pub(crate) fn is_waiting(&self, to: Vmid) -> bool {
        self.find_target(to).is_some_and(TargetMember::is_waiting)
    }

    fn find_target(&self, to: Vmid) -> Option<&TargetMember> {
        self.targets.get(self.by_vmid.get(to.get())? as usize)
    }

    fn find_target_mut(&mut self, to: Vmid) -> Option<&mut TargetMember> {
        self.targets.get_mut(self.by_vmid.get(to.get())? as usize)
    }

    /// Returns the member's target; adds it if no signal is under way to the member.
    fn find_or_add_target(&mut self, to: Vmid, has_joined: bool) -> Option<&mut TargetMember> {
        if self.by_vmid.get(to.get()).is_none() {
            let slot = self.free_targets.alloc()?;
            self.by_vmid.insert(to.get(), slot);
            let target = self.targets.get_mut(slot as usize)?;
            target.reset(to.get(), has_joined);
        }
        self.find_target_mut(to)
    }

    /// Notes whether a signal for the member can be sent, and removes the target if no signal is under way to
    /// it. To be called after each change of the target.
    fn update_target(&mut self, to: Vmid) {
        let Some(slot) = self.by_vmid.get(to.get()) else {
            return;
        };
        if self
            .targets
            .get(slot as usize)
            .is_some_and(TargetMember::is_ready)
        {
            self.outbox.push(slot);
        } else {
            self.outbox.remove(slot);
        }
        let is_idle = self.targets.get(slot as usize).is_some_and(|target| {
            target.pending == 0
                && target.first == NONE
                && target.sent == NONE
                && target.unanswered == 0
        });
        if is_idle {
            self.by_vmid.remove(to.get());
            self.free_targets.free(slot);
        }
    }

    /// Records that the member's process has joined: the signals that wait for that can be sent.
    pub(in crate::leader) fn mark_joined(&mut self, to: Vmid) {
        if let Some(target) = self.find_target_mut(to) {
            target.has_joined = true;
        }
        self.update_target(to);
    }

    fn next_stamp(&mut self) -> u64 {
        self.stamp.increment();
        self.stamp
    }
}
