//! Sync handles: between this process's clients, the server, and the streams.

use super::wait::Limits;
use super::{Node, PeerRef, Wait};
use crate::Vmid;
use crate::counters::Refusal;
use crate::error::{Error, Resource, errno};
use crate::leases::{Client, Refused, Take, Told};
use crate::pal::{Event, Pal, Time};
use crate::store::{Arena, Buckets, Lock, Places, Table, bytes_for, mix};
use crate::sync::{AtomicBool, AtomicU32, Ordering};
use crate::wire::{Message, Sync, SyncCode, SyncNote, SyncState};

/// A handle's place in this process.
struct Slot<'m> {
    client: Lock<Client<'m>>,
    /// The name of a call that waits for it; 0 for none.
    waiter: AtomicU32,
    /// More than one do.
    is_crowded: AtomicBool,
}

struct Directory<'m> {
    ids: Table<'m, u64>,
    places: Places<'m>,
    by_id: Buckets<'m>,
    /// For fresh ones.
    count: u32,
}

impl Directory<'_> {
    fn find(&self, id: u64) -> Option<u32> {
        self.by_id.find(mix(id), |place| {
            self.ids.get(place as usize).is_some_and(|of| *of == id)
        })
    }
}

/// The handles that this process uses.
pub(crate) struct Leases<'m> {
    slots: Table<'m, Slot<'m>>,
    directory: Lock<Directory<'m>>,
    /// Something could not be said yet, for want of room.
    due: AtomicBool,
}

impl<'m> Leases<'m> {
    pub(crate) const fn bytes(handles: usize, data: usize) -> usize {
        bytes_for::<Slot<'m>>(handles)
            .saturating_add(handles.saturating_mul(data))
            .saturating_add(bytes_for::<u64>(handles))
            .saturating_add(Places::bytes(handles))
            .saturating_add(Buckets::bytes(handles))
    }

    pub(crate) fn new(arena: &mut Arena<'m>, handles: usize, data: usize) -> Result<Self, Error> {
        let mut memory = arena.split_off(handles.saturating_mul(data))?;
        Ok(Leases {
            slots: arena.table(handles, |_| {
                Ok(Slot {
                    client: Lock::new(Client::new(memory.bytes(data)?)),
                    waiter: AtomicU32::new(0),
                    is_crowded: AtomicBool::new(false),
                })
            })?,
            directory: Lock::new(Directory {
                ids: arena.table(handles, |_| Ok(0))?,
                places: Places::new(arena, handles)?,
                by_id: Buckets::new(arena, handles)?,
                count: 0,
            }),
            due: AtomicBool::new(false),
        })
    }

    pub(crate) fn fill(&self) -> (usize, usize) {
        let directory = self.directory.lock();
        (directory.places.taken(), directory.places.most())
    }

    /// Frees the place if its handle is closed. True if it was.
    fn free_if_closed(&self, place: u32) -> bool {
        let mut directory = self.directory.lock();
        let Some(slot) = self.slots.get(place as usize) else {
            return false;
        };
        let client = slot.client.lock();
        let id = client.id();
        if !client.is_free() || directory.find(id) != Some(place) {
            return false;
        }
        directory.by_id.remove(mix(id), place);
        directory.places.give(place);
        true
    }
}

/// A sync handle that this process has opened.
///
/// Its number, [`SyncHandle::id`], is all another process needs to open it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncHandle {
    place: u32,
    id: u64,
    /// Which of those that were opened in that place.
    opened: u32,
}

impl SyncHandle {
    /// The number that it goes by in all processes.
    pub const fn id(&self) -> u64 {
        self.id
    }
}

/// What is new about a handle that was just taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Another process has changed the data since this one last used it.
    pub changed: bool,
    /// A process died while it could change the data: it is what that process last gave back. As
    /// `EOWNERDEAD` of a robust mutex; `pthread_mutex_lock(3)`.
    pub owner_died: bool,
}

