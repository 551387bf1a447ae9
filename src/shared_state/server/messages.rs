//! The server's side of each message of a client.

use super::{ClientRecord, NONE, RequestError, Server};
use crate::Vmid;
use crate::shared_state::{ProtocolViolation, strength};
use crate::store::copy;
use crate::wire::{Sync, SyncCode, SyncState};

impl Server<'_> {
    /// Handles a message from a client. [`Server::poll_transmit`] returns the resulting messages.
    ///
    /// # Errors
    /// [`RequestError::ProtocolViolation`] if a correct client does not send the message in this state, [`RequestError::NoRoom`] if a table is full, [`RequestError::Closed`] for the close of a handle that had no room. The state does not change in these cases.
    pub fn on_message(
        &mut self,
        from: Vmid,
        code: SyncCode,
        sync: &Sync<'_>,
    ) -> Result<(), RequestError> {
        self.on_message_with(from, code, sync, from != Vmid::LEADER)
    }

    /// Like [`Server::on_message`]. `has_limit` tells whether the client must return a revoked lease in
    /// time: the process that leads needs not.
    pub(crate) fn on_message_with(
        &mut self,
        from: Vmid,
        code: SyncCode,
        sync: &Sync<'_>,
        has_limit: bool,
    ) -> Result<(), RequestError> {
        match code {
            SyncCode::RequestUpgrade => {
                self.on_request_upgrade(from, sync.id, sync.state, has_limit)
            }
            SyncCode::ConfirmDowngrade => Ok(self.on_confirm_downgrade(from, sync)?),
            SyncCode::RequestClose => self.on_request_close(from, sync),
            _ => Err(RequestError::ProtocolViolation),
        }
    }

    /// Like [`Server::on_message`], for a client that has not sent HELLO. A client in C that
    /// requests the lease to change the value while it reads does not give its lease back before,
    /// even if the server revokes it. So the server grants its request first, and the other clients
    /// give their leases back.
    ///
    /// # Errors
    /// As [`Server::on_message`].
    pub fn on_message_from_c(
        &mut self,
        from: Vmid,
        code: SyncCode,
        sync: &Sync<'_>,
    ) -> Result<(), RequestError> {
        let is_upgrade = code == SyncCode::RequestUpgrade && sync.state == SyncState::Exclusive;
        let index = self.find_client(from, sync.id).filter(|_| is_upgrade);
        let upgrades = index.is_some_and(|index| {
            let client = self.client(index);
            client.current == SyncState::Shared && !client.out_close
        });
        let (Some(index), true) = (index, upgrades) else {
            return self.on_message_with(from, code, sync, false);
        };
        self.dequeue_request(index);
        self.update_client(index, |client| {
            client.requested = Some(SyncState::Exclusive);
            client.upgrades_in_place = true;
        });
        self.enqueue_upgrade(index);
        self.grant_next(self.client(index).handle);
        Ok(())
    }

    pub(super) fn on_request_upgrade(
        &mut self,
        from: Vmid,
        id: u64,
        state: SyncState,
        has_limit: bool,
    ) -> Result<(), RequestError> {
        if state == SyncState::None {
            return Err(RequestError::ProtocolViolation);
        }
        let index = match self.find_client(from, id) {
            Some(index) => index,
            None if state == SyncState::Invalid => return Ok(()),
            None => self.add_client(from, id).ok_or(RequestError::NoRoom)?,
        };
        let client = *self.client(index);
        if client.out_close {
            return Err(RequestError::ProtocolViolation);
        }
        self.update_client(index, |client| client.has_limit = has_limit);
        if strength(state) <= strength(client.current) {
            // The client withdraws its request. It keeps the lease that it holds by now.
            self.dequeue_request(index);
            self.grant_next(client.handle);
            return Ok(());
        }
        // A client that changes its request keeps its place in the queue.
        if client.requested.is_none() {
            let last = self.handle(client.handle).map_or(NONE, |of| of.queue_tail);
            self.update_client(index, |client| {
                client.prev = last;
                client.next = NONE;
            });
            self.update_client(last, |last| last.next = index);
            self.update_handle(client.handle, |handle| {
                if last == NONE {
                    handle.queue_head = index;
                }
                handle.queue_tail = index;
            });
        }
        self.update_client(index, |client| client.requested = Some(state));
        self.grant_next(client.handle);
        Ok(())
    }

    pub(super) fn on_confirm_downgrade(
        &mut self,
        from: Vmid,
        sync: &Sync<'_>,
    ) -> Result<(), ProtocolViolation> {
        let index = self.find_client(from, sync.id).ok_or(ProtocolViolation)?;
        let client = *self.client(index);
        let was_revoked = client
            .revoke_to
            .is_some_and(|revoke_to| strength(revoke_to) <= strength(sync.state));
        let is_less =
            strength(sync.state) < strength(client.current) && sync.state != SyncState::None;
        if client.out_close || !was_revoked || !is_less {
            return Err(ProtocolViolation);
        }
        let has_data = self
            .handle(client.handle)
            .is_some_and(|of| of.value.length > 0);
        self.update_client(index, |client| client.expects_stale_downgrade = false);
        if client.expects_stale_downgrade && has_data && sync.data.is_empty() {
            // The client gave its lease to read back before it knew of the lease to change the
            // value.
            self.end_revocation(index);
            self.grant_next(client.handle);
            return Ok(());
        }
        self.store_data(&client, sync)?;
        self.set_current(index, sync.state);
        if client
            .revoke_to
            .is_some_and(|revoke_to| strength(sync.state) <= strength(revoke_to))
        {
            self.end_revocation(index);
        }
        self.grant_next(client.handle);
        Ok(())
    }

    pub(super) fn on_request_close(
        &mut self,
        from: Vmid,
        sync: &Sync<'_>,
    ) -> Result<(), RequestError> {
        let Some(index) = self.find_client(from, sync.id) else {
            let has_nothing = strength(sync.state) == 0 && sync.data.is_empty();
            return Err(if has_nothing {
                RequestError::Closed
            } else {
                RequestError::ProtocolViolation
            });
        };
        let client = *self.client(index);
        if client.out_close {
            return Err(RequestError::ProtocolViolation);
        }
        // The client may not know yet that it can change the value.
        if sync.state == SyncState::Exclusive {
            self.store_data(&client, sync)?;
        } else if client.owner_died_unacked {
            // For the same reason it has not handled the death of the previous owner.
            self.update_handle(client.handle, |handle| handle.owner_died = true);
        }
        self.release_lease(index);
        self.update_client(index, |client| {
            client.out_owner_died = false;
            client.out_confirm = None;
            client.out_downgrade = None;
            client.out_close = true;
        });
        self.outbox.push(index);
        self.grant_next(client.handle);
        Ok(())
    }

    /// Handles the note of a client that returns an unused lease to change the value: the server
    /// reports the death of the previous owner to the next client, too.
    ///
    /// # Errors
    /// [`RequestError::ProtocolViolation`] if the server did not report a death to this client with its present lease.
    pub fn on_owner_died(&mut self, from: Vmid, id: u64) -> Result<(), RequestError> {
        let index = self.find_client(from, id).ok_or(ProtocolViolation)?;
        let client = *self.client(index);
        if client.out_close || !client.owner_died_unacked {
            return Err(RequestError::ProtocolViolation);
        }
        self.update_handle(client.handle, |handle| handle.owner_died = true);
        Ok(())
    }

    /// Stores the value that comes from the client with the lease to change it.
    pub(super) fn store_data(
        &mut self,
        client: &ClientRecord,
        sync: &Sync<'_>,
    ) -> Result<(), ProtocolViolation> {
        if client.current != SyncState::Exclusive {
            return Ok(());
        }
        let handle = self
            .handles
            .get_mut(client.handle as usize)
            .ok_or(ProtocolViolation)?;
        let length = sync.data.len();
        if length > handle.value.buffer.capacity() {
            return Err(ProtocolViolation);
        }
        copy(handle.value.buffer.prefix_mut(length), sync.data);
        handle.value.length = length;
        Ok(())
    }
}
