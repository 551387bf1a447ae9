//! A process: its requests, the frames that it keeps, and what it receives.

use libos_ipc::member::{Allocation, Purpose};
use libos_ipc::shared_state::Acquisition;
use libos_ipc::wire::{Answer, Expected, LockKind, Message, SyncState};

use super::frames::{frame_of, with_frame};
use super::state::{Call, HoldState, LEADER, Resource, Stage};
use super::system::{System, lock};

impl System<'_, '_> {
    pub(super) fn acquire(&mut self, process: usize, resource: Resource) {
        self.process(process).requests_left -= 1;
        self.process(process)
            .has
            .insert(resource, HoldState::Wanted);
        match resource {
            Resource::Id => self.request(process, Call::Range, &Message::AllocIdRange),
            Resource::Lock => {
                let message = Message::FileLockSet(lock(LockKind::Write, false));
                self.request(process, Call::Lock(resource), &message);
            }
            Resource::File => self.lock_file(process),
            Resource::Value => {
                let client = &mut self.machines[process].client;
                client.change_waiters(SyncState::Exclusive, 1);
                self.poll_value(process);
            }
        }
    }

    pub(super) fn release(&mut self, process: usize, resource: Resource) {
        match resource {
            Resource::Id => {
                self.process(process).requests_left -= 1;
                let id = self.process(process).id.take().unwrap();
                let ids = &mut self.machines[process].ids;
                // Its other IDs go back, too.
                let range = ids.release(id).unwrap().or_else(|| ids.take_idle_range());
                self.process(process).has.insert(resource, HoldState::No);
                let message = Message::ReleaseIdRange(range.unwrap());
                self.send(process, 0, &message);
            }
            Resource::Lock => {
                self.process(process).requests_left -= 1;
                self.process(process)
                    .has
                    .insert(resource, HoldState::Releasing);
                let message = Message::FileLockSet(lock(LockKind::Unlock, false));
                self.request(process, Call::Unlock(resource), &message);
            }
            Resource::File => self.unlock_file(process),
            Resource::Value => {
                self.process(process).has.insert(resource, HoldState::No);
                self.observed.value += 1;
                let client = &mut self.machines[process].client;
                client.data_mut(1)[0] = self.observed.value;
                client.release(SyncState::Exclusive);
                self.send_client_messages(process);
            }
        }
    }

    pub(super) fn request(&mut self, process: usize, call: Call, message: &Message<'_>) {
        let own = self.process(process);
        own.seq += 1;
        let (seq, number) = (own.seq, own.frames.len() + 1);
        own.calls.insert(seq, (call, number));
        self.send(process, seq, message);
    }

    /// Sends a counted frame to the leader, which may be the process itself.
    pub(super) fn send(&mut self, process: usize, seq: u64, message: &Message<'_>) {
        let frame = frame_of(seq, message);
        let leader = self.observed.leader_of(process);
        let own = &mut self.observed.processes[process];
        own.frames.push(frame.clone());
        if own.stage == Stage::Leading {
            return self.execute(process, &frame);
        }
        let kept = &mut self.machines[process].kept;
        kept.keep(&frame);
        if seq != 0 {
            kept.note_request(seq, true);
        }
        // A frame that is written to a dead leader is lost.
        let is_lost = leader == LEADER && !self.observed.is_old_alive;
        let own = &mut self.observed.processes[process];
        if own.stage == Stage::Following && !is_lost {
            own.to_leader.push_back(frame);
        }
    }

    fn send_client_messages(&mut self, process: usize) {
        while let Some(outgoing) = self.machines[process].client.poll_transmit() {
            let client = &mut self.machines[process].client;
            let payload = client.payload(outgoing);
            let frame = frame_of(0, &Message::Sync(outgoing.code, payload));
            client.mark_sent(outgoing);
            with_frame(&frame, |seq, message| self.send(process, seq, message));
        }
    }

    /// Goes on with a call that waits for the value.
    fn poll_value(&mut self, process: usize) {
        if self.observed.processes[process].has(Resource::Value) == HoldState::Wanted {
            let client = &mut self.machines[process].client;
            match client.acquire(SyncState::Exclusive, true) {
                Acquisition::Acquired => {
                    client.change_waiters(SyncState::Exclusive, -1);
                    let value = client.data().first().copied().unwrap_or(0);
                    let (_, owner_died) = client.take_status();
                    self.process(process)
                        .has
                        .insert(Resource::Value, HoldState::Held);
                    if value != self.observed.value {
                        self.fail("a value that was released is lost");
                    }
                    if owner_died {
                        self.fail("an owner died that did not");
                    }
                }
                Acquisition::Pending => {}
                _ => self.fail("a value is refused without reason"),
            }
        }
        self.send_client_messages(process);
    }

    /// Receives a frame of the leader. `is_counted`: the process counts messages.
    pub(super) fn receive(&mut self, process: usize, frame: &[u8], is_counted: bool) {
        with_frame(frame, |seq, message| match *message {
            Message::Response(payload) => self.receive_answer(process, seq, payload),
            Message::Sync(code, sync) => {
                let received = self.machines[process].client.on_message(code, &sync);
                if received.is_err() {
                    self.fail("a message about the value that can't be");
                }
                self.process(process).received += u64::from(is_counted);
                self.poll_value(process);
            }
            Message::FileLockRecall(number) => {
                self.machines[process].files.recall(number);
                self.process(process).received += u64::from(is_counted);
                self.return_files(process);
            }
            _ => self.fail("a message that nobody has asked for"),
        });
    }

    fn receive_answer(&mut self, process: usize, seq: u64, payload: &[u8]) {
        self.machines[process].kept.on_answer(seq);
        let own = &mut self.observed.processes[process];
        // An answer that was sent again, and had arrived.
        let Some((call, number)) = own.calls.remove(&seq) else {
            return;
        };
        if call != Call::Rejoin {
            own.answered = own.answered.max(number);
        }
        match call {
            Call::Range => {
                let ids = &mut self.machines[process].ids;
                let Ok(Answer::IdRange(range)) = Answer::decode(Expected::IdRange, payload) else {
                    panic!("no range");
                };
                let Allocation::Id(id) = ids
                    .add(range)
                    .map_or(Allocation::NeedRange, |()| ids.alloc(Purpose::Own))
                else {
                    return self.fail("the range has no ID");
                };
                self.process(process).id = Some(id);
                self.process(process)
                    .has
                    .insert(Resource::Id, HoldState::Held);
            }
            Call::Lock(resource) | Call::Unlock(resource) => {
                let result = Answer::decode(Expected::Status, payload);
                if result != Ok(Answer::Status(Ok(0))) {
                    self.fail("a lock is refused without reason");
                }
                let is_lock = matches!(call, Call::Lock(_));
                let has = if is_lock {
                    HoldState::Held
                } else {
                    HoldState::No
                };
                self.process(process).has.insert(resource, has);
            }
            Call::Delegate(number) => self.receive_delegation(process, number, payload),
            Call::Rejoin => self.resume(process, payload),
        }
    }
}