impl<'m, P: Pal> Node<'m, P> {
    /// Opens a sync handle: the one with that number, or a fresh one (`None`) that no other process
    /// has. Sends nothing: the leader learns of it when it is first used.
    ///
    /// # Errors
    /// [`Error::Full`] ([`Resource::SyncHandles`]) at the limit; [`Error::Invalid`] if this process
    /// has it open, or is still closing it.
    pub fn open_sync(&self, id: Option<u64>) -> Result<SyncHandle, Error> {
        let mut directory = self.leases.directory.lock();
        let id = if let Some(id) = id {
            id
        } else {
            directory.count = directory.count.wrapping_add(1);
            // As processes in C make them: by their pid. One without has its VMID.
            let pid = self.pid().unwrap_or(self.identity.vmid.get());
            u64::from(pid) << 32 | u64::from(directory.count)
        };
        if directory.find(id).is_some() {
            return Err(Error::Invalid);
        }
        let place = directory
            .places
            .take()
            .ok_or(Error::Full(Resource::SyncHandles))?;
        if let Some(of) = directory.ids.get_mut(place as usize) {
            *of = id;
        }
        directory.by_id.insert(mix(id), place);
        let slot = self.leases.slots.get(place as usize);
        let can_lower = self.server.is_some() || self.has_extensions();
        let opened = slot.map_or(0, |slot| slot.client.lock().open(id, can_lower));
        Ok(SyncHandle { place, id, opened })
    }

    /// Takes the handle: [`SyncState::Shared`] to read its data, together with others;
    /// [`SyncState::Exclusive`] to change it, alone. The data is copied to `data` as far as there is
    /// room; returns its whole length, and what is new. Give it back with [`Node::unlock_sync`].
    ///
    /// Blocks until the handle is to be had, as long as `wait` allows, and not at all if this process
    /// still has the lease. With no time at all the lease is asked for all the same, so that it may
    /// be here next time.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the handle is closed or the state is none of the two;
    /// [`Error::TimedOut`] and [`Error::Interrupted`] as `wait` says; [`Error::Refused`] (`ENOMEM`)
    /// if the leader has no room for it; [`Error::LeaderGone`].
    pub fn lock_sync(
        &self,
        handle: SyncHandle,
        state: SyncState,
        data: &mut [u8],
        wait: Wait<'_>,
    ) -> Result<(usize, News), Error> {
        if !matches!(state, SyncState::Shared | SyncState::Exclusive) {
            return Err(Error::Invalid);
        }
        self.take_sync(handle, state, wait, |client| {
            let from = client.data();
            for (to, from) in data.iter_mut().zip(from) {
                *to = *from;
            }
            let length = from.len();
            let (changed, owner_died) = client.news();
            (
                length,
                News {
                    changed,
                    owner_died,
                },
            )
        })
    }

