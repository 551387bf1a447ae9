//! The frames that a leader has queued for its members: an heir computes them, so that it can send again what
//! a member has not received when the leader dies.
//!
//! They are the answers to counted requests, and the counted messages: those of the outbox that are no
//! answers, and the refusals of messages to the server of shared values. Of each member the last ones are
//! kept, at least as many as a send queue holds: what the leader had not written is among them.

use super::op::{Op, Outcome};
use super::{Leader, Outgoing, OutgoingId, outgoing_frame};
use crate::Vmid;
use crate::invariant::{Count, OrBroken};
use crate::shared_state::RequestError;
use crate::store::{
    Arena, Buffer, SlotAllocator, SortedMap, Table, bytes_for, copy, memory_sum, move_to_front,
};
use crate::wire::{
    Answer, Message, Sync, SyncCode, SyncNote, SyncState, TooSmall, codes, whole_frames,
};

/// The frames of one member.
struct MemberFrames<'m> {
    bytes: Buffer<'m>,
    /// `start..end` are the frames.
    start: usize,
    end: usize,
    /// The number of the counted messages before the first frame.
    base: u64,
    /// The length of a send queue: so many bytes of the last frames are kept.
    queue: usize,
}

/// The frames of all members.
pub struct SentFrames<'m> {
    members: Table<'m, MemberFrames<'m>>,
    slots: SlotAllocator<'m>,
    by_vmid: SortedMap<'m>,
}

impl MemberFrames<'_> {
    fn push(
        &mut self,
        length: usize,
        is_counted: bool,
        encode: impl FnOnce(&mut [u8]) -> Result<usize, TooSmall>,
    ) {
        if self.end.plus(length) > self.bytes.capacity() || length > self.queue {
            self.make_room(length);
        }
        if length > self.queue {
            // No queue has room for it, so it was not queued. It counts all the same.
            self.base = self.base.plus(is_counted.into());
            return;
        }
        let after = self.end.plus(length);
        let space = self.bytes.prefix_mut(after).get_mut(self.end..);
        if encode(space.or_broken(&mut [])) == Ok(length) {
            self.end = after;
        }
    }

    /// Drops the first frames that are not needed any more when one of that length is added, and moves the others
    /// to the front: seldom, since the buffer is longer than a queue.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, length: usize) {
        while self.end.minus(self.start).plus(length) > self.queue {
            let Some((first, is_message)) = self.frames().next() else {
                break;
            };
            self.start = self.start.plus(first.len());
            self.base = self.base.plus(is_message.into());
        }
        move_to_front(self.bytes.initialized_mut(), self.start, self.end);
        self.end = self.end.minus(self.start);
        self.start = 0;
    }

    /// Returns the bytes of the frames.
    fn kept(&self) -> &[u8] {
        let kept = self.bytes.initialized().get(self.start..self.end);
        kept.or_broken(&[])
    }

    /// Returns the frames, and whether each is a counted message.
    fn frames(&self) -> impl Iterator<Item = (&[u8], bool)> {
        whole_frames(self.kept()).map(|(bytes, frame)| (bytes, frame.code != codes::RESP))
    }

    fn clear(&mut self, base: u64) {
        (self.start, self.end, self.base) = (0, 0, base);
    }
}

impl<'m> SentFrames<'m> {
    /// Returns the length of a member's buffer, for send queues of that length: what exceeds that is the number of
    /// bytes that come until the others are moved.
    const fn buffer(queue: usize) -> usize {
        memory_sum!(queue, queue / 8)
    }

    /// Returns the memory for so many members with send queues of that length, in bytes.
    pub const fn bytes(members: usize, queue: usize) -> usize {
        let length = SentFrames::buffer(queue);
        memory_sum!(
            bytes_for::<MemberFrames<'m>>(members),
            SlotAllocator::bytes(members),
            SortedMap::bytes(members),
            members.saturating_mul(length)
        )
    }

    /// Makes room for so many members, in memory from `arena`.
    pub fn new(arena: &mut Arena<'m>, members: usize, queue: usize) -> Self {
        let length = SentFrames::buffer(queue);
        let mut buffers = arena.split_off(members.saturating_mul(length));
        SentFrames {
            members: arena.alloc_table(members, |_| MemberFrames {
                bytes: buffers.alloc_buffer(length),
                start: 0,
                end: 0,
                base: 0,
                queue,
            }),
            slots: SlotAllocator::new(arena, members),
            by_vmid: SortedMap::new(arena, members),
        }
    }

    /// Begins with a leader that has just got its state.
    pub fn begin(&mut self, leader: &Leader<'_>) {
        while let Some(vmid) = self.by_vmid.next(0) {
            self.remove(vmid);
        }
        let mut last = None;
        while let Some(member) = leader.next_member(last) {
            self.add(member, leader.given(member).or_broken(0));
            last = Some(member);
        }
    }

    fn add(&mut self, vmid: Vmid, base: u64) {
        if self.by_vmid.get(vmid.get()).is_some() {
            return;
        }
        let Some(slot) = self.slots.alloc() else {
            return;
        };
        self.by_vmid.insert(vmid.get(), slot);
        if let Some(member) = self.members.get_mut(slot as usize) {
            member.clear(base);
        }
    }

    fn remove(&mut self, vmid: u32) {
        if let Some(slot) = self.by_vmid.get(vmid) {
            self.by_vmid.remove(vmid);
            self.slots.free(slot);
        }
    }

