//! The messages between a client and the server.

use super::{Client, ClientMessage, ClientPhase};
use crate::shared_state::{ProtocolViolation, strength};
use crate::store::copy;
use crate::wire::{Sync, SyncCode, SyncState};

impl Client<'_> {
    /// Returns the next outgoing message. It stays until [`Client::mark_sent`].
    #[inline]
    pub fn poll_transmit(&self) -> Option<ClientMessage> {
        if let Some((state, with_data)) = self.out_downgrade {
            return Some(ClientMessage {
                code: SyncCode::ConfirmDowngrade,
                state,
                with_data,
            });
        }
        if self.out_close {
            return Some(ClientMessage {
                code: SyncCode::RequestClose,
                state: self.current,
                with_data: self.current == SyncState::Exclusive,
            });
        }
        self.out_upgrade.map(|state| ClientMessage {
            code: SyncCode::RequestUpgrade,
            state,
            with_data: false,
        })
    }

    /// Returns true if the caller has to tell the server that the owner died
    /// ([`Server::on_owner_died`]), before it sends the message of [`Client::poll_transmit`]: this
    /// process got the lease to change the value, and has not used it.
    ///
    /// [`Server::on_owner_died`]: crate::shared_state::Server::on_owner_died
    pub fn forwards_owner_death(&self) -> bool {
        self.out_owner_died
    }

    /// Records that the caller has reported the death to the server.
    pub fn mark_owner_death_sent(&mut self) {
        self.out_owner_died = false;
    }

    /// Returns the payload of the message that [`Client::poll_transmit`] returned: the handle's
    /// number, and the value if it goes along.
    pub fn payload(&self, outgoing: ClientMessage) -> Sync<'_> {
        Sync {
            id: self.id,
            state: outgoing.state,
            data: if outgoing.with_data { self.data() } else { &[] },
        }
    }

    /// Records that the caller has sent the message.
    pub fn mark_sent(&mut self, outgoing: ClientMessage) {
        match outgoing.code {
            SyncCode::ConfirmDowngrade => self.out_downgrade = None,
            SyncCode::RequestClose => self.out_close = false,
            _ => {
                self.out_upgrade = None;
                self.is_known_to_server = true;
            }
        }
        self.update_release_work();
    }

    /// Handles a message from the server.
    ///
    /// # Errors
    /// [`ProtocolViolation`] if a correct server does not send the message in this state.
    pub fn on_message(&mut self, code: SyncCode, sync: &Sync<'_>) -> Result<(), ProtocolViolation> {
        match (code, self.phase) {
            (SyncCode::ConfirmUpgrade, ClientPhase::Open) => self.on_confirm_upgrade(sync),
            (SyncCode::RequestDowngrade, ClientPhase::Open) => {
                self.on_request_downgrade(sync.state)
            }
            (SyncCode::ConfirmClose, ClientPhase::Closing | ClientPhase::Reopening) => {
                self.on_closed();
                Ok(())
            }
            // The server does not know yet that the handle is closed.
            (_, ClientPhase::Free)
            | (
                SyncCode::RequestDowngrade | SyncCode::ConfirmUpgrade,
                ClientPhase::Closing | ClientPhase::Reopening,
            ) => Ok(()),
            _ => Err(ProtocolViolation),
        }
    }

    fn on_confirm_upgrade(&mut self, sync: &Sync<'_>) -> Result<(), ProtocolViolation> {
        let fits = strength(sync.state) > strength(self.current)
            && strength(sync.state) <= strength(self.max_grant)
            && sync.data.len() <= self.data.capacity();
        if !fits {
            return Err(ProtocolViolation);
        }
        // A client that could read has the value already, because no other could change it.
        if strength(self.current) == 0 && self.data() != sync.data {
            self.is_changed = true;
            copy(self.data.prefix_mut(sync.data.len()), sync.data);
            self.length = sync.data.len();
        }
        self.current = sync.state;
        if strength(self.requested) <= strength(self.current) {
            self.requested = SyncState::Invalid;
        }
        if strength(self.max_grant) <= strength(self.current) {
            self.max_grant = SyncState::Invalid;
        }
        self.is_grant_unused = self.can_serve();
        self.change_count = self.change_count.wrapping_add(1);
        Ok(())
    }

    fn on_request_downgrade(&mut self, state: SyncState) -> Result<(), ProtocolViolation> {
        if !matches!(state, SyncState::Shared | SyncState::Invalid) {
            return Err(ProtocolViolation);
        }
        if strength(state) >= strength(self.current) {
            return Ok(());
        }
        // Until the client has returned its lease, each revocation leaves it less.
        if self
            .revoke_to
            .is_none_or(|revoke_to| strength(state) < strength(revoke_to))
        {
            self.revoke_to = Some(state);
        }
        self.return_revoked();
        Ok(())
    }

    /// Handles the note that a process died while it held the lease to change the value.
    pub fn on_owner_died(&mut self) {
        self.owner_died = true;
        self.owner_deaths = self.owner_deaths.wrapping_add(1);
    }

    /// Handles the note that the server has no room for the handle. The server may have had room
    /// for a later request, so a grant may still arrive, and the client has to send a close in any
    /// case.
    pub fn on_no_room(&mut self) {
        self.requested = SyncState::Invalid;
        self.no_room = true;
        self.change_count = self.change_count.wrapping_add(1);
    }
}
