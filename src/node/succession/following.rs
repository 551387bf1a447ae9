//! A member that follows the succession of leaders: its stage, and where its messages go until a successor has taken
//! over.

use super::frame_kinds::{
    REJOIN_SEQ, WHO_LEADS_SEQ, is_counted_from_leader, is_for_leader, is_for_members,
    is_for_parent, is_of_leader,
};
use super::leader_liveness::LeaderLiveness;
use crate::Vmid;
use crate::counters::Refusal;
use crate::error::Error;
use crate::member::KeptFrames;
use crate::node::{Node, PeerRef};
use crate::pal::{Pal, Time};
use crate::store::{Arena, Buffer, Contended, Rank, SpinLock, total};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::wire::{Frame, Message};

/// The stage of a member with regard to its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(in crate::node) enum Stage {
    /// The member is connected with the leader, or was never.
    Led = 0,
    /// The leader is gone, and its heir has not announced that it leads.
    Orphaned = 1,
    /// The member has asked the new leader how many of its frames the old one has applied.
    Rejoining = 2,
    /// The member resends the frames that the old leader has not applied.
    Resending = 3,
    /// The member is the heir of a leader that is gone, and has not taken over yet.
    Candidate = 4,
}

/// The value of [`Following::announced_to`] when a new leader has announced itself to all members.
pub(super) const ALL_MEMBERS: u32 = u32::MAX;

/// The state of a member that follows the succession.
pub(in crate::node) struct Following<'m> {
    stage: AtomicU8,
    /// The leader follows the succession, too: it has said so with HELLO.
    pub(in crate::node) is_shared: AtomicBool,
    pub(super) kept: SpinLock<KeptFrames<'m>>,
    /// The number of counted messages that came from the leader.
    pub(super) received: AtomicU64,
    /// The previous leader, while there is none.
    pub(super) old: AtomicU32,
    /// The last leader that has ended.
    pub(super) ended: AtomicU32,
    /// The epoch of the leader that the member follows.
    pub(super) epoch: AtomicU32,
    /// The number of the list of heirs.
    pub(super) config: AtomicU32,
    /// The heir that can take over now; 0 for none.
    pub(super) heir: AtomicU32,
    /// A process that has announced that it leads; 0 for none.
    pub(super) announced_leader: AtomicU32,
    /// The epoch of that process; 0 if it is not known.
    pub(super) announced_epoch: AtomicU32,
    /// A leader has sent a frame to this process.
    pub(super) has_answer: AtomicBool,
    /// The leader had sent no frame when it ended: its successor may not know this process.
    pub(super) is_newcomer: AtomicBool,
    /// As a newcomer: the time at which it asks again who leads.
    pub(super) ask_at: AtomicU64,
    /// The time at which the leader was seen to end, while what it has written may still come; 0 for none.
    pub(super) end_seen: AtomicU64,
    /// The time at which the stage ends the wait for a leader.
    pub(super) until: AtomicU64,
    /// The time at which this process connects with the process that is to lead, if that has not connected with it,
    /// and no call waits for it; 0 if it has connected.
    pub(super) connect_at: AtomicU64,
    /// As a new leader: the last member to which this process has announced that it leads; [`ALL_MEMBERS`] after the last one.
    pub(super) announced_to: AtomicU32,
    /// As a new leader: the time at which the next members get the announcement at the latest.
    pub(super) announce_next_at: AtomicU64,
    /// As a new leader: the time at which the last member has rejoined; at first that at which it began to lead.
    pub(super) rejoined_at: AtomicU64,
    /// As a new leader: the number of members to which something is sent again.
    pub(super) resending: AtomicU32,
    /// As the heir: what it knows of the leader's liveness.
    pub(super) liveness: LeaderLiveness,
    /// Room for one frame of this process itself, for the worker.
    pub(super) scratch: SpinLock<Option<Buffer<'m>>>,
}

impl<'m> Following<'m> {
    pub(super) const fn bytes(frame_length: usize, waiters: usize) -> usize {
        total!(KeptFrames::bytes(frame_length, waiters), frame_length)
    }