    fn find(&self, vmid: Vmid) -> Option<&MemberFrames<'m>> {
        self.members.get(self.by_vmid.get(vmid.get())? as usize)
    }

    fn find_mut(&mut self, vmid: Vmid) -> Option<&mut MemberFrames<'m>> {
        self.members.get_mut(self.by_vmid.get(vmid.get())? as usize)
    }

    /// Keeps the message that an operation records as queued: the caller applies the operation afterwards.
    pub fn before_op(&mut self, leader: &Leader<'_>, op: &Op<'_>) {
        let Op::Transmitted { id, is_extended } = *op else {
            return;
        };
        let next = match id {
            OutgoingId::FileNotice(to, _) => {
                leader.poll_file_notice(to).filter(|next| next.id == id)
            }
            _ => None,
        };
        let next = next.or_else(|| leader.poll_transmit().filter(|next| next.id == id));
        if let Some(next) = next {
            self.keep(&next, is_extended);
        }
    }

    fn keep(&mut self, outgoing: &Outgoing<'_>, is_extended: bool) {
        if let super::Content::Answer(seq, answer) = outgoing.content {
            self.push_answer(outgoing.to, seq, &answer);
        } else if let Some((seq, message)) = outgoing_frame(outgoing, is_extended) {
            self.push_message(outgoing.to, seq, &message);
        }
    }

    /// Keeps the answer of an operation that was applied.
    pub fn after_op(&mut self, leader: &Leader<'_>, op: &Op<'_>, outcome: &Outcome) {
        match (*op, *outcome) {
            (Op::Connected(vmid), _) => self.add(vmid, leader.given(vmid).or_broken(0)),
            (Op::Left(vmid), _) => self.remove(vmid.get()),
            (
                Op::Request { from, seq, .. }
                | Op::SignalAll { from, seq, .. }
                | Op::SignalAllRefused { from, seq, .. },
                Outcome::Answer(answer),
            ) if seq != 0 => self.push_answer(from, seq, &answer),
            (Op::Sync { from, sync, .. }, Outcome::Sync(Err(error))) => {
                self.push_refusal(from, sync.id, error);
            }
            (Op::SyncRefused { from, id, .. }, Outcome::Sync(Err(error))) => {
                self.push_refusal(from, id, error);
            }
            _ => {}
        }
    }

    fn push_refusal(&mut self, to: Vmid, id: u64, error: RequestError) {
        let closed = Sync {
            id,
            state: SyncState::Invalid,
            data: &[],
        };
        let note = SyncNote::NoRoom;
        match error {
            RequestError::NoRoom => self.push_message(to, 0, &Message::SyncNote { id, note }),
            RequestError::Closed => {
                let message = Message::Sync(SyncCode::ConfirmClose, closed);
                self.push_message(to, 0, &message);
            }
            RequestError::ProtocolViolation => {}
        }
    }

    /// Keeps an answer for the member.
    pub fn push_answer(&mut self, to: Vmid, seq: u64, answer: &Answer<'_>) {
        if let Some(member) = self.find_mut(to) {
            member.push(answer.length(), false, |space| answer.encode(seq, space));
        }
    }

    /// Keeps a counted message for the member.
    pub fn push_message(&mut self, to: Vmid, seq: u64, message: &Message<'_>) {
        if let Some(member) = self.find_mut(to) {
            member.push(message.length(), true, |space| message.encode(seq, space));
        }
    }

    /// Returns true if no frame is dropped for a message of that length.
    pub fn has_room(&self, vmid: Vmid, length: usize) -> bool {
        let has_room = |member: &MemberFrames<'_>| {
            let kept = member.end.minus(member.start);
            length > member.queue || kept.plus(length) <= member.queue
        };
        self.find(vmid).is_none_or(has_room)
    }

    /// Returns true if every frame is kept that a member still needs after so many counted messages. A member that has
    /// received more than the leader had queued for it, as far as is known here, is not covered.
    pub fn covers(&self, vmid: Vmid, received: u64) -> bool {
        let Some(member) = self.find(vmid) else {
            return false;
        };
        let kept = member.frames().filter(|(_, is_message)| *is_message);
        let missing = received.checked_sub(member.base);
        missing.is_some_and(|missing| missing <= kept.count() as u64)
    }

    /// Returns the frames that are kept for the member, and the number of the counted messages before them.
    pub fn kept(&self, vmid: Vmid) -> Option<(u64, &[u8])> {
        let member = self.find(vmid)?;
        Some((member.base, member.kept()))
    }

    /// Keeps frames that another process has kept for the member, instead of those here if there is a `base`, else
    /// behind them. Returns false if there is no room, or no such member.
    pub fn take_kept(&mut self, vmid: Vmid, base: Option<u64>, frames: &[u8]) -> bool {
        let Some(member) = self.find_mut(vmid) else {
            return false;
        };
        if let Some(base) = base {
            member.clear(base);
        }
        let after = member.end.plus(frames.len());
        if after > member.bytes.capacity() {
            return false;
        }
        copy(
            member
                .bytes
                .prefix_mut(after)
                .get_mut(member.end..)
                .or_broken(&mut []),
            frames,
        );
        member.end = after;
        true
    }

    /// Calls `act` with each frame after the member's counted message of that number, but not with the first
    /// `skip` of them, until it returns false. Returns how many it has accepted.
    pub fn for_each_after(
        &self,
        vmid: Vmid,
        received: u64,
        skip: usize,
        mut act: impl FnMut(&[u8]) -> bool,
    ) -> usize {
        let Some(member) = self.find(vmid) else {
            return 0;
        };
        let mut number = member.base;
        let (mut skip, mut count) = (skip, 0_usize);
        for (frame, is_message) in member.frames() {
            let is_received = number < received;
            number = number.plus(is_message.into());
            if is_received {
                continue;
            }
            if let Some(left) = skip.checked_sub(1) {
                skip = left;
                continue;
            }
            if !act(frame) {
                break;
            }
            count.increment();
        }
        count
    }
}

#[cfg(test)]
mod tests;
