//! The outbox of the server: its clients with outgoing messages, in order.

use super::{ClientRecord, Server};
use crate::Vmid;
use crate::store::NONE;
use crate::wire::{Sync, SyncCode, SyncState};

/// A message from the server to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerMessage<'a> {
    /// A message of the C protocol.
    Sync(SyncCode, Sync<'a>),
    /// A process died while it changed the value of this handle. The message precedes the lease.
    OwnerDied(u64),
}

impl Server<'_> {
    /// Returns the next outgoing message and its receiver. It stays until [`Server::mark_sent`] or
    /// [`Server::requeue`].
    pub fn poll_transmit(&self) -> Option<(Vmid, ServerMessage<'_>)> {
        let client = self.client(self.outbox.due().next()?);
        let vmid = client.vmid?;
        let handle = self.handle(client.handle)?;
        let message = |code, state, data| {
            let id = handle.id;
            ServerMessage::Sync(code, Sync { id, state, data })
        };
        let message_out = if client.out_owner_died {
            ServerMessage::OwnerDied(handle.id)
        } else if let Some(state) = client.out_confirm {
            message(SyncCode::ConfirmUpgrade, state, handle.value.bytes())
        } else if let Some(state) = client.out_downgrade {
            message(SyncCode::RequestDowngrade, state, &[])
        } else {
            message(SyncCode::ConfirmClose, SyncState::Invalid, &[])
        };
        Some((vmid, message_out))
    }

    /// Returns true if [`Server::poll_transmit`] returns a message.
    pub fn has_output(&self) -> bool {
        self.outbox.has_due()
    }

    /// Records that the caller sent the message of [`Server::poll_transmit`].
    pub fn mark_sent(&mut self) {
        let Some(index) = self.outbox.due().next() else {
            return;
        };
        let mut is_closed = false;
        self.update_client(index, |client| {
            if client.out_owner_died {
                client.out_owner_died = false;
            } else if client.out_confirm.is_some() {
                client.out_confirm = None;
            } else if client.out_downgrade.is_some() {
                client.out_downgrade = None;
            } else {
                is_closed = true;
            }
        });
        if is_closed {
            let handle = self.client(index).handle;
            self.remove_client(index);
            self.remove_if_unused(handle);
        } else if !self.client(index).has_output() {
            self.outbox.remove(index);
        }
    }

    /// Puts the message of [`Server::poll_transmit`] back, since its receiver has no room for it: all
    /// messages for this client are passed over until [`Server::resume_output`].
    pub fn requeue(&mut self) {
        let client = self.outbox.due().next().unwrap_or(NONE);
        self.outbox.defer(client);
    }

    /// Makes the messages that were put back due again.
    pub fn resume_output(&mut self) {
        self.outbox.resume();
    }
}

impl ClientRecord {
    /// Returns true if a message for the client is to be sent.
    pub(super) fn has_output(&self) -> bool {
        self.out_owner_died
            || self.out_confirm.is_some()
            || self.out_downgrade.is_some()
            || self.out_close
    }
}
