//! What the server has to say, and to whom next.

use super::Server;
use crate::Vmid;
use crate::store::NONE;
use crate::wire::{Sync, SyncCode, SyncState};

/// What the server has to say to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told<'a> {
    /// A message of the protocol.
    Message(SyncCode, Sync<'a>),
    /// A process that was changing the data of this handle died: said before the lease comes.
    OwnerDied(u64),
}

impl Server<'_> {
    /// What is to be said next, and to whom. It stays until [`Server::said`].
    pub fn next(&self) -> Option<(Vmid, Told<'_>)> {
        let client = self.client(self.first_listed);
        let vmid = client.vmid?;
        let handle = self.handle(client.handle)?;
        let message = |code, state, data| {
            let id = handle.id;
            Told::Message(code, Sync { id, state, data })
        };
        let told = if client.out_owner_died {
            Told::OwnerDied(handle.id)
        } else if let Some(state) = client.out_confirm {
            let data = handle.data.made().get(..handle.length).unwrap_or(&[]);
            message(SyncCode::ConfirmUpgrade, state, data)
        } else if let Some(state) = client.out_downgrade {
            message(SyncCode::RequestDowngrade, state, &[])
        } else {
            message(SyncCode::ConfirmClose, SyncState::Invalid, &[])
        };
        Some((vmid, told))
    }

    /// It was said; or can't be said to that client for now (false): the others come first then.
    pub fn said(&mut self, was_said: bool) {
        let place = self.first_listed;
        if was_said {
            let mut is_closed = false;
            self.change(place, |client| {
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
                let handle = self.client(place).handle;
                self.drop_client(place);
                self.drop_unused(handle);
                return;
            }
        }
        let client = *self.client(place);
        let has_more = client.out_owner_died
            || client.out_confirm.is_some()
            || client.out_downgrade.is_some()
            || client.out_close;
        if was_said && has_more {
            return;
        }
        self.unlist(place);
        if has_more {
            self.list(place);
        }
    }

    /// How many clients there are to whom something is to be said.
    pub fn listed(&self) -> usize {
        let mut count = 0_usize;
        let mut place = self.first_listed;
        while place != NONE {
            count = count.saturating_add(1);
            place = self.client(place).next_listed;
        }
        count
    }

    pub(super) fn list(&mut self, place: u32) {
        if self.client(place).is_listed {
            return;
        }
        let last = self.last_listed;
        self.change(place, |client| {
            client.is_listed = true;
            client.next_listed = NONE;
        });
        self.change(last, |last| last.next_listed = place);
        if last == NONE {
            self.first_listed = place;
        }
        self.last_listed = place;
    }

    pub(super) fn unlist(&mut self, place: u32) {
        if !self.client(place).is_listed {
            return;
        }
        let next = self.client(place).next_listed;
        self.change(place, |client| client.is_listed = false);
        if self.first_listed == place {
            self.first_listed = next;
            if next == NONE {
                self.last_listed = NONE;
            }
            return;
        }
        let mut before = self.first_listed;
        while before != NONE && self.client(before).next_listed != place {
            before = self.client(before).next_listed;
        }
        self.change(before, |before| before.next_listed = next);
        if next == NONE {
            self.last_listed = before;
        }
    }
}
