//! A member that follows the succession of leaders: it keeps what it sent to the leader, and counts what it
//! got, until a successor has taken over.

use super::watch::Watch;
use crate::Vmid;
use crate::counters::Refusal;
use crate::error::{Error, Resource};
use crate::invariant::{Count, OrBroken};
use crate::leader::{MOST_UNANSWERED, Op, Signals};
use crate::member::KeptFrames;
use crate::node::connection::Queue;
use crate::node::{ANSWER_RESERVE, Node, PeerRef};
use crate::pal::{Pal, Time};
use crate::store::{Arena, Buffer, Contended, Rank, SpinLock, SpinLockGuard, total};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::wire::{Answer, Frame, KillTarget, Message, SyncCode, codes};

/// The stage of a member with regard to its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(in crate::node) enum Stage {
    /// It is connected with the leader, or was never.
    Led = 0,
    /// The leader is gone, and its heir has not announced that it leads.
    Orphaned = 1,
    /// It has asked the new leader what the old one has taken.
    Rejoining = 2,
    /// It sends again what the old leader has not taken.
    Resending = 3,
    /// It is the heir of a leader that is gone, and has not taken over yet.
    Candidate = 4,
}

/// The new leader has announced itself to all members.
pub(super) const WALKED: u32 = u32::MAX;

/// The state of a member that follows the succession.
pub(in crate::node) struct Following<'m> {
    stage: AtomicU8,
    /// The leader follows the succession, too: it has said so with HELLO.
    pub(in crate::node) is_shared: AtomicBool,
    pub(super) kept: SpinLock<KeptFrames<'m>>,
    /// The number of counted messages that came from the leader.
    pub(super) received: AtomicU64,
    /// The leader before, while there is none.
    pub(super) old: AtomicU32,
    /// The last leader that has ended.
    pub(super) ended: AtomicU32,
    /// The number of the reign.
    pub(super) epoch: AtomicU32,
    /// The number of the list of heirs.
    pub(super) config: AtomicU32,
    /// The heir that can take over now; 0 for none.
    pub(super) heir: AtomicU32,
    /// A process that has announced that it leads; 0 for none.
    pub(super) announced: AtomicU32,
    /// The number of its reign; 0 if that is not known.
    pub(super) announced_epoch: AtomicU32,
    /// A frame of a leader has come.
    pub(super) has_answer: AtomicBool,
    /// None had come when the leader was gone: its successor may know nothing of this process.
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
    /// As a new leader: the last member to which this process has announced that it leads; [`WALKED`] after the last one.
    pub(super) walked: AtomicU32,
    /// As a new leader: the time at which the next members get the announcement at the latest.
    pub(super) walk_at: AtomicU64,
    /// As a new leader: the time at which the last member has rejoined; at first that at which it began to lead.
    pub(super) rejoined_at: AtomicU64,
    /// As a new leader: the number of members to which something is sent again.
    pub(super) resending: AtomicU32,
    /// As the heir.
    pub(super) watch: Watch,
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
            announced: AtomicU32::new(0),
            announced_epoch: AtomicU32::new(0),
            has_answer: AtomicBool::new(false),
            is_newcomer: AtomicBool::new(false),
            ask_at: AtomicU64::new(0),
            end_seen: AtomicU64::new(0),
            until: AtomicU64::new(0),
            connect_at: AtomicU64::new(0),
            walked: AtomicU32::new(WALKED),
            walk_at: AtomicU64::new(0),
            rejoined_at: AtomicU64::new(0),
            resending: AtomicU32::new(0),
            watch: Watch::new(),
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

    /// Whether this process waits for a leader, or has announced to the members that it leads, but not to all yet.
    pub(super) fn is_in_succession(&self) -> bool {
        self.stage() != Stage::Led || self.walked.load(Ordering::SeqCst) != WALKED
    }

    pub(super) fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::SeqCst);
    }

    /// Returns the heir that can take over now.
    pub(super) fn heir(&self) -> Option<Vmid> {
        Vmid::new(self.heir.load(Ordering::SeqCst))
    }
}

/// Whether the leader executes the message as the leader, not as a process.
pub(in crate::node) fn is_for_leader(message: &Message<'_>) -> bool {
    is_look_up(message) || is_counted(message)
}

fn is_look_up(message: &Message<'_>) -> bool {
    matches!(
        message,
        Message::GetIdOwner(_) | Message::ProcessQuery(_) | Message::ProcessEnd(_)
    )
}

/// Whether the message changes the leader's state, so that its frame is counted.
fn is_counted(message: &Message<'_>) -> bool {
    match message {
        Message::PidKill(kill) => kill.target == KillTarget::All,
        Message::Sync(code, _) => code.is_for_server(),
        Message::SyncNote { .. } => true,
        message => Op::is_change(message),
    }
}

/// Whether a message goes to other processes than the leader, too.
fn is_for_parent(message: &Message<'_>) -> bool {
    matches!(message, Message::ChildExit(_) | Message::PidKill(_))
}