    #[allow(
        clippy::inline_always,
        reason = "a stop in memory on the way costs as much as the rest"
    )]
    #[inline(always)]
    pub(super) fn take_sync<T>(
        &self,
        handle: SyncHandle,
        state: SyncState,
        wait: Wait<'_>,
        mut read: impl FnMut(&mut Client<'m>) -> T,
    ) -> Result<T, Error> {
        let slot = self.slot(handle)?;
        {
            let mut client = slot.client.lock();
            if client.opened() != handle.opened {
                return Err(Error::Invalid);
            }
            if client.take(state) == Take::Taken {
                return Ok(read(&mut client));
            }
            client.wait(state, 1);
        }
        self.take_sync_later(handle, slot, state, wait, read)
    }

    /// It is not here, or in use.
    #[cold]
    fn take_sync_later<T>(
        &self,
        handle: SyncHandle,
        slot: &Slot<'m>,
        state: SyncState,
        wait: Wait<'_>,
        mut read: impl FnMut(&mut Client<'m>) -> T,
    ) -> Result<T, Error> {
        let limits = Limits::of(wait, &self.pal);
        let taken = self.wait_for_slot(handle, slot, limits, |client| {
            Some(match client.take(state) {
                Take::Taken => Ok(read(client)),
                Take::Wait => return None,
                other => Err(error_of(other)),
            })
        });
        let has_out = {
            let mut client = slot.client.lock();
            client.wait(state, -1);
            client.next().is_some()
        };
        if has_out {
            self.say_for(handle.place);
        }
        taken
    }

    /// Looks again and again, whenever something changes about the handle.
    fn wait_for_slot<T>(
        &self,
        handle: SyncHandle,
        slot: &Slot<'m>,
        limits: Limits<'_>,
        mut look: impl FnMut(&mut Client<'m>) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let server = self.identity.leader.unwrap_or(self.identity.vmid);
        if server != self.identity.vmid {
            self.leader()?;
        }
        let claim = self.waiters.claim(server, None, super::Late::Drop)?;
        let peer = self
            .identity
            .leader
            .and_then(|leader| self.peers.find(leader));
        let mut reading = None;
        let mut since = None;
        let outcome = loop {
            if let Some(event) = self.waiters.event(claim) {
                event.clear();
            }
            let first =
                slot.waiter
                    .compare_exchange(0, claim.name(), Ordering::SeqCst, Ordering::SeqCst);
            if first.is_err_and(|name| name != claim.name()) {
                slot.is_crowded.store(true, Ordering::SeqCst);
            }
            let (found, has_out) = {
                let mut client = slot.client.lock();
                let found = if client.opened() == handle.opened && !client.is_free() {
                    look(&mut client)
                } else {
                    Some(Err(Error::Invalid))
                };
                (found, client.next().is_some())
            };
            if has_out {
                self.say_for(handle.place);
            }
            if let Some(found) = found {
                break found;
            }
            if let Some(Err(error)) = self.waiters.outcome(claim) {
                break Err(error);
            }
            if let Some(error) = limits.reached(&self.pal) {
                break Err(error);
            }
            let Some(peer) = &peer else {
                self.sleep(claim, limits);
                continue;
            };
            // Not before what there was to say is said: the first look may find all here.
            if since.is_none() {
                since = Some(self.pal.now());
                reading = self.take_reading(peer, claim);
                continue;
            }
            let goes_on = if let Some(reading) = reading.as_mut() {
                let since = since.unwrap_or(Time(0));
                !peer.broken.load(Ordering::SeqCst)
                    && self.read_answers(peer, reading, claim, limits, since)
            } else {
                self.sleep(claim, limits);
                true
            };
            if !goes_on {
                self.give_reading(peer, reading.take());
            }
        };
        if let Some(peer) = &peer {
            self.give_reading(peer, reading);
        }
        let _ = slot
            .waiter
            .compare_exchange(claim.name(), 0, Ordering::SeqCst, Ordering::SeqCst);
        self.waiters.give(claim);
        // It may have been woken for somebody else.
        if slot.is_crowded.load(Ordering::SeqCst) {
            self.wake_slot(slot);
        }
        outcome
    }

    fn wake_slot(&self, slot: &Slot<'m>) {
        self.waiters.nudge(slot.waiter.load(Ordering::SeqCst));
        if slot.is_crowded.swap(false, Ordering::SeqCst) {
            let server = self.identity.leader.unwrap_or(self.identity.vmid);
            self.waiters.wake_for_room(server);
        }
    }

    /// Gives the handle back that was taken in that state; with what its data is now, if that has
    /// changed (after [`SyncState::Exclusive`] only; at most
    /// [`Capacities::sync_data`](crate::Capacities::sync_data) bytes). Never blocks: the lease
    /// stays here until another process asks for it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the handle is closed, or the data too long or not to be changed; then
    /// the handle is not given back.
    #[inline]
    pub fn unlock_sync(
        &self,
        handle: SyncHandle,
        state: SyncState,
        data: Option<&[u8]>,
    ) -> Result<(), Error> {
        let limit = self.config.capacities.sync_data;
        let may_change = state == SyncState::Exclusive;
        if data.is_some_and(|data| !may_change || data.len() > limit) {
            return Err(Error::Invalid);
        }
        self.give_sync(handle, state, |client| {
            if let Some(data) = data {
                client.data_mut(data.len()).copy_from_slice(data);
            }
        })
    }

    #[inline]
    pub(super) fn give_sync(
        &self,
        handle: SyncHandle,
        state: SyncState,
        change: impl FnOnce(&mut Client<'m>),
    ) -> Result<(), Error> {
        let slot = self.slot(handle)?;
        let has_out = {
            let mut client = slot.client.lock();
            if client.opened() != handle.opened || !client.is_taken(state) {
                return Err(Error::Invalid);
            }
            change(&mut client);
            client.give(state);
            client.next().is_some()
        };
        if has_out || slot.waiter.load(Ordering::SeqCst) != 0 {
            self.let_others_have(handle, slot);
        }
        Ok(())
    }

    /// Somebody wants what was given back.
    #[cold]
    fn let_others_have(&self, handle: SyncHandle, slot: &Slot<'m>) {
        self.say_for(handle.place);
        self.wake_slot(slot);
    }

    /// Makes a handle that was taken [`SyncState::Shared`] [`SyncState::Exclusive`], without letting
    /// go in between: nobody changes the data meanwhile.
    ///
    /// # Errors
    /// [`Error::Refused`] (`EDEADLK`) if somebody else wants to change the data and waits for this
    /// one to let go: it is still `Shared`, and to be given back. Else as [`Node::lock_sync`]; in
    /// all cases it stays `Shared`.
    pub fn upgrade_sync(&self, handle: SyncHandle, wait: Wait<'_>) -> Result<(), Error> {
        let slot = self.slot(handle)?;
        {
            let mut client = slot.client.lock();
            if client.opened() != handle.opened || !client.is_taken(SyncState::Shared) {
                return Err(Error::Invalid);
            }
            match client.upgrade(true) {
                Take::Taken => return Ok(()),
                Take::Wait => {}
                other => {
                    if other != Take::LetGo {
                        client.stop_upgrade();
                    }
                    return Err(error_of(other));
                }
            }
        }
        let limits = Limits::of(wait, &self.pal);
        let upgraded = self.wait_for_slot(handle, slot, limits, |client| {
            Some(match client.upgrade(false) {
                Take::Taken => Ok(()),
                Take::Wait => return None,
                other => Err(error_of(other)),
            })
        });
        if upgraded.is_err() {
            slot.client.lock().stop_upgrade();
            self.say_for(handle.place);
        }
        upgraded
    }

    /// Waits until the data of a handle may have become another: some process, or another thread of
    /// this one, was about to change it, or has. To be called without having taken it;
    /// `seen` is what [`Node::sync_changes`] said before the data was last looked at.
    ///
    /// # Errors
    /// As [`Node::lock_sync`].
    pub fn wait_sync(&self, handle: SyncHandle, seen: u64, wait: Wait<'_>) -> Result<(), Error> {
        let slot = self.slot(handle)?;
        let limits = Limits::of(wait, &self.pal);
        self.wait_for_slot(handle, slot, limits, |client| {
            (client.changes() != seen).then_some(Ok(()))
        })
    }

    /// A count that grows whenever the data of the handle changes, or may soon.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the handle is closed.
    pub fn sync_changes(&self, handle: SyncHandle) -> Result<u64, Error> {
        let slot = self.slot(handle)?;
        let client = slot.client.lock();
        if client.opened() == handle.opened && client.is_open() {
            Ok(client.changes())
        } else {
            Err(Error::Invalid)
        }
    }

    /// Closes a handle that nobody in this process has taken. Its data lives as long as any process
    /// that has used it has not closed it. Blocks until the leader has said that it knows, as long as `wait` allows; what comes
    /// of it after that frees the place all the same.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is in use or closed; [`Error::TimedOut`] and
    /// [`Error::Interrupted`] as `wait` says: it is closed then, too.
    pub fn close_sync(&self, handle: SyncHandle, wait: Wait<'_>) -> Result<(), Error> {
        let slot = self.slot(handle)?;
        let is_free = {
            let mut client = slot.client.lock();
            if client.opened() != handle.opened || !client.close() {
                return Err(Error::Invalid);
            }
            client.is_free()
        };
        self.wake_slot(slot);
        if is_free {
            self.leases.free_if_closed(handle.place);
            return Ok(());
        }
        self.say_for(handle.place);
        let limits = Limits::of(wait, &self.pal);
        let closed = self.wait_for_slot(handle, slot, limits, |_| None::<Result<(), Error>>);
        match closed {
            // The place is free, or another's.
            Err(Error::Invalid) => Ok(()),
            Err(Error::LeaderGone) => {
                slot.client.lock().abandon();
                self.leases.free_if_closed(handle.place);
                Ok(())
            }
            other => other,
        }
    }

    /// Closes all handles of this process that nobody uses. Blocks as [`Node::close_sync`] for each.
    ///
    /// # Errors
    /// The first that [`Node::close_sync`] gives, [`Error::Invalid`] if some are in use; the
    /// others are closed all the same.
    pub fn close_all_syncs(&self, wait: Wait<'_>) -> Result<(), Error> {
        let mut outcome = Ok(());
        for (place, slot) in (0..).zip(self.leases.slots.iter()) {
            let (handle, is_open) = {
                let client = slot.client.lock();
                let (id, opened) = (client.id(), client.opened());
                (SyncHandle { place, id, opened }, client.is_open())
            };
            if is_open {
                outcome = outcome.and(self.close_sync(handle, wait));
            }
        }
        outcome
    }

    /// Closes what nobody here has taken, without waiting.
    pub(super) fn close_unused_syncs(&self) {
        for (place, slot) in (0..).zip(self.leases.slots.iter()) {
            let is_closing = slot.client.lock().close();
            if is_closing {
                self.say_for(place);
                self.leases.free_if_closed(place);
            }
        }
    }

    #[inline]
    fn slot(&self, handle: SyncHandle) -> Result<&Slot<'m>, Error> {
        self.leases
            .slots
            .get(handle.place as usize)
            .ok_or(Error::Invalid)
    }

    /// Says to the server what the client has to say, now or when there is room.
    fn say_for(&self, place: u32) {
        if !self.try_say_for(place) {
            self.leases.due.store(true, Ordering::SeqCst);
            self.wake();
        }
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
                let message = Message::Sync(say.code, client.message(say));
                match self.put(&peer, 0, &message, AT_ONCE) {
                    // A leader that is gone hears nothing any more.
                    Ok(()) | Err(Error::LeaderGone) => client.said(say),
                    Err(_) => break false,
                }
            }
        };
        self.flush(&peer);
        all
    }

    /// As the leader: between its own client and the server.
    fn exchange_here(&self, slot: &Slot<'m>) {
        let Some(server) = &self.server else { return };
        let us = self.identity.vmid;
        let mut is_refused = false;
        let mut server = server.lock();
        let mut client = slot.client.lock();
        while let Some(say) = client.next() {
            let heard = server.hear(us, say.code, &client.message(say));
            client.said(say);
            if heard == Err(Refused::NoRoom) {
                client.hear_no_room();
                is_refused = true;
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
        !matches!(self.put(peer, 0, &message, AT_ONCE), Err(Error::Full(_)))
    }

    /// As the leader: its own client hears something.
    fn hear_here(&self, told: Told<'_>) -> Option<(u32, &Slot<'m>)> {
        let id = match told {
            Told::Message(_, sync) => sync.id,
            Told::OwnerDied(id) => id,
        };
        let place = self.leases.directory.lock().find(id)?;
        let slot = self.leases.slots.get(place as usize)?;
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
        let heard = server.lock().hear(peer.vmid(), code, sync);
        match heard {
            Ok(()) => {
                if !self.tell_clients(true) {
                    self.leases.due.store(true, Ordering::SeqCst);
                    self.wake();
                }
                Ok(true)
            }
            Err(Refused::Unfitting) => Err(Refusal::UnfittingSync),
            Err(Refused::NoRoom) => {
                let note = Message::SyncNote {
                    id: sync.id,
                    note: SyncNote::NoRoom,
                };
                if peer.extended.load(Ordering::SeqCst) {
                    if self.put(peer, 0, &note, AT_ONCE).is_err() {
                        return Ok(false);
                    }
                } else {
                    // There is no word for it that a client in C knows.
                    self.counters.undone.add(1);
                }
                Ok(true)
            }
        }
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
        let place = self.leases.directory.lock().find(id);
        let slot = place.and_then(|place| Some((place, self.leases.slots.get(place as usize)?)));
        let Some((place, slot)) = slot else {
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
            self.leases.due.store(true, Ordering::SeqCst);
            self.wake();
        }
    }

    /// In the worker: says what there was no room for before. False if there still is none for some.
    pub(crate) fn say_what_is_due(&self) -> bool {
        if !self.leases.due.swap(false, Ordering::SeqCst) {
            return true;
        }
        let mut all = self.tell_clients(true);
        for (place, slot) in (0..).zip(self.leases.slots.iter()) {
            let has_out = slot.client.lock().next().is_some();
            all &= !has_out || self.try_say_for(place);
        }
        if !all {
            self.leases.due.store(true, Ordering::SeqCst);
        }
        all
    }
}

const AT_ONCE: Limits<'static> = Limits {
    until: Some(Time(0)),
    interrupt: None,
};

fn error_of(take: Take) -> Error {
    match take {
        Take::LetGo => Error::Refused(errno::EDEADLK),
        Take::NoRoom => Error::Refused(errno::ENOMEM),
        Take::Closed | Take::Taken | Take::Wait => Error::Invalid,
    }
}