    pub(in crate::node) fn new(
        arena: &mut Arena<'m>,
        contended: Contended,
        frame_length: usize,
        waiters: usize,
    ) -> Self {
        let kept = KeptFrames::new(arena, frame_length, waiters);
        Following {
            stage: AtomicU8::new(Stage::Led as u8),
            is_shared: AtomicBool::new(false),
            kept: SpinLock::new(Rank::KeptFrames, contended, kept),
            received: AtomicU64::new(0),
            old: AtomicU32::new(0),
            ended: AtomicU32::new(0),
            epoch: AtomicU32::new(1),
            config: AtomicU32::new(0),
            heir: AtomicU32::new(0),
            announced_leader: AtomicU32::new(0),
            announced_epoch: AtomicU32::new(0),
            has_answer: AtomicBool::new(false),
            is_newcomer: AtomicBool::new(false),
            ask_at: AtomicU64::new(0),
            end_seen: AtomicU64::new(0),
            until: AtomicU64::new(0),
            connect_at: AtomicU64::new(0),
            announced_to: AtomicU32::new(ALL_MEMBERS),
            announce_next_at: AtomicU64::new(0),
            rejoined_at: AtomicU64::new(0),
            resending: AtomicU32::new(0),
            liveness: LeaderLiveness::new(),
            scratch: SpinLock::new(
                Rank::KeptFrames,
                contended,
                Some(arena.alloc_buffer(frame_length)),
            ),
        }
    }

    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::SeqCst) {
            0 => Stage::Led,
            1 => Stage::Orphaned,
            2 => Stage::Rejoining,
            3 => Stage::Resending,
            _ => Stage::Candidate,
        }
    }

    /// Returns true if this process waits for a leader, or has announced to the members that it leads, but not to
    /// all yet.
    pub(super) fn is_in_succession(&self) -> bool {
        self.stage() != Stage::Led || self.announced_to.load(Ordering::SeqCst) != ALL_MEMBERS
    }

    pub(super) fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::SeqCst);
    }

    /// Returns the heir that can take over now.
    pub(super) fn heir(&self) -> Option<Vmid> {
        Vmid::new(self.heir.load(Ordering::SeqCst))
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// Returns the state of a member that follows the succession.
    #[inline]
    pub(in crate::node) fn following(&self) -> Option<&'m Following<'m>> {
        self.leadership.following().filter(|_| !self.leads())
    }

    /// Returns true if the leader has named an heir that can take over.
    pub(in crate::node) fn has_heir(&self) -> bool {
        self.following()
            .is_some_and(|following| following.heir().is_some())
    }

    /// Returns the epoch of the present leader; none while there is no leader.
    pub(in crate::node) fn current_epoch(&self) -> Option<u32> {
        let Some(following) = self.leadership.following() else {
            return Some(1);
        };
        let epoch = following.epoch.load(Ordering::SeqCst);
        (following.stage() == Stage::Led).then_some(epoch)
    }

    /// Returns true if the family has ended for this process: its leader is gone, and no other one
    /// follows.
    pub(in crate::node) fn has_lost_leader(&self) -> bool {
        self.leader_gone.load(Ordering::SeqCst)
    }

    /// Returns true if the leader is gone, and no other process has announced that it leads.
    pub(in crate::node) fn is_orphaned(&self) -> bool {
        let following = self.leadership.following();
        following.is_some_and(|following| following.stage() == Stage::Orphaned)
    }

    /// Returns the time at which the last wait for a leader was over at the latest.
    pub(in crate::node) fn succession_until(&self) -> Time {
        let following = self.leadership.following();
        following.map_or(Time(0), |following| {
            Time(following.until.load(Ordering::SeqCst))
        })
    }

    /// Returns true if this process follows the succession, or would if it did not lead.
    #[inline]
    pub(in crate::node) fn follows(&self) -> bool {
        self.leadership.following().is_some()
    }

    /// Returns true if a successor may come if the leader has ended.
    pub(in crate::node) fn awaits_successor(&self) -> bool {
        self.follows() && !self.has_lost_leader()
    }

    /// Returns true if a message is void: its sender led this process, and has ended. A process that has just joined
    /// may get the first stream of its leader only after that, and the successor sends again what was on it.
    pub(in crate::node) fn is_void(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        frame: &Frame<'_>,
    ) -> bool {
        let Some(following) = self.following() else {
            return false;
        };
        let from = peer.vmid();
        from.get() == following.ended.load(Ordering::SeqCst)
            && Some(from) != self.led_by()
            && (is_counted_from_leader(frame.code, frame.seq) || is_of_leader(frame.code))
    }

    /// Returns true if a message has to wait: this process is a leader that has resigned or whose log is full, or a new
    /// leader that still resends frames to the sender, or the heir, which does not lead yet.
    ///
    /// # Errors
    /// [`Refusal::WrongRole`] for a request to a new leader that the sender has not rejoined.
    pub(in crate::node) fn is_deferred(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        message: &Message<'_>,
    ) -> Result<bool, Refusal> {
        // The heir decides it, or must be able to learn of it.
        if self.is_resigning() || !self.has_log_room() {
            return Ok(true);
        }
        // A process that was started after the leader's end was noticed elsewhere joins this one, its heir, which has not
        // noticed it yet, or has not taken over.
        let is_early = !self.leads() && self.has_log() && Some(peer.vmid()) != self.led_by();
        if is_early && (is_for_leader(message) || matches!(message, Message::Hello(_))) {
            return Ok(true);
        }
        let awaits_rejoin = self.leads() && peer.awaits_rejoin();
        if !awaits_rejoin || !is_for_leader(message) {
            return Ok(false);
        }
        // The answer comes after what the member has not received of the old leader.
        if peer.rejoin.is_resending.load(Ordering::SeqCst) {
            Ok(true)
        } else {
            Err(Refusal::WrongRole)
        }
    }

    /// Counts a message of the leader, after it was handled.
    #[inline]
    pub(in crate::node) fn count_received(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        code: u8,
        seq: u64,
    ) {
        if let Some(following) = self.following()
            && Some(peer.vmid()) == self.led_by()
            && is_counted_from_leader(code, seq)
        {
            following.received.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Returns the process that a message for `dest` goes to: a message for a leader that is gone goes to the
    /// one that leads now.
    #[inline]
    pub(in crate::node) fn redirected(&self, dest: Vmid, message: &Message<'_>) -> Vmid {
        if self.follows() {
            self.redirected_to_leader(dest, message)
        } else {
            dest
        }
    }

    #[inline(never)]
    fn redirected_to_leader(&self, dest: Vmid, message: &Message<'_>) -> Vmid {
        let leader = self.leader_vmid();
        let is_as_leader = self.leads() && is_for_members(message);
        let is_for_others = is_for_parent(message) || is_as_leader;
        if dest != leader && is_for_leader(message) && !is_for_others {
            leader
        } else {
            dest
        }
    }

    /// As a member: handles an answer, which may be one about the succession. Returns false if it is for a
    /// waiter.
    #[inline(never)]
    pub(in crate::node) fn handle_answer_as_follower(
        &self,
        following: &Following<'m>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        payload: &[u8],
    ) -> Result<bool, Refusal> {
        match seq {
            REJOIN_SEQ => self.handle_rejoin_answer(following, peer, payload)?,
            WHO_LEADS_SEQ => self.handle_who_leads_answer(following, peer, payload)?,
            _ => {
                self.note_answer(following, peer, seq);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns true if a call to `dest` that has failed is to be made again, since another process leads by
    /// now, or will.
    pub(in crate::node) fn is_moved(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        error: Error,
    ) -> bool {
        let Some(following) = self.leadership.following() else {
            return false;
        };
        if !is_for_leader(message) || is_for_parent(message) {
            return false;
        }
        if self.has_lost_leader() {
            // The call failed just before the family ended: made again, it fails for that reason.
            return error == Error::NoSuchProcess;
        }
        matches!(error, Error::LeaderGone | Error::NoSuchProcess)
            && (dest != self.leader_vmid() || !self.leads() && following.stage() != Stage::Led)
    }
}
