//! The outbox of the server: its clients with outgoing messages, in order.

use super::Server;
use crate::Vmid;
use crate::invariant::Count;
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
    /// The next outgoing message and its receiver. It stays until [`Server::mark_sent`].
    pub fn poll_transmit(&self) -> Option<(Vmid, ServerMessage<'_>)> {
        let client = self.client(self.outbox_head);
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

    /// Records that the caller sent the message of [`Server::poll_transmit`], or that the receiver
    /// has no room for it at present (`was_sent` is false): the other clients precede that one
    /// then.
    pub fn mark_sent(&mut self, was_sent: bool) {
        let index = self.outbox_head;
        if was_sent {
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
                return;
            }
        }
        let client = *self.client(index);
        let has_more = client.out_owner_died
            || client.out_confirm.is_some()
            || client.out_downgrade.is_some()
            || client.out_close;
        if was_sent && has_more {
            return;
        }
        self.dequeue_output(index);
        if has_more {
            self.enqueue_output(index);
        }
    }

    /// The number of clients with outgoing messages.
    pub fn queued_clients(&self) -> usize {
        let mut count = 0_usize;
        let mut index = self.outbox_head;
        while index != NONE {
            count.increment();
            index = self.client(index).outbox_next;
        }
        count
    }

    pub(super) fn enqueue_output(&mut self, index: u32) {
        if self.client(index).is_in_outbox {
            return;
        }
        let last = self.outbox_tail;
        self.update_client(index, |client| {
            client.is_in_outbox = true;
            client.outbox_next = NONE;
        });
        self.update_client(last, |last| last.outbox_next = index);
        if last == NONE {
            self.outbox_head = index;
        }
        self.outbox_tail = index;
    }

    pub(super) fn dequeue_output(&mut self, index: u32) {
        if !self.client(index).is_in_outbox {
            return;
        }
        let next = self.client(index).outbox_next;
        self.update_client(index, |client| client.is_in_outbox = false);
        if self.outbox_head == index {
            self.outbox_head = next;
            if next == NONE {
                self.outbox_tail = NONE;
            }
            return;
        }
        let mut prev = self.outbox_head;
        while prev != NONE && self.client(prev).outbox_next != index {
            prev = self.client(prev).outbox_next;
        }
        self.update_client(prev, |prev| prev.outbox_next = next);
        if next == NONE {
            self.outbox_tail = prev;
        }
    }
}
