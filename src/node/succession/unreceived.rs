//! The leader forwards the unreceived frames of each member to a new heir: those that were queued before the heir had the
//! state. The heir can't compute them itself.
//!
//! They follow the state in the log, member by member, before the leader names the heir: first the frames in the send
//! queues, then those of the previous leader for members that have not rejoined.

use super::frame_kinds::{is_answer_to_request, is_counted_from_leader};
use super::leader_log::Log;
use crate::Vmid;
use crate::invariant::{Count, OrBroken};
use crate::leader::{Leader, SentFrames};
use crate::node::{Node, PeerRef};
use crate::pal::{Pal, Stream};
use crate::store::copy;
use crate::sync::Ordering;
use crate::wire::{Message, whole_frames};

/// The bytes of frames in one record.
const PART: usize = 1024;

/// The bytes of a record before the frames: the VMID, whether it is the member's first record, and the number of counted
/// messages before the frames.
const HEADER: usize = 16;

/// The bytes of a record beside its content: the header of a frame.
const FRAME_HEADER: usize = 32;

/// The number of members whose frames are forwarded in one poll iteration.
const MEMBERS_PER_ITERATION: usize = 64;

/// The content of a record.
struct UnreceivedRecord<'a> {
    to: Vmid,
    is_first: bool,
    base: u64,
    frames: &'a [u8],
}

