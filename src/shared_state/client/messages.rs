//! What a client and the server say to each other.

use super::{Client, Phase, Say};
use crate::shared_state::{Unfitting, rank};
use crate::store::copy;
use crate::wire::{Sync, SyncCode, SyncState};

impl Client<'_> {
    /// What is to be said next. It stays until [`Client::said`].
    #[inline]
    pub fn next(&self) -> Option<Say> {
        if let Some((state, with_data)) = self.out_downgrade {
            return Some(Say {
                code: SyncCode::ConfirmDowngrade,
                state,
                with_data,
            });
        }
        if self.out_close {
            return Some(Say {
                code: SyncCode::RequestClose,
                state: self.current,
                with_data: self.current == SyncState::Exclusive,
            });
        }
        self.out_upgrade.map(|state| Say {
            code: SyncCode::RequestUpgrade,
            state,
            with_data: false,
        })
    }

    /// Whether the server is to hear that the owner died ([`Server::hear_owner_died`]), before what
    /// [`Client::next`] says: this process got the lease to change the data, and has not used it.
    ///
    /// [`Server::hear_owner_died`]: crate::shared_state::Server::hear_owner_died
    pub fn passes_death_on(&self) -> bool {
        self.out_owner_died
    }

    /// That was said.
    pub fn said_owner_died(&mut self) {
        self.out_owner_died = false;
    }

    /// The message that [`Client::next`] gave: what it goes by, and the data.
    pub fn message(&self, say: Say) -> Sync<'_> {
        Sync {
            id: self.id,
            state: say.state,
            data: if say.with_data { self.data() } else { &[] },
        }
    }

    /// It was said.
    pub fn said(&mut self, say: Say) {
        match say.code {
            SyncCode::ConfirmDowngrade => self.out_downgrade = None,
            SyncCode::RequestClose => self.out_close = false,
            _ => {
                self.out_upgrade = None;
                self.is_known = true;
            }
        }
        self.note_wanted();
    }

    /// The server says something.
    ///
    /// # Errors
    /// [`Unfitting`] if it would not say that as things stand.
    pub fn hear(&mut self, code: SyncCode, sync: &Sync<'_>) -> Result<(), Unfitting> {
        match (code, self.phase) {
            (SyncCode::ConfirmUpgrade, Phase::Open) => self.confirmed(sync),
            (SyncCode::RequestDowngrade, Phase::Open) => self.asked_back(sync.state),
            (SyncCode::ConfirmClose, Phase::Closing) => {
                self.phase = Phase::Free;
                self.changes = self.changes.wrapping_add(1);
                Ok(())
            }
            // It does not know yet that this one is closed.
            (_, Phase::Free)
            | (SyncCode::RequestDowngrade | SyncCode::ConfirmUpgrade, Phase::Closing) => Ok(()),
            _ => Err(Unfitting),
        }
    }

    fn confirmed(&mut self, sync: &Sync<'_>) -> Result<(), Unfitting> {
        let fits = rank(sync.state) > rank(self.current)
            && rank(sync.state) <= rank(self.may_come)
            && sync.data.len() <= self.data.capacity();
        if !fits {
            return Err(Unfitting);
        }
        // Who could read it already has the data: nobody else could change it.
        if rank(self.current) == 0 && self.data() != sync.data {
            self.is_changed = true;
            copy(self.data.first(sync.data.len()), sync.data);
            self.length = sync.data.len();
        }
        self.current = sync.state;
        if rank(self.asked) <= rank(self.current) {
            self.asked = SyncState::Invalid;
        }
        if rank(self.may_come) <= rank(self.current) {
            self.may_come = SyncState::Invalid;
        }
        self.is_fresh = self.can_serve();
        self.changes = self.changes.wrapping_add(1);
        Ok(())
    }

    fn asked_back(&mut self, state: SyncState) -> Result<(), Unfitting> {
        if !matches!(state, SyncState::Shared | SyncState::Invalid) {
            return Err(Unfitting);
        }
        if rank(state) >= rank(self.current) {
            return Ok(());
        }
        // It asks for less and less, until it has got that.
        if self
            .wanted_back
            .is_none_or(|wanted| rank(state) < rank(wanted))
        {
            self.wanted_back = Some(state);
        }
        self.settle();
        Ok(())
    }

    /// A process that was changing the data died.
    pub fn hear_owner_died(&mut self) {
        self.is_orphan = true;
        self.deaths = self.deaths.wrapping_add(1);
    }

    /// The server has no room for the handle. For what was asked after that it may have had: so that
    /// may come yet, and a close has to be said in any case.
    pub fn hear_no_room(&mut self) {
        self.asked = SyncState::Invalid;
        self.no_room = true;
        self.changes = self.changes.wrapping_add(1);
    }
}
