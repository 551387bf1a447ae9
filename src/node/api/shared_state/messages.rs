//! The messages between this process's clients, the server, and the streams.

use super::slots::Slot;
use crate::Vmid;
use crate::counters::Refusal;
use crate::error::Error;
use crate::leader::{Leader, Op, Outcome};
use crate::node::reclaim::remaining;
use crate::node::{Node, PeerRef, Sender};
use crate::pal::Pal;
use crate::shared_state::{Client, RequestError, ServerMessage};
use crate::sync::Ordering;
use crate::wire::{Message, Sync, SyncCode, SyncNote, SyncState};

impl<'m, P: Pal> Node<'m, P> {
    /// Queues the client's messages to the server, now or when there is room.
    pub(super) fn send_client_messages(&self, slot_index: u32) {
        if !self.try_send_client_messages(slot_index) {
            self.defer_member_output();
        }
    }

    /// Like [`Node::send_client_messages`], now only. Returns false if some message has no room at present.
    fn try_send_client_messages(&self, slot_index: u32) -> bool {
        let Some(slot) = self.sync_handles.slots.get(slot_index as usize) else {
            return true;
        };
        if self.leads() {
            self.exchange_locally(slot);
            self.send_output(Sender::Call);
            return true;
        }
        if self.leader_gone.load(Ordering::Acquire) || self.check_limits().is_err() {
            // There is no server that could receive the messages.
            let mut client = slot.client.lock();
            while let Some(outgoing) = client.poll_transmit() {
                client.mark_sent(outgoing);
            }
            return true;
        }
        let Some(peer) = self
            .led_by()
            .and_then(|leader| self.peers.find_or_add(leader).ok())
        else {
            return false;
        };
        let all = {
            let mut client = slot.client.lock();
            loop {
                let Some(outgoing) = client.poll_transmit() else {
                    break true;
                };
                let note = SyncNote::OwnerDied;
                let message = if client.forwards_owner_death() {
                    let id = client.id();
                    Message::SyncNote { id, note }
                } else {
                    Message::Sync(outgoing.code, client.payload(outgoing))
                };
                match self.put(&peer, 0, &message) {
                    // Messages to a leader that has ended are dropped.
                    Ok(()) | Err(Error::LeaderGone | Error::CutOff)
                        if client.forwards_owner_death() =>
                    {
                        client.mark_owner_death_sent();
                    }
                    Ok(()) | Err(Error::LeaderGone | Error::CutOff) => client.mark_sent(outgoing),
                    Err(_) => break false,
                }
            }
        };
        self.flush(&peer);
        all
    }

    /// Queues the messages of all clients, as far as there is room. Returns true if all were
    /// queued.
    pub(in crate::node) fn send_all_client_messages(&self) -> bool {
        let mut all = true;
        for (slot_index, slot) in (0..).zip(self.sync_handles.slots.iter()) {
            let has_output = slot.client.lock().poll_transmit().is_some();
            all &= !has_output || self.try_send_client_messages(slot_index);
        }
        all
    }

    /// As the leader: handles a message of this process itself about a handle.
    ///
    /// # Errors
    /// [`Error::NotLeader`] if this process is not the leader, [`Error::Invalid`] if the message violates the protocol, [`Error::Refused`] (`ENOMEM`) if there is no room for the handle.
    #[cfg(feature = "capi")]
    pub(crate) fn on_own_sync_message(&self, code: SyncCode, sync: &Sync<'_>) -> Result<(), Error> {
        let leader = self.leading().ok_or(Error::NotLeader)?;
        let result = self.apply_sync(&mut leader.lock(), self.identity.vmid, code, sync, true);
        self.send_output(Sender::Call);
        result.map_err(|refused| match refused {
            RequestError::NoRoom => Error::Refused {
                errno: crate::error::Errno::ENOMEM,
                by: None,
            },
            RequestError::ProtocolViolation | RequestError::Closed => {
                Error::Invalid(crate::Invalid::Message)
            }
        })
    }