impl<'a> UnreceivedRecord<'a> {
    fn encode<'b>(&self, space: &'b mut [u8; HEADER + PART]) -> &'b [u8] {
        let vmid = self.to.get().to_le_bytes();
        let is_first = u32::from(self.is_first).to_le_bytes();
        let base = self.base.to_le_bytes();
        let mut place = 0_usize;
        for part in [&vmid[..], &is_first, &base, self.frames] {
            copy(space.get_mut(place..).or_broken(&mut []), part);
            place = place.plus(part.len());
        }
        space.get(..place).or_broken(&[])
    }

    fn decode(bytes: &'a [u8]) -> Option<UnreceivedRecord<'a>> {
        let (vmid, rest) = bytes.split_first_chunk()?;
        let (is_first, rest) = rest.split_first_chunk()?;
        let (base, frames) = rest.split_first_chunk()?;
        Some(UnreceivedRecord {
            to: Vmid::new(u32::from_le_bytes(*vmid))?,
            is_first: u32::from_le_bytes(*is_first) != 0,
            base: u64::from_le_bytes(*base),
            frames,
        })
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// As the leader: appends to the log the unreceived frames of members that have not rejoined, as far as there is room.
    /// Returns true if these were all.
    pub(super) fn forward_unreceived(&self, log: &Log<'m, P::Stream>) -> bool {
        let (Some(tables), Some(heir)) = (self.leading(), self.leadership.heir()) else {
            return true;
        };
        if log.forwarded_to.load(Ordering::SeqCst) == 0 && !self.awaits_members() {
            log.forwarded_to.store(u32::MAX, Ordering::SeqCst);
        }
        for _ in 0..MEMBERS_PER_ITERATION {
            // Under both locks, because the heir computes each frame that is queued later.
            let tables = tables.lock();
            let last = Vmid::new(log.forwarded_to.load(Ordering::SeqCst));
            let Some(member) = tables.next_member(last) else {
                return true;
            };
            let sent = heir.sent.lock();
            if self
                .peers
                .find(member)
                .is_some_and(|peer| peer.awaits_rejoin())
                && let Some((base, frames)) = sent.as_ref().and_then(|sent| sent.kept(member))
            {
                let room = room_for(frames.len());
                // The next heir does not get more frames than the log has room for: it leads as if this process had not had
                // them.
                if room < log.half() {
                    if log.room() < room {
                        return false;
                    }
                    let mut records = Records::new(log, member, base);
                    records.add(frames);
                    records.finish();
                }
            }
            log.forwarded_to.store(member.get(), Ordering::SeqCst);
        }
        // The next poll iteration forwards the rest.
        self.wake();
        false
    }

    /// As the leader that has just sent its state to the heir, under the lock of the tables: appends to the log the frames
    /// in the send queue of a member, which the state counts as given to the member. Returns false if that is not possible
    /// at present.
    pub(super) fn hand_over_queue(
        &self,
        log: &Log<'m, P::Stream>,
        tables: &Leader<'_>,
        peer: &PeerRef<'_, 'm, P::Stream>,
    ) -> bool {
        if peer.awaits_rejoin() {
            return false;
        }
        // A thread that handles a frame of the member may have applied its request, and may not have queued the answer yet.
        let (Some(_rx), Some(tx)) = (peer.rx.try_lock(), peer.tx.try_lock()) else {
            return false;
        };
        let queue = peer.queue.lock();
        let frames = || {
            let draining = kept_frames(tx.draining.frames());
            draining.chain(kept_frames(queue.filling.frames()))
        };
        let (length, counted) = frames().fold((0_usize, 0_u64), |(length, counted), frame| {
            (length.plus(frame.0.len()), counted.plus(frame.1.into()))
        });
        let given = tables.given(peer.vmid());
        let base = given.and_then(|given| given.checked_sub(counted));
        let base = base.filter(|_| log.has_room_beside_ops(room_for(length)));
        if let Some(base) = base
            && length > 0
        {
            let mut records = Records::new(log, peer.vmid(), base);
            frames().for_each(|(frame, _)| records.add(frame));
            records.finish();
        }
        self.unlock_tx(peer, tx, queue);
        base.is_some()
    }
}

/// Returns the bytes of the log that records with frames of that length take.
fn room_for(frames: usize) -> usize {
    let records = frames.checked_div(PART).or_broken(0).plus(1);
    let heads = records.checked_mul(HEADER + FRAME_HEADER);
    frames.plus(heads.or_broken(usize::MAX))
}

/// The records of one member, which are appended to the log as their parts are full.
struct Records<'l, 'm, S> {
    log: &'l Log<'m, S>,
    to: Vmid,
    base: u64,
    is_first: bool,
    part: [u8; PART],
    length: usize,
}

impl<'l, 'm, S: Stream> Records<'l, 'm, S> {
    fn new(log: &'l Log<'m, S>, to: Vmid, base: u64) -> Self {
        Records {
            log,
            to,
            base,
            is_first: true,
            part: [0; PART],
            length: 0,
        }
    }

    fn add(&mut self, frames: &[u8]) {
        let mut left = frames;
        while !left.is_empty() {
            let space = self.part.get_mut(self.length..).or_broken(&mut []);
            let parts = left.split_at_checked(space.len());
            let (now, later) = parts.unwrap_or((left, &[]));
            copy(space.get_mut(..now.len()).or_broken(&mut []), now);
            self.length = self.length.plus(now.len());
            left = later;
            if self.length == PART {
                self.append();
            }
        }
    }

    /// Appends the last record. The first one is there even without frames.
    fn finish(mut self) {
        if self.is_first || self.length > 0 {
            self.append();
        }
    }

    fn append(&mut self) {
        let record = UnreceivedRecord {
            to: self.to,
            is_first: self.is_first,
            base: self.base,
            frames: self.part.get(..self.length).or_broken(&[]),
        };
        let mut space = [0; HEADER + PART];
        if !self.log.append(&Message::State(record.encode(&mut space))) {
            self.log.has_overflowed.store(true, Ordering::SeqCst);
        }
        self.is_first = false;
        self.length = 0;
    }
}

/// Returns those of the frames that an heir keeps for a member, and whether each is counted.
fn kept_frames(frames: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    whole_frames(frames).filter_map(|(bytes, frame)| {
        let is_counted = is_counted_from_leader(frame.code, frame.seq);
        (is_counted || is_answer_to_request(frame.code, frame.seq)).then_some((bytes, is_counted))
    })
}

/// As the heir: keeps the frames of a record. Returns false if no correct leader writes this record.
pub(super) fn take_unreceived(sent: &mut SentFrames<'_>, bytes: &[u8]) -> bool {
    UnreceivedRecord::decode(bytes).is_some_and(|record| {
        let base = record.is_first.then_some(record.base);
        sent.take_kept(record.to, base, record.frames)
    })
}
