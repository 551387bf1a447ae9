//! The frames that a leader has queued for its members: an heir computes them, so that it can send again what
//! a member has not received when the leader dies.
//!
//! They are the answers to counted requests, and the counted messages: those of the outbox that are no
//! answers, and the refusals of messages to the server of shared values. Of each member the last ones are
//! kept, as many as a send queue holds: what the leader had not written is among them.

use super::op::{Op, Outcome};
use super::{Leader, Outgoing, OutgoingId, outgoing_frame};
use crate::Vmid;
use crate::invariant::{Count, OrBroken};
use crate::shared_state::RequestError;
use crate::store::{
    Arena, Buffer, SlotAllocator, SortedMap, Table, bytes_for, move_to_front, total,
};
use crate::wire::{Answer, Message, Sync, SyncCode, SyncNote, SyncState, TooSmall, codes};

/// The length of the size with which a frame begins, and the place of its code.
const SIZE: usize = size_of::<u64>();
const CODE: usize = 16;

/// The frames of one member.
struct Sent<'m> {
    bytes: Buffer<'m>,
    /// `start..end` are the frames.
    start: usize,
    end: usize,
    /// The number of the counted messages before the first frame.
    base: u64,
}

/// The frames of all members.
pub(crate) struct SentFrames<'m> {
    members: Table<'m, Sent<'m>>,
    slots: SlotAllocator<'m>,
    by_vmid: SortedMap<'m>,
}

impl Sent<'_> {
    fn push(
        &mut self,
        length: usize,
        is_counted: bool,
        encode: impl FnOnce(&mut [u8]) -> Result<usize, TooSmall>,
    ) {
        while self.end.minus(self.start).plus(length) > self.bytes.capacity() {
            let (first, is_message) = frame_at(&self.bytes, self.start, self.end);
            if first.is_empty() {
                // It is longer than any queue, so it was not queued. It counts all the same.
                self.base = self.base.plus(is_counted.into());
                return;
            }
            self.start = self.start.plus(first.len());
            self.base = self.base.plus(is_message.into());
        }
        if self.end.plus(length) > self.bytes.capacity() {
            move_to_front(self.bytes.initialized_mut(), self.start, self.end);
            self.end = self.end.minus(self.start);
            self.start = 0;
        }
        let after = self.end.plus(length);
        let space = self.bytes.prefix_mut(after).get_mut(self.end..);
        if encode(space.or_broken(&mut [])) == Ok(length) {
            self.end = after;
        }
    }

    fn clear(&mut self, base: u64) {
        (self.start, self.end, self.base) = (0, 0, base);
    }
}

/// Returns the frame at that place, empty if there is none, and whether it is a counted message.
fn frame_at<'a>(bytes: &'a Buffer<'_>, place: usize, end: usize) -> (&'a [u8], bool) {
    let frames = bytes.initialized().get(place..end).or_broken(&[]);
    let frame = frames
        .first_chunk::<SIZE>()
        .and_then(|size| usize::try_from(u64::from_le_bytes(*size)).ok())
        .and_then(|size| frames.get(..size));
    let Some(frame) = frame else {
        return (&[], false);
    };
    (frame, frame.get(CODE) != Some(&codes::RESP))
}

impl<'m> SentFrames<'m> {
    pub(crate) const fn bytes(members: usize, length: usize) -> usize {
        total!(
            bytes_for::<Sent<'m>>(members),
            SlotAllocator::bytes(members),
            SortedMap::bytes(members),
            members.saturating_mul(length)
        )
    }

    pub(crate) fn new(arena: &mut Arena<'m>, members: usize, length: usize) -> Self {
        let mut buffers = arena.split_off(members.saturating_mul(length));
        SentFrames {
            members: arena.alloc_table(members, |_| Sent {
                bytes: buffers.alloc_buffer(length),
                start: 0,
                end: 0,
                base: 0,
            }),
            slots: SlotAllocator::new(arena, members),
            by_vmid: SortedMap::new(arena, members),
        }
    }