/// Whether a frame of the leader is a counted message: one of its outbox that is no answer.
fn is_counted_from_leader(code: u8, seq: u64) -> bool {
    match code {
        codes::PID_KILL => Signals::is_forwarded(seq),
        codes::PID_KILL_PASSED
        | codes::CHILDEXIT
        | codes::PROCESS_NOTE
        | codes::FILE_GIVEN
        | codes::FILE_LOCK_RECALL
        | codes::SYNC_NOTE => true,
        code => SyncCode::ALL
            .iter()
            .any(|sync| sync.number() == code && !sync.is_for_server()),
    }
}

/// Whether only a leader sends frames of this kind to a member, and they are not counted.
const fn is_of_leader(code: u8) -> bool {
    matches!(
        code,
        codes::HEIRS | codes::DISMISS | codes::LOG | codes::MARK | codes::HEARTBEAT
    )
}

/// The bytes for answers that requests leave free among the kept frames. At most [`MOST_UNANSWERED`] answers come until a
/// MARK finds room in the send queue, since none of them arrives meanwhile, as many until it is answered, and as many until
/// the next one is.
const ANSWERS_KEPT: usize = 4 * MOST_UNANSWERED as usize * Answer::DONE.length();

/// How a frame to the leader is handled.
#[derive(Clone, Copy)]
pub(in crate::node) struct Kept<'f, 'm> {
    following: &'f Following<'m>,
    leader: &'f AtomicU32,
    to: Vmid,
    is_counted: bool,
    is_answer: bool,
    seq: u64,
}

/// The result of an attempt to put a frame to the leader into a queue.
pub(in crate::node) enum Put<'f, 'm> {
    /// It is to be queued, and then recorded.
    Queue(Keeping<'f, 'm>),
    /// It is kept, and is sent when there is a leader.
    Kept,
}

/// The kept frames, locked until a frame is queued.
pub(in crate::node) struct Keeping<'f, 'm> {
    kept: SpinLockGuard<'f, KeptFrames<'m>>,
    is_counted: bool,
    seq: u64,
}

impl Keeping<'_, '_> {
    /// Records that the frame is the last one in the queue. True if the leader is to be asked for a MARK
    /// ([`Node::mark_if_due`]).
    #[inline]
    pub(in crate::node) fn record(mut self, queue: &Queue<'_>, length: usize) -> bool {
        if self.is_counted {
            let queued = queue.filling.unsent();
            let start = queued.len().minus(length);
            self.kept.keep(queued.get(start..).or_broken(&[]));
        }
        if self.seq != 0 {
            self.kept.note_request(self.seq, self.is_counted);
        }
        self.kept.mark_due().is_some()
    }
}