    /// At a process that begins to lead: handles a message of its own client that the old leader has not taken.
    pub(in crate::node) fn execute_own_sync(&self, code: SyncCode, sync: &Sync<'_>) {
        let Some(leader) = self.leading() else { return };
        let us = self.identity.vmid;
        let result = self.apply_sync(&mut leader.lock(), us, code, sync, true);
        // A refused message has no further consequence.
        let _ = match result {
            Err(RequestError::NoRoom) => self.on_server_sync_note(sync.id, SyncNote::NoRoom),
            Err(RequestError::Closed) => {
                self.on_server_sync(SyncCode::ConfirmClose, &closed(sync.id))
            }
            _ => Ok(()),
        };
        self.send_output(Sender::Call);
    }

    /// As the leader: passes the messages of its own client to the server.
    fn exchange_locally(&self, slot: &Slot<'m>) {
        let Some(leader) = self.leading() else { return };
        let us = self.identity.vmid;
        let mut is_refused = false;
        let mut leader = leader.lock();
        let mut client = slot.client.lock();
        while let Some(outgoing) = client.poll_transmit() {
            if client.forwards_owner_death() {
                // The leader's own client does not violate the protocol.
                leader.apply(&Op::OwnerDied(us, client.id()));
                client.mark_owner_death_sent();
            }
            let sync = client.payload(outgoing);
            let result = self.apply_sync(&mut leader, us, outgoing.code, &sync, true);
            client.mark_sent(outgoing);
            match result {
                Err(RequestError::NoRoom) => {
                    client.on_no_room();
                    is_refused = true;
                }
                // A server that does not know the client has nothing to close.
                Err(_) if outgoing.code == SyncCode::RequestClose => {
                    let closed = closed(client.id());
                    // The leader's own server does not violate the protocol.
                    let _ = client.on_message(SyncCode::ConfirmClose, &closed);
                    is_refused = true;
                }
                _ => {}
            }
        }
        drop(client);
        drop(leader);
        if is_refused {
            self.wake_slot(slot);
        }
    }

    /// As the leader: delivers a message to its own client, under the lock of the tables. Returns the slot, for
    /// [`Node::on_local_delivery`].
    pub(in crate::node) fn deliver_locally(
        &self,
        server_message: ServerMessage<'_>,
    ) -> Option<u32> {
        let id = match server_message {
            ServerMessage::Sync(_, sync) => sync.id,
            ServerMessage::OwnerDied(id) => id,
        };
        let (slot_index, slot) = self.sync_handles.of_id(id)?;
        let mut client = slot.client.lock();
        match server_message {
            // The leader's own server does not violate the protocol.
            ServerMessage::Sync(code, sync) => drop(client.on_message(code, &sync)),
            ServerMessage::OwnerDied(_) => client.on_owner_died(),
        }
        Some(slot_index)
    }

    /// Continues after a delivery, without the lock of the tables.
    pub(in crate::node) fn on_local_delivery(&self, slot_index: u32) {
        if let Some(slot) = self.sync_handles.slots.get(slot_index as usize) {
            self.wake_slot(slot);
            self.exchange_locally(slot);
            self.free_if_closed(slot_index, slot);
        }
    }

    fn free_if_closed(&self, slot_index: u32, slot: &Slot<'m>) {
        if self.sync_handles.free_if_closed(slot_index) {
            self.wake_slot(slot);
            self.notify_shutdown();
        }
    }

    /// As the leader: handles a client's message. Returns false if the caller has to process the
    /// frame again later.
    pub(crate) fn on_client_sync(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        code: SyncCode,
        sync: &Sync<'_>,
    ) -> Result<bool, Refusal> {
        let Some(leader) = self.leading() else {
            return Err(Refusal::WrongRole);
        };
        let is_extended = peer.is_extended();
        // A confirmation has no answer.
        if code != SyncCode::ConfirmDowngrade && !peer.has_room() {
            return Ok(false);
        }
        let result = if peer.member.syncs_refused.load(Ordering::SeqCst) {
            let (from, id) = (peer.vmid(), sync.id);
            let refused = leader.lock().apply(&Op::SyncRefused { from, code, id });
            result_of(refused)
        } else {
            self.apply_sync(&mut leader.lock(), peer.vmid(), code, sync, is_extended)
        };
        let answer = match result {
            Ok(()) => {
                self.send_output(Sender::Frame);
                return Ok(true);
            }
            Err(RequestError::ProtocolViolation) => return Err(Refusal::SyncProtocolViolation),
            Err(RequestError::NoRoom) if !is_extended => {
                // No message of the C protocol says so.
                self.counters.rejected_oneway.add(1);
                return Ok(true);
            }
            Err(RequestError::NoRoom) => Message::SyncNote {
                id: sync.id,
                note: SyncNote::NoRoom,
            },
            Err(RequestError::Closed) => Message::Sync(SyncCode::ConfirmClose, closed(sync.id)),
        };
        self.answer_with(peer, &answer);
        Ok(true)
    }