    /// Begins with a leader that has just got its state.
    pub(crate) fn begin(&mut self, leader: &Leader<'_>) {
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

    fn find(&self, vmid: Vmid) -> Option<&Sent<'m>> {
        self.members.get(self.by_vmid.get(vmid.get())? as usize)
    }

    fn find_mut(&mut self, vmid: Vmid) -> Option<&mut Sent<'m>> {
        self.members.get_mut(self.by_vmid.get(vmid.get())? as usize)
    }

    /// Before an operation is applied: keeps the message that it records as queued.
    pub(crate) fn on_op(&mut self, leader: &Leader<'_>, op: &Op<'_>) {
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

    /// After an operation was applied: keeps its answer.
    pub(crate) fn after_op(&mut self, leader: &Leader<'_>, op: &Op<'_>, outcome: &Outcome) {
        match (*op, *outcome) {
            (Op::Connected(vmid), _) => self.add(vmid, leader.given(vmid).or_broken(0)),
            (Op::Left(vmid), _) => self.remove(vmid.get()),
            (
                Op::Request { from, seq, .. } | Op::SignalledAll { from, seq, .. },
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
    pub(crate) fn push_answer(&mut self, to: Vmid, seq: u64, answer: &Answer<'_>) {
        if let Some(member) = self.find_mut(to) {
            member.push(answer.length(), false, |space| answer.encode(seq, space));
        }
    }

    /// Keeps a counted message for the member.
    pub(crate) fn push_message(&mut self, to: Vmid, seq: u64, message: &Message<'_>) {
        if let Some(member) = self.find_mut(to) {
            member.push(message.length(), true, |space| message.encode(seq, space));
        }
    }

    /// Whether all is kept that a member needs which has received that many counted messages.
    pub(crate) fn covers(&self, vmid: Vmid, received: u64) -> bool {
        self.find(vmid)
            .is_some_and(|member| member.base <= received)
    }

    /// Calls `act` with each frame after the member's counted message of that number, but not with the first
    /// `skip` of them, until it returns false. Returns how many it has accepted.
    pub(crate) fn for_each_after(
        &self,
        vmid: Vmid,
        received: u64,
        skip: usize,
        mut act: impl FnMut(&[u8]) -> bool,
    ) -> usize {
        let Some(member) = self.find(vmid) else {
            return 0;
        };
        let (mut place, mut number) = (member.start, member.base);
        let (mut skip, mut count) = (skip, 0_usize);
        loop {
            let (frame, is_message) = frame_at(&member.bytes, place, member.end);
            if frame.is_empty() {
                return count;
            }
            place = place.plus(frame.len());
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
                return count;
            }
            count.increment();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    use super::super::{Content, LeaderCapacities, Presence, SignalLimits};
    use super::*;
    use crate::file_locks::LockLimits;
    use crate::shared_state::LeaseLimits;
    use crate::wire::{FileLock, Hello, KillTarget, LockFamily, LockKind, PidKill};

    const CAPACITIES: LeaderCapacities = LeaderCapacities {
        ranges: 16,
        processes: 16,
        peers: 4,
        signals: SignalLimits {
            targets: 16,
            queued: 6,
        },
        locks: LockLimits {
            locks: 16,
            files: 4,
            waiting: 8,
            open_files: 8,
        },
        leases: LeaseLimits {
            handles: 2,
            clients: 6,
        },
        sync_data: 16,
        wrap_ids: true,
        roster: 4,
        ..LeaderCapacities::NONE
    };

    /// The bytes of frames that are kept for each member.
    const LENGTH: usize = 400;
    /// The members have the VMIDs from 2 on.
    const MEMBERS: u32 = 4;

    fn vmid(number: u32) -> Vmid {
        Vmid::new(number).unwrap()
    }

    /// What a node has queued for its members: each frame, and whether it is a counted message.
    #[derive(Default)]
    struct Queued(BTreeMap<Vmid, Vec<(Vec<u8>, bool)>>);

    impl Queued {
        fn push(&mut self, to: Vmid, frame: &[u8], is_message: bool) {
            if let Some(frames) = self.0.get_mut(&to) {
                frames.push((frame.to_vec(), is_message));
            }
        }

        fn answer(&mut self, to: Vmid, seq: u64, answer: &Answer<'_>) {
            let mut bytes = [0; 512];
            let length = answer.encode(seq, &mut bytes).unwrap();
            self.push(to, &bytes[..length], false);
        }

        fn message(&mut self, to: Vmid, seq: u64, message: &Message<'_>) {
            let mut bytes = [0; 512];
            let length = message.encode(seq, &mut bytes).unwrap();
            self.push(to, &bytes[..length], true);
        }
    }

    /// A leader, what an heir of it keeps, and what a node of the leader has queued.
    struct World<'m> {
        leader: Leader<'m>,
        sent: SentFrames<'m>,
        queued: Queued,
        rng: fastrand::Rng,
    }

    impl World<'_> {
        fn apply(&mut self, op: &Op<'_>) -> Outcome {
            self.sent.on_op(&self.leader, op);
            let outcome = self.leader.apply(op);
            self.sent.after_op(&self.leader, op, &outcome);
            outcome
        }

        /// As the node does with a member's frame.
        fn frame(&mut self, op: &Op<'_>) {
            let outcome = self.apply(op);
            match (*op, outcome) {
                (
                    Op::Request { from, seq, .. } | Op::SignalledAll { from, seq, .. },
                    Outcome::Answer(answer),
                ) if seq != 0 => self.queued.answer(from, seq, &answer),
                (Op::Sync { from, sync, .. }, Outcome::Sync(Err(RequestError::NoRoom))) => {
                    let (id, note) = (sync.id, SyncNote::NoRoom);
                    self.queued
                        .message(from, 0, &Message::SyncNote { id, note });
                }
                (Op::Sync { from, sync, .. }, Outcome::Sync(Err(RequestError::Closed))) => {
                    let closed = Sync {
                        id: sync.id,
                        state: SyncState::Invalid,
                        data: &[],
                    };
                    let message = Message::Sync(SyncCode::ConfirmClose, closed);
                    self.queued.message(from, 0, &message);
                }
                _ => {}
            }
        }

        /// As the node does with the outbox: some messages find no room.
        fn send_output(&mut self) {
            while let Some(next) = self.leader.poll_transmit() {
                let (id, to) = (next.id, next.to);
                if !id.is_answer() && self.rng.u8(..8) == 0 {
                    self.apply(&Op::Requeued(id));
                    continue;
                }
                match next.content {
                    Content::Answer(seq, answer) => self.queued.answer(to, seq, &answer),
                    Content::Exit(exit) => self.queued.message(to, 0, &Message::ChildExit(exit)),
                    Content::Signal(signal) if signal.is_awaited => {
                        let message = Message::PidKill(signal.kill);
                        self.queued.message(to, signal.seq, &message);
                    }
                    Content::Signal(signal) => {
                        let message = Message::KillPassed(signal.kill);
                        self.queued.message(to, signal.seq, &message);
                    }
                    Content::Message(message) => self.queued.message(to, 0, &message),
                    Content::Sync(crate::shared_state::ServerMessage::Sync(code, sync)) => {
                        self.queued.message(to, 0, &Message::Sync(code, sync));
                    }
                    Content::Sync(crate::shared_state::ServerMessage::OwnerDied(id)) => {
                        let note = SyncNote::OwnerDied;
                        self.queued.message(to, 0, &Message::SyncNote { id, note });
                    }
                }
                self.apply(&Op::Transmitted {
                    id,
                    is_extended: true,
                });
            }
            if self.rng.bool() {
                self.apply(&Op::RetryTransmit);
            }
        }

        fn connect(&mut self, member: Vmid) {
            self.queued.0.insert(member, Vec::new());
            self.apply(&Op::Connected(member));
            self.apply(&Op::ConfirmGrants {
                to: member,
                left: u64::MAX,
                allows_notices: true,
            });
            self.apply(&Op::Join(member, Hello::NO_PROCESS));
        }

        fn leave(&mut self, member: Vmid) {
            self.queued.0.remove(&member);
            for reclaim in [
                Op::ReclaimLocks {
                    owner: member,
                    left: u64::MAX,
                },
                Op::ReclaimLeases {
                    owner: member,
                    left: u64::MAX,
                },
                Op::Left(member),
            ] {
                self.apply(&reclaim);
            }
        }

        fn random_frame(&mut self) {
            let members: Vec<_> = self.queued.0.keys().copied().collect();
            let Some(from) = self.rng.choice(members) else {
                return;
            };
            let is_awaited = self.rng.u8(..6) > 0;
            let seq = u64::from(is_awaited) * self.rng.u64(1..1000);
            let kind = [LockKind::Read, LockKind::Write, LockKind::Unlock];
            let kind = kind[self.rng.usize(..3)];
            let path = [&b"/a"[..], b"/b"][self.rng.usize(..2)];
            let start = self.rng.u64(..3) * 10;
            let lock = FileLock {
                family: LockFamily::Posix,
                kind,
                wait: self.rng.bool(),
                pid: from.get(),
                start,
                end: start + 9,
                handle: 0,
                path,
            };
            let id = self.rng.u64(1..4);
            let code = [
                SyncCode::RequestUpgrade,
                SyncCode::RequestUpgrade,
                SyncCode::RequestClose,
            ];
            let code = code[self.rng.usize(..3)];
            let state = if code == SyncCode::RequestClose {
                SyncState::Invalid
            } else {
                [SyncState::Shared, SyncState::Exclusive][self.rng.usize(..2)]
            };
            let message = match self.rng.u8(..9) {
                0 => Message::AllocIdRange,
                1 => Message::GetNewVmid,
                2..4 => Message::FileLockSet(lock),
                4 => Message::FileLockGet(lock),
                5 => Message::FileHandle {
                    handle: id,
                    held: self.rng.bool(),
                    vmid: [0, self.rng.u32(2..2 + MEMBERS)][self.rng.usize(..2)],
                },
                6 => {
                    let sync = Sync {
                        id,
                        state,
                        data: &[],
                    };
                    return self.frame(&Op::Sync {
                        from,
                        code,
                        sync,
                        is_extended: true,
                    });
                }
                7 => {
                    let result = Ok(());
                    return self.frame(&Op::SignalledAll { from, seq, result });
                }
                _ => {
                    let kill = PidKill {
                        sender: 1,
                        pid: 9,
                        id: 9,
                        signal: self.rng.i32(1..40),
                        target: KillTarget::Process,
                    };
                    self.apply(&Op::Signal(from, kill));
                    return;
                }
            };
            let other = self.leader.other(&message);
            let is_there = other.is_some_and(|other| self.queued.0.contains_key(&other));
            self.frame(&Op::Request {
                from,
                seq,
                message,
                other: if is_there {
                    Presence::Extended
                } else {
                    Presence::Absent
                },
            });
        }

        /// Compares what is kept for each member with the end of what was queued for it. Returns the number of
        /// frames.
        fn check(&self) -> usize {
            let mut count = 0;
            for (member, queued) in &self.queued.0 {
                let messages = |frames: &[(Vec<u8>, bool)]| {
                    frames.iter().filter(|(_, is_message)| *is_message).count() as u64
                };
                let given = messages(queued);
                assert_eq!(self.leader.given(*member), Some(given), "{member:?}");
                // All that fits is kept.
                let mut kept = queued.len();
                let mut bytes = 0;
                while kept > 0 && bytes + queued[kept - 1].0.len() <= LENGTH {
                    kept -= 1;
                    bytes += queued[kept].0.len();
                }
                let base = messages(&queued[..kept]);
                for received in base.saturating_sub(1)..=given {
                    let is_covered = self.sent.covers(*member, received);
                    assert_eq!(is_covered, received >= base, "{received} of {given}");
                    if !is_covered {
                        continue;
                    }
                    // The frames before this message, and the message itself, have arrived.
                    let mut seen = base;
                    let missing = queued[kept..].iter().skip_while(|(_, is_message)| {
                        let has_arrived = seen < received;
                        seen += u64::from(*is_message);
                        has_arrived
                    });
                    let missing: Vec<_> = missing.map(|(frame, _)| frame.clone()).collect();
                    let mut again = Vec::new();
                    // One at a time, as when a queue has room for one more.
                    loop {
                        let taken = again.len();
                        let mut room = 1;
                        let more = self.sent.for_each_after(*member, received, taken, |frame| {
                            if room == 0 {
                                return false;
                            }
                            room -= 1;
                            again.push(frame.to_vec());
                            true
                        });
                        if more == 0 {
                            break;
                        }
                        assert_eq!(more, 1);
                    }
                    assert_eq!(again, missing, "{member:?} after {received}");
                    count += again.len();
                }
            }
            count
        }
    }

    fn with_world(seed: u64, test: impl FnOnce(&mut World<'_>)) {
        let size = Leader::bytes(&CAPACITIES) + SentFrames::bytes(MEMBERS as usize, LENGTH);
        let mut memory = Box::new_uninit_slice(size);
        let mut arena = Arena::new(&mut memory);
        let mut world = World {
            leader: Leader::new(&mut arena, &CAPACITIES).unwrap(),
            sent: SentFrames::new(&mut arena, MEMBERS as usize, LENGTH),
            queued: Queued::default(),
            rng: fastrand::Rng::with_seed(seed),
        };
        arena.check().unwrap();
        test(&mut world);
    }

    #[test]
    fn what_is_kept_is_the_end_of_what_a_node_has_queued_for_each_member() {
        let mut compared = 0;
        for seed in 0..150 {
            with_world(seed, |world| {
                for _ in 0..200 {
                    let member = vmid(world.rng.u32(2..2 + MEMBERS));
                    let is_there = world.queued.0.contains_key(&member);
                    match world.rng.u8(..20) {
                        0 if is_there => world.leave(member),
                        0..4 if !is_there => world.connect(member),
                        0..15 => world.random_frame(),
                        _ => world.send_output(),
                    }
                    compared += world.check();
                }
            });
        }
        assert!(compared > 100_000, "{compared}");
    }

    #[test]
    fn heir_that_begins_later_covers_only_what_was_queued_since() {
        with_world(1, |world| {
            let member = vmid(2);
            world.connect(member);
            let signal = |world: &mut World<'_>| {
                let kill = PidKill {
                    sender: 1,
                    pid: 9,
                    id: 9,
                    signal: 15,
                    target: KillTarget::Process,
                };
                world.apply(&Op::Signal(member, kill));
                let id = world.leader.poll_transmit().unwrap().id;
                world.apply(&Op::Transmitted {
                    id,
                    is_extended: true,
                });
            };
            let after = |world: &World<'_>, received| {
                world.sent.for_each_after(member, received, 0, |_| true)
            };
            for _ in 0..3 {
                signal(world);
            }
            assert_eq!(after(world, 1), 2);
            world.sent.begin(&world.leader);
            assert!(!world.sent.covers(member, 2));
            assert!(world.sent.covers(member, 3));
            assert_eq!(after(world, 3), 0);
            signal(world);
            assert_eq!(after(world, 3), 1);
            assert!(!world.sent.covers(vmid(3), 0), "it is not connected");
        });
    }

    #[test]
    fn message_longer_than_what_is_kept_leaves_a_gap_and_the_numbers_of_the_others_right() {
        with_world(1, |world| {
            let member = vmid(2);
            world.connect(member);
            let data = [7; LENGTH];
            let long = Sync {
                id: 1,
                state: SyncState::Shared,
                data: &data,
            };
            let long = Message::Sync(SyncCode::ConfirmUpgrade, long);
            world
                .sent
                .push_message(member, 0, &Message::FileLockRecall(1));
            world.sent.push_message(member, 0, &long);
            world
                .sent
                .push_message(member, 0, &Message::FileLockRecall(2));
            assert!(!world.sent.covers(member, 1));
            assert!(world.sent.covers(member, 2));
            assert_eq!(world.sent.for_each_after(member, 2, 0, |_| true), 1);
        });
    }
}