impl<'f, 'm> Kept<'f, 'm> {
    /// Decides on a frame before it is put into the queue of the leader, which the caller has locked.
    ///
    /// # Errors
    /// [`Error::Full`] if there is no room to keep the frame, or, for a look-up, if there is no leader at
    /// present.
    /// [`Error::NoSuchProcess`] if another process leads by now.
    pub(in crate::node) fn check(
        self,
        length: usize,
        is_closed: bool,
        encode: impl FnOnce(&mut KeptFrames<'m>) -> bool,
    ) -> Result<Put<'f, 'm>, Error> {
        let full = Error::Full(Resource::SendQueue);
        let mut kept = self.following.kept.lock();
        // The leader changes under this lock, and then the waiters of the frames that are kept follow.
        if self.leader.load(Ordering::SeqCst) != self.to.get() {
            return Err(Error::NoSuchProcess);
        }
        // An answer finds room, since requests leave some.
        let reserve = if self.is_answer { 0 } else { ANSWERS_KEPT };
        if self.is_counted && !kept.has_room(length.plus(reserve)) {
            return Err(full);
        }
        if self.following.stage() == Stage::Led && !is_closed {
            return Ok(Put::Queue(Keeping {
                kept,
                is_counted: self.is_counted,
                seq: self.seq,
            }));
        }
        if !self.is_counted || !encode(&mut kept) {
            return Err(full);
        }
        if self.seq != 0 {
            kept.note_request(self.seq, true);
        }
        Ok(Put::Kept)
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// Returns the state of a member that follows the succession.
    #[inline]
    pub(in crate::node) fn following(&self) -> Option<&'m Following<'m>> {
        self.leadership.following().filter(|_| !self.leads())
    }

    /// Whether the leader has named an heir that can take over.
    pub(in crate::node) fn has_heir(&self) -> bool {
        self.following()
            .is_some_and(|following| following.heir().is_some())
    }

    /// Returns the number of the reign; none while there is no leader.
    pub(in crate::node) fn reign(&self) -> Option<u32> {
        let Some(following) = self.leadership.following() else {
            return Some(1);
        };
        let epoch = following.epoch.load(Ordering::SeqCst);
        (following.stage() == Stage::Led).then_some(epoch)
    }

    /// Whether the family has ended for this process: its leader is gone, and no other one follows.
    pub(in crate::node) fn has_lost_leader(&self) -> bool {
        self.leader_gone.load(Ordering::SeqCst)
    }

    /// Whether the leader is gone, and no other process has announced that it leads.
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

    /// Whether this process follows the succession, or would if it did not lead.
    #[inline]
    pub(in crate::node) fn follows(&self) -> bool {
        self.leadership.following().is_some()
    }

    /// Whether a successor may come if the leader has ended.
    pub(in crate::node) fn awaits_successor(&self) -> bool {
        self.follows() && !self.has_lost_leader()
    }

    /// Whether a message is void: its sender led this process, and has ended. A process that has just joined may get the
    /// first stream of its leader only after that, and the successor sends again what was on it.
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

    /// Whether a message has to wait: the leader has resigned, its log is full, a member that rejoins comes first, or
    /// this process is the heir and is to lead.
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
        let awaits_rejoin = self.leads() && peer.awaits_rejoin.load(Ordering::SeqCst);
        if !awaits_rejoin || !is_for_leader(message) {
            return Ok(false);
        }
        // The answer comes after what the member has not received of the old leader.
        if peer.is_resending.load(Ordering::SeqCst) {
            Ok(true)
        } else {
            Err(Refusal::WrongRole)
        }
    }

    /// Returns how a message to that process is kept: `None` if it is none for the leader, or this process
    /// does not follow the succession.
    #[inline(never)]
    pub(in crate::node) fn kept(
        &self,
        to: Vmid,
        seq: u64,
        message: &Message<'_>,
    ) -> Option<Kept<'_, 'm>> {
        let following = self.leadership.following()?;
        (Some(to) == self.led_by() && is_for_leader(message)).then(|| Kept {
            following,
            leader: &self.leadership.leader,
            to,
            is_counted: is_counted(message),
            is_answer: false,
            seq,
        })
    }

    /// As [`Node::kept`], of an answer.
    #[inline(never)]
    pub(in crate::node) fn kept_answer(&self, to: Vmid, seq: u64) -> Option<Kept<'_, 'm>> {
        let following = self.leadership.following()?;
        (Some(to) == self.led_by() && Signals::is_forwarded(seq)).then_some(Kept {
            following,
            leader: &self.leadership.leader,
            to,
            is_counted: true,
            is_answer: true,
            seq: 0,
        })
    }

    /// Records that an answer of the leader came: the frames before its request have arrived.
    pub(in crate::node) fn note_answer(&self, peer: &PeerRef<'_, 'm, P::Stream>, seq: u64) {
        if let Some(following) = self.following()
            && Some(peer.vmid()) == self.led_by()
        {
            following.kept.lock().on_answer(seq);
            self.notify_kept_room(peer);
        }
    }

    /// Wakes the calls that wait for room to keep their frames.
    pub(super) fn notify_kept_room(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        if peer.room_wanted.load(Ordering::SeqCst) && peer.room_wanted.swap(false, Ordering::SeqCst)
        {
            self.waiters.wake_for_room(peer.vmid());
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

    /// Asks the leader to confirm what it has taken, when half of the room for kept frames is full. True if that was
    /// queued.
    #[cold]
    #[inline(never)]
    pub(in crate::node) fn mark_if_due(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> bool {
        let Some(following) = self.following() else {
            return false;
        };
        if !following.is_shared.load(Ordering::SeqCst) || following.stage() != Stage::Led {
            return false;
        }
        Self::ask_for_mark(following, peer, KeptFrames::mark_due)
    }

    /// Queues a MARK with the number that `due` returns, if there is one and room for it. True if it was queued.
    pub(super) fn ask_for_mark(
        following: &Following<'m>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        due: fn(&KeptFrames<'m>) -> Option<u64>,
    ) -> bool {
        let mut queue = peer.queue.lock();
        let mut kept = following.kept.lock();
        let Some(number) = due(&kept) else {
            return false;
        };
        let mark = Message::Mark(number);
        let is_queued = !queue.closed
            && queue.room() >= mark.length().plus(ANSWER_RESERVE)
            && queue.filling.push(0, &mark).is_ok();
        if is_queued {
            queue.record_push();
            kept.record_mark(number);
        }
        is_queued
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
        if dest != leader && is_for_leader(message) && !is_for_parent(message) {
            leader
        } else {
            dest
        }
    }

    /// Whether a call to `dest` that has failed is to be made again, since another process leads by now, or
    /// will.
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
            // It failed just before the family ended: made again, it fails for that reason.
            return error == Error::NoSuchProcess;
        }
        matches!(error, Error::LeaderGone | Error::NoSuchProcess)
            && (dest != self.leader_vmid() || !self.leads() && following.stage() != Stage::Led)
    }
}

/// Encodes a frame into the kept ones. False if it can't be encoded.
pub(in crate::node) fn keep_message(
    kept: &mut KeptFrames<'_>,
    seq: u64,
    message: &Message<'_>,
) -> bool {
    kept.keep_with(message.length(), |buffer| message.encode(seq, buffer))
}

/// As [`keep_message`], of an answer.
pub(in crate::node) fn keep_answer(
    kept: &mut KeptFrames<'_>,
    seq: u64,
    answer: &Answer<'_>,
) -> bool {
    kept.keep_with(answer.length(), |buffer| answer.encode(seq, buffer))
}
