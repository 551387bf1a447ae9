//! Between this process's clients, the server, and the streams.

use super::slots::Slot;
use crate::Vmid;
use crate::counters::Refusal;
use crate::error::Error;
use crate::node::rpc::Limits;
use crate::node::{Node, PeerRef};
use crate::pal::Pal;
use crate::shared_state::{Client, Refused, Told};
use crate::sync::Ordering;
use crate::wire::{Message, Sync, SyncCode, SyncNote, SyncState};

impl<'m, P: Pal> Node<'m, P> {
    /// Says to the server what the client has to say, now or when there is room.
    pub(super) fn say_for(&self, place: u32) {
        if !self.try_say_for(place) {
            self.say_later();
        }
    }

    /// The worker is to say what there was no room for.
    fn say_later(&self) {
        self.leases.due.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// False if there is no room for some of it for now.
    fn try_say_for(&self, place: u32) -> bool {
        let Some(slot) = self.leases.slots.get(place as usize) else {
            return true;
        };
        if self.server.is_some() {
            self.exchange_here(slot);
            return self.tell_clients(false);
        }
        if self.leader_gone.load(Ordering::Acquire) || self.check_limits().is_err() {
            // Nobody hears it.
            let mut client = slot.client.lock();
            while let Some(say) = client.next() {
                client.said(say);
            }
            return true;
        }
        let Some(peer) = self
            .identity
            .leader
            .and_then(|leader| self.peers.find_or_add(leader).ok())
        else {
            return false;
        };
        let all = {
            let mut client = slot.client.lock();
            loop {
                let Some(say) = client.next() else { break true };
                let note = SyncNote::OwnerDied;
                let message = if client.passes_death_on() {
                    let id = client.id();
                    Message::SyncNote { id, note }
                } else {
                    Message::Sync(say.code, client.message(say))
                };
                match self.put(&peer, 0, &message, Limits::NONE) {
                    // A leader that is gone hears nothing any more.
                    Ok(()) | Err(Error::LeaderGone) if client.passes_death_on() => {
                        client.said_owner_died();
                    }
                    Ok(()) | Err(Error::LeaderGone) => client.said(say),
                    Err(_) => break false,
                }
            }
        };
        self.flush(&peer);
        all
    }

    /// Says what all clients have to say, as far as there is room. True if that was all.
    pub(in crate::node) fn say_all(&self) -> bool {
        let mut all = true;
        for (place, slot) in (0..).zip(self.leases.slots.iter()) {
            let has_out = slot.client.lock().next().is_some();
            all &= !has_out || self.try_say_for(place);
        }
        all
    }

    /// As the leader: takes in what this process itself says about a handle.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it is not the leader, [`Error::Invalid`] if that does not fit what
    /// it has of the handle, [`Error::Refused`] (`ENOMEM`) if there is no room for it.
    #[cfg(feature = "capi")]
    pub(crate) fn hear_own_sync(&self, code: SyncCode, sync: &Sync<'_>) -> Result<(), Error> {
        let server = self.server.as_ref().ok_or(Error::Unsupported)?;
        let heard = server.lock().hear(self.identity.vmid, code, sync);
        if !self.tell_clients(false) {
            self.say_later();
        }
        heard.map_err(|refused| match refused {
            Refused::NoRoom => Error::Refused(crate::error::errno::ENOMEM),
            Refused::Unfitting | Refused::Closed => Error::Invalid,
        })
    }

    /// As the leader: between its own client and the server.
    fn exchange_here(&self, slot: &Slot<'m>) {
        let Some(server) = &self.server else { return };
        let us = self.identity.vmid;
        let mut is_refused = false;
        let mut server = server.lock();
        let mut client = slot.client.lock();
        while let Some(say) = client.next() {
            if client.passes_death_on() {
                // Its own client says nothing unfitting.
                let _ = server.hear_owner_died(us, client.id());
                client.said_owner_died();
            }
            let heard = server.hear(us, say.code, &client.message(say));
            client.said(say);
            match heard {
                Err(Refused::NoRoom) => {
                    client.hear_no_room();
                    is_refused = true;
                }
                // A server that does not know the client, or not any more, has nothing to close.
                Err(_) if say.code == SyncCode::RequestClose => {
                    let closed = closed(client.id());
                    // Its own server says nothing unfitting.
                    let _ = client.hear(SyncCode::ConfirmClose, &closed);
                    is_refused = true;
                }
                _ => {}
            }
        }
        drop(client);
        drop(server);
        if is_refused {
            self.wake_slot(slot);
        }
    }

    /// As the leader: tells clients what the server has for them; in the worker, when it comes to
    /// flush them, so that what comes of several messages goes out at once. False if there is no
    /// room for some of it for now.
    fn tell_clients(&self, is_worker: bool) -> bool {
        let Some(server) = &self.server else {
            return true;
        };
        let us = self.identity.vmid;
        let flush = |peer: &PeerRef<'_, 'm, P::Stream>| {
            if is_worker {
                self.peers.attend(peer);
            } else {
                self.flush(peer);
            }
        };
        let mut full = 0_usize;
        let mut unsent: Option<PeerRef<'_, 'm, P::Stream>> = None;
        let all = loop {
            let mut guard = server.lock();
            let Some((to, told)) = guard.next() else {
                break true;
            };
            if unsent.as_ref().is_some_and(|peer| peer.vmid() != to) {
                drop(guard);
                if let Some(peer) = unsent.take() {
                    flush(&peer);
                }
                continue;
            }
            if to == us {
                let place = self.hear_here(told);
                guard.said(true);
                drop(guard);
                if let Some((place, slot)) = place {
                    self.wake_slot(slot);
                    self.exchange_here(slot);
                    self.free_if_closed(place, slot);
                }
                continue;
            }
            let peer = unsent.take().or_else(|| self.peers.find(to));
            // If it is gone there is nobody to tell.
            let sent = peer
                .as_ref()
                .is_none_or(|peer| self.tell_client(peer, told));
            guard.said(sent);
            unsent = peer;
            if !sent {
                full = full.saturating_add(1);
                if full > guard.listed() {
                    break false;
                }
            }
        };
        if let Some(peer) = unsent {
            flush(&peer);
        }
        all
    }

    /// Queues it for the client. False if there is no room.
    fn tell_client(&self, peer: &PeerRef<'_, 'm, P::Stream>, told: Told<'_>) -> bool {
        let message = match told {
            Told::Message(code, sync) => Message::Sync(code, sync),
            Told::OwnerDied(id) if peer.extended.load(Ordering::SeqCst) => Message::SyncNote {
                id,
                note: SyncNote::OwnerDied,
            },
            Told::OwnerDied(_) => return true,
        };
        !matches!(
            self.put(peer, 0, &message, Limits::NONE),
            Err(Error::Full(_))
        )
    }

    /// As the leader: its own client hears something.
    fn hear_here(&self, told: Told<'_>) -> Option<(u32, &Slot<'m>)> {
        let id = match told {
            Told::Message(_, sync) => sync.id,
            Told::OwnerDied(id) => id,
        };
        let (place, slot) = self.leases.of_id(id)?;
        let mut client = slot.client.lock();
        match told {
            // Its own server says nothing unfitting.
            Told::Message(code, sync) => drop(client.hear(code, &sync)),
            Told::OwnerDied(_) => client.hear_owner_died(),
        }
        drop(client);
        Some((place, slot))
    }

    fn free_if_closed(&self, place: u32, slot: &Slot<'m>) {
        if self.leases.free_if_closed(place) {
            self.wake_slot(slot);
            self.tell_who_shuts_down();
        }
    }

    /// As the leader: a client says something. False if the frame is to be taken up again later.
    pub(crate) fn serve_sync(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        code: SyncCode,
        sync: &Sync<'_>,
    ) -> Result<bool, Refusal> {
        let Some(server) = &self.server else {
            return Err(Refusal::WrongRole);
        };
        let heard = if peer.syncs_refused.load(Ordering::SeqCst) {
            match code {
                SyncCode::RequestUpgrade => Err(Refused::NoRoom),
                SyncCode::RequestClose => Err(Refused::Closed),
                _ => Ok(()),
            }
        } else if peer.extended.load(Ordering::SeqCst) {
            server.lock().hear(peer.vmid(), code, sync)
        } else {
            server.lock().hear_from_c(peer.vmid(), code, sync)
        };
        let answer = match heard {
            Ok(()) => {
                if !self.tell_clients(true) {
                    self.say_later();
                }
                return Ok(true);
            }
            Err(Refused::Unfitting) => return Err(Refusal::UnfittingSync),
            Err(Refused::NoRoom) if !peer.extended.load(Ordering::SeqCst) => {
                // There is no word for it that a client in C knows.
                self.counters.undone.add(1);
                return Ok(true);
            }
            Err(Refused::NoRoom) => Message::SyncNote {
                id: sync.id,
                note: SyncNote::NoRoom,
            },
            Err(Refused::Closed) => Message::Sync(SyncCode::ConfirmClose, closed(sync.id)),
        };
        // One that is going is told nothing.
        let put = self.put(peer, 0, &answer, Limits::NONE);
        Ok(!matches!(put, Err(Error::Full(_))))
    }

    /// As the leader: a client passes on that the owner died.
    pub(crate) fn serve_sync_note(
        &self,
        from: Vmid,
        id: u64,
        note: SyncNote,
    ) -> Result<(), Refusal> {
        let Some(server) = &self.server else {
            return Err(Refusal::WrongRole);
        };
        if note != SyncNote::OwnerDied {
            return Err(Refusal::WrongRole);
        }
        let heard = server.lock().hear_owner_died(from, id);
        heard.map_err(|_| Refusal::UnfittingSync)
    }

    /// The server says something about a handle of this process.
    pub(crate) fn hear_sync(&self, code: SyncCode, sync: &Sync<'_>) -> Result<(), Refusal> {
        self.hear_about(sync.id, |client| {
            client.hear(code, sync).map_err(|_| Refusal::UnfittingSync)
        })
    }

    /// The server says something that the protocol has no word for.
    pub(crate) fn hear_sync_note(&self, id: u64, note: SyncNote) -> Result<(), Refusal> {
        self.hear_about(id, |client| {
            match note {
                SyncNote::OwnerDied => client.hear_owner_died(),
                SyncNote::NoRoom => client.hear_no_room(),
            }
            Ok(())
        })
    }

    fn hear_about(
        &self,
        id: u64,
        hear: impl FnOnce(&mut Client<'m>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let handle = self.leases.of_id(id);
        // A leader whose handles have another length takes back what it gave when it hears of that.
        let Some((place, slot)) = handle.filter(|_| self.check_limits().is_ok()) else {
            self.counters.undone.add(1);
            return Ok(());
        };
        let has_out = {
            let mut client = slot.client.lock();
            hear(&mut client)?;
            client.next().is_some()
        };
        self.wake_slot(slot);
        if has_out {
            self.say_for(place);
        }
        self.free_if_closed(place, slot);
        Ok(())
    }

    /// As the leader: a process is gone, and its leases with it.
    pub(crate) fn take_back_leases(&self, vmid: Vmid) {
        let Some(server) = &self.server else { return };
        server.lock().left(vmid);
        if !self.tell_clients(false) {
            self.say_later();
        }
    }

    /// In the worker: says what there was no room for before. False if there still is none for some.
    pub(crate) fn say_what_is_due(&self) -> bool {
        if !self.leases.due.swap(false, Ordering::SeqCst) {
            return true;
        }
        let mut all = self.tell_clients(true);
        all &= self.say_all();
        if !all {
            self.leases.due.store(true, Ordering::SeqCst);
        }
        all
    }
}

/// What the server says of a handle that is closed.
fn closed(id: u64) -> Sync<'static> {
    Sync {
        id,
        state: SyncState::Invalid,
        data: &[],
    }
}
