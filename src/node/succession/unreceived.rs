//! The frames of the former leader for members that have not rejoined go to the next heir, too: it can't compute them itself.
//!
//! They follow the state in the log, member by member, before the heir is named.

use super::leader_log::Log;
use crate::Vmid;
use crate::invariant::{Count, OrBroken};
use crate::leader::SentFrames;
use crate::node::{Node, PeerRef};
use crate::pal::Pal;
use crate::store::copy;
use crate::sync::Ordering;
use crate::wire::Message;

/// The bytes of frames in one record, and those before them: the VMID, whether it is the member's first record, and the
/// number of the counted messages before the frames.
const PART: usize = 1024;
const HEAD: usize = 16;

/// The bytes of a record beside its content: the head of a frame.
const FRAME_HEAD: usize = 32;

/// The members that are looked at in one turn of the worker.
const MEMBERS_PER_TURN: usize = 64;

/// The content of a record.
struct Record<'a> {
    to: Vmid,
    is_first: bool,
    base: u64,
    frames: &'a [u8],
}

impl<'a> Record<'a> {
    fn encode<'b>(&self, space: &'b mut [u8; HEAD + PART]) -> &'b [u8] {
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

    fn decode(bytes: &'a [u8]) -> Option<Record<'a>> {
        let (vmid, rest) = bytes.split_first_chunk()?;
        let (is_first, rest) = rest.split_first_chunk()?;
        let (base, frames) = rest.split_first_chunk()?;
        Some(Record {
            to: Vmid::new(u32::from_le_bytes(*vmid))?,
            is_first: u32::from_le_bytes(*is_first) != 0,
            base: u64::from_le_bytes(*base),
            frames,
        })
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// As the leader: appends to the log what members that have not rejoined have not received, as far as there is room.
    /// True if it was all.
    pub(super) fn hand_on_unreceived(&self, log: &Log<'m, P::Stream>) -> bool {
        let (Some(tables), Some(heir)) = (self.leading(), self.leadership.heir()) else {
            return true;
        };
        let is_awaited =
            |peer: PeerRef<'_, 'm, P::Stream>| peer.awaits_rejoin.load(Ordering::SeqCst);
        if log.handed_on.load(Ordering::SeqCst) == 0 && !self.peers.all().any(is_awaited) {
            log.handed_on.store(u32::MAX, Ordering::SeqCst);
        }
        for _ in 0..MEMBERS_PER_TURN {
            // Under both locks: each later frame is computed by the heir.
            let tables = tables.lock();
            let last = Vmid::new(log.handed_on.load(Ordering::SeqCst));
            let Some(member) = tables.next_member(last) else {
                return true;
            };
            let sent = heir.sent.lock();
            if self.peers.find(member).is_some_and(is_awaited)
                && let Some((base, frames)) = sent.as_ref().and_then(|sent| sent.kept(member))
            {
                let records = frames.len().checked_div(PART).or_broken(0).plus(1);
                let heads = records.checked_mul(HEAD + FRAME_HEAD);
                let room = frames.len().plus(heads.or_broken(usize::MAX));
                // Else it is lost to the next heir, as if this process had not had it.
                if room < log.half() {
                    if log.room() < room {
                        return false;
                    }
                    append(log, member, base, frames);
                }
            }
            log.handed_on.store(member.get(), Ordering::SeqCst);
        }
        // The rest in the next turn.
        self.wake();
        false
    }
}

fn append<S: crate::pal::Stream>(log: &Log<'_, S>, to: Vmid, base: u64, frames: &[u8]) {
    let mut left = frames;
    let mut is_first = true;
    while is_first || !left.is_empty() {
        let parts = left.split_at_checked(PART);
        let (frames, rest) = parts.map_or((left, &[][..]), |parts| parts);
        let record = Record {
            to,
            is_first,
            base,
            frames,
        };
        let mut space = [0; HEAD + PART];
        if !log.append(&Message::State(record.encode(&mut space))) {
            log.has_overflowed.store(true, Ordering::SeqCst);
            return;
        }
        is_first = false;
        left = rest;
    }
}

/// As the heir: takes what a record has. False if it is not as it must be.
pub(super) fn take_unreceived(sent: &mut SentFrames<'_>, bytes: &[u8]) -> bool {
    Record::decode(bytes).is_some_and(|record| {
        let base = record.is_first.then_some(record.base);
        sent.take_kept(record.to, base, record.frames)
    })
}