    /// As the leader: handles the note of a client that an owner died.
    pub(crate) fn on_client_sync_note(
        &self,
        from: Vmid,
        id: u64,
        note: SyncNote,
    ) -> Result<(), Refusal> {
        let Some(leader) = self.leading() else {
            return Err(Refusal::WrongRole);
        };
        if note != SyncNote::OwnerDied {
            return Err(Refusal::WrongRole);
        }
        match leader.lock().apply(&Op::OwnerDied(from, id)) {
            Outcome::Sync(Ok(())) => Ok(()),
            _ => Err(Refusal::SyncProtocolViolation),
        }
    }

    /// Handles a message from the server about a handle of this process.
    pub(crate) fn on_server_sync(&self, code: SyncCode, sync: &Sync<'_>) -> Result<(), Refusal> {
        self.update_client(sync.id, |client| {
            client
                .on_message(code, sync)
                .map_err(|_| Refusal::SyncProtocolViolation)
        })
    }

    /// Handles a note from the server, which the C protocol does not have.
    pub(crate) fn on_server_sync_note(&self, id: u64, note: SyncNote) -> Result<(), Refusal> {
        self.update_client(id, |client| {
            match note {
                SyncNote::OwnerDied => client.on_owner_died(),
                SyncNote::NoRoom => client.on_no_room(),
            }
            Ok(())
        })
    }

    fn update_client(
        &self,
        id: u64,
        update: impl FnOnce(&mut Client<'m>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let handle = self.sync_handles.of_id(id);
        // This process closes or never opened the handle; or the leader's values have another
        // length, and then it reclaims the lease when it learns of that.
        let Some((slot_index, slot)) = handle.filter(|_| self.check_limits().is_ok()) else {
            self.counters.rejected_oneway.add(1);
            return Ok(());
        };
        let has_output = {
            let mut client = slot.client.lock();
            update(&mut client)?;
            client.poll_transmit().is_some()
        };
        self.wake_slot(slot);
        if has_output {
            self.send_client_messages(slot_index);
        }
        self.free_if_closed(slot_index, slot);
        Ok(())
    }

    /// As the leader: reclaims the leases of a process that has ended.
    pub(crate) fn reclaim_leases(&self, vmid: Vmid) {
        let Some(leader) = self.leading() else { return };
        let mut left = u64::MAX;
        while left > 0 {
            let portion = Op::ReclaimLeases { owner: vmid, left };
            let outcome = {
                let mut leader = leader.lock();
                let outcome = leader.apply(&portion);
                self.note_revocations(&leader);
                outcome
            };
            left = remaining(outcome);
            self.send_output(Sender::Call);
        }
    }

    /// Passes a message to the server of shared values.
    fn apply_sync(
        &self,
        leader: &mut Leader<'_>,
        from: Vmid,
        code: SyncCode,
        sync: &Sync<'_>,
        is_extended: bool,
    ) -> Result<(), RequestError> {
        let op = Op::Sync {
            from,
            code,
            sync: *sync,
            is_extended,
        };
        let outcome = leader.apply(&op);
        self.note_revocations(leader);
        result_of(outcome)
    }
}

/// Returns the result of a message to the server of shared values.
fn result_of(outcome: Outcome) -> Result<(), RequestError> {
    match outcome {
        Outcome::Sync(result) => result,
        _ => Err(RequestError::ProtocolViolation),
    }
}

/// Returns the payload of the message that confirms a close.
fn closed(id: u64) -> Sync<'static> {
    Sync {
        id,
        state: SyncState::Invalid,
        data: &[],
    }
}
