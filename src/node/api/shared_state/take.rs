//! Taking sync handles, and giving them back.

use super::line::{For, Wakes};
use super::slots::Slot;
use super::{News, SyncHandle};
use crate::error::{Error, errno};
use crate::node::rpc::Claim;
use crate::node::rpc::Limits;
use crate::node::rpc::Wake;
use crate::node::{Late, Node, Phase, Wait, WaitsFor};
use crate::pal::{Event, Pal, Time};
use crate::shared_state::{Client, Take};
use crate::store::{copy, give_way};
use crate::sync::Ordering;
use crate::wire::SyncState;

impl<'m, P: Pal> Node<'m, P> {
    /// Takes the handle: [`SyncState::Shared`] to read its data, together with others;
    /// [`SyncState::Exclusive`] to change it, alone. The data is copied to `data` as far as there is
    /// room; returns its whole length, and what is new. Give it back with [`Node::unlock_sync`].
    ///
    /// Blocks until the handle is to be had, as long as `wait` allows, and not at all if this process
    /// still has the lease and nobody here uses the handle or waits for it. Threads of this process are
    /// served in the order in which they called: one that wants to change the data is passed by
    /// nobody who calls later, one that wants to read only by others that do. A thread that has taken the handle
    /// and calls this again may wait for itself.
    ///
    /// With no time at all the lease is asked for all the same, so that it may
    /// be here next time.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the handle is closed or the state is none of the two;
    /// [`Error::TimedOut`] and [`Error::Interrupted`] as `wait` says; [`Error::Refused`] (`ENOMEM`)
    /// if the leader has no room for it; [`Error::LimitsDiffer`] if its handles have another length;
    /// [`Error::LeaderGone`].
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
        self.take_sync(handle, state, false, wait, |client| {
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

    /// As [`Node::lock_sync`], but one thread of this process at a time uses the handle, even to read.
    /// `read` is given the data if it is not what this process last had. A caller that can't be told of a
    /// death (`hears_of_death` is false) leaves that to the next.
    #[cfg(feature = "capi")]
    pub(crate) fn lock_sync_alone(
        &self,
        handle: SyncHandle,
        state: SyncState,
        hears_of_death: bool,
        wait: Wait<'_>,
        mut read: impl FnMut(&[u8]),
    ) -> Result<News, Error> {
        if !matches!(state, SyncState::Shared | SyncState::Exclusive) {
            return Err(Error::Invalid);
        }
        self.take_sync(handle, state, true, wait, |client| {
            let (changed, owner_died) = client.news();
            if changed {
                read(client.data());
            }
            if owner_died && !hears_of_death {
                client.put_news_back((false, true));
            }
            News {
                changed,
                owner_died,
            }
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
        alone: bool,
        wait: Wait<'_>,
        mut read: impl FnMut(&mut Client<'m>) -> T,
    ) -> Result<T, Error> {
        self.alive()?;
        let slot = self.slot(handle)?;
        {
            let mut client = slot.client.lock();
            if client.opened() != handle.opened {
                return Err(Error::Invalid);
            }
            // Who uses it alone is passed by nobody, and passes nobody.
            let passes_as = if alone { SyncState::Exclusive } else { state };
            let has_turn = client.may_pass(passes_as) && !(alone && client.is_used());
            if client.take_in_turn(state, has_turn) == Take::Taken {
                return Ok(read(&mut client));
            }
            client.wait(state, 1);
        }
        self.take_sync_later(handle, slot, state, alone, wait, read)
    }

    /// It is not here, or in use.
    #[cold]
    fn take_sync_later<T>(
        &self,
        handle: SyncHandle,
        slot: &Slot<'m>,
        state: SyncState,
        alone: bool,
        wait: Wait<'_>,
        mut read: impl FnMut(&mut Client<'m>) -> T,
    ) -> Result<T, Error> {
        let limits = Limits::of(wait, &self.pal);
        self.wait_for_slot(handle, slot, For::Use(state), limits, |client, is_first| {
            let has_turn = is_first && !(alone && client.is_used());
            Some(match client.take_in_turn(state, has_turn) {
                Take::Taken => Ok(read(client)),
                Take::Wait => return None,
                other => Err(error_of(other)),
            })
        })
    }

    /// Looks again and again, whenever something changes about the handle that may end the wait. `look`
    /// is told whether the call is the first in line.
    pub(super) fn wait_for_slot<T>(
        &self,
        handle: SyncHandle,
        slot: &Slot<'m>,
        what: For,
        limits: Limits<'_>,
        look: impl FnMut(&mut Client<'m>, bool) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let server = self.identity.leader.unwrap_or(self.identity.vmid);
        let shown = (WaitsFor::Handle(handle.id), self.now());
        let claimed = self.waiters.claim(server, shown, None, Late::Drop);
        let outcome = match claimed {
            Ok(claim) => {
                let outcome = self.wait_in_line(handle, slot, what, (claim, limits), look);
                self.waiters.give(claim);
                outcome
            }
            Err(error) => Err(error),
        };
        let has_out = {
            let mut client = slot.client.lock();
            // Unless it was closed, and the place is another's.
            if let For::Use(state) = what
                && client.opened() == handle.opened
            {
                client.wait(state, -1);
            }
            client.next().is_some()
        };
        if has_out {
            self.say_for(handle.place);
        }
        outcome
    }

    fn wait_in_line<T>(
        &self,
        handle: SyncHandle,
        slot: &Slot<'m>,
        what: For,
        (claim, limits): (Claim, Limits<'_>),
        mut look: impl FnMut(&mut Client<'m>, bool) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let (name, links) = (claim.name(), &self.leases.links);
        {
            let mut client = slot.client.lock();
            slot.line.join(links, name, what);
            client.set_first(slot.line.first_wants(links));
        }
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
            let (found, wake, has_out) = {
                let mut client = slot.client.lock();
                let found = if client.opened() == handle.opened && !client.is_free() {
                    look(&mut client, slot.line.is_first(name))
                } else {
                    Some(Err(Error::Invalid))
                };
                let wake = server_wake(&client, what, slot.line.is_first(name), limits);
                (found, wake, client.next().is_some())
            };
            if has_out {
                self.say_for(handle.place);
            }
            match found {
                // It was closed for that.
                Some(Err(Error::Invalid)) if self.phase() != Phase::Running => {
                    break Err(Error::ShuttingDown);
                }
                Some(found) => break found,
                None => {}
            }
            if let Some(Err(error)) = self.waiters.outcome(claim) {
                break Err(error);
            }
            // Before the claim was there nobody could fail it.
            if self.leader_gone.load(Ordering::SeqCst) {
                break Err(Error::LeaderGone);
            }
            if self.phase() != Phase::Running {
                break Err(Error::ShuttingDown);
            }
            if let Err(error) = self.check_limits() {
                break Err(error);
            }
            if let Some(error) = limits.reached(&self.pal) {
                break Err(error);
            }
            let (Some(peer), Some(wake)) = (&peer, wake) else {
                if let Some(peer) = &peer {
                    self.give_reading(peer, reading.take());
                }
                self.sleep(claim, limits);
                continue;
            };
            // Not before what there was to say is said: the first look may find all here.
            if since.is_none() {
                since = Some(self.now());
                reading = self.take_reading(peer, claim);
                continue;
            }
            let goes_on = if let Some(reading) = reading.as_mut() {
                let since = since.unwrap_or(Time(0));
                !peer.broken.load(Ordering::SeqCst)
                    && self.read_answers(peer, reading, claim, limits, (since, wake))
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
        let next = {
            let mut client = slot.client.lock();
            let was_first = slot.line.is_first(name);
            slot.line.leave(links, name, what);
            let wants = slot.line.first_wants(links);
            client.set_first(wants);
            // A reader lets the readers behind it in; a call that gave up, all.
            let can_go = !client.is_used()
                || wants == Some(SyncState::Shared) && !client.is_taken(SyncState::Exclusive);
            let is_free = (was_first || what == For::Upgrade) && can_go;
            if is_free { slot.line.wakes().first } else { 0 }
        };
        self.waiters.nudge(next);
        outcome
    }

    /// Has the calls look again that wait for the handle.
    pub(super) fn wake_slot(&self, slot: &Slot<'m>) {
        self.wake_these(slot, slot.line.wakes());
    }

    fn wake_these(&self, slot: &Slot<'m>, wakes: Wakes) {
        self.waiters.nudge(wakes.first);
        self.waiters.nudge(wakes.upgrader);
        if wakes.aside {
            let what = WaitsFor::Handle(slot.client.lock().id());
            let links = &self.leases.links;
            self.waiters.nudge_all(what, |name| links.is_aside(name));
        }
    }

    /// Gives the handle back that was taken in that state; with what its data is now, if that has
    /// changed (after [`SyncState::Exclusive`] only; at most
    /// [`Capacities::sync_data`](crate::Capacities::sync_data) bytes). Never blocks: the lease
    /// stays here until another process asks for it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the handle is closed, or nobody here has taken it in that state, or the
    /// data is too long or not to be changed; then nothing is given back and nothing has changed.
    #[inline]
    pub fn unlock_sync(
        &self,
        handle: SyncHandle,
        state: SyncState,
        data: Option<&[u8]>,
    ) -> Result<(), Error> {
        let length = data.map(<[u8]>::len);
        let fill = |room: &mut [u8]| copy(room, data.unwrap_or(&[]));
        self.unlock_sync_with(handle, state, length, fill)
    }

    /// As [`Node::unlock_sync`]; what the data is now is that long, and `fill` writes it: where it
    /// is to be kept, and only once its length is known to fit.
    #[inline]
    pub(crate) fn unlock_sync_with(
        &self,
        handle: SyncHandle,
        state: SyncState,
        length: Option<usize>,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), Error> {
        self.alive()?;
        let limit = self.config.capacities.sync_data;
        let may_change = state == SyncState::Exclusive;
        if length.is_some_and(|length| !may_change || length > limit) {
            return Err(Error::Invalid);
        }
        self.give_sync(handle, state, |client| {
            if let Some(length) = length {
                fill(client.data_mut(length));
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
        let (is_wanted, has_changed) = {
            let mut client = slot.client.lock();
            if client.opened() != handle.opened || !client.is_taken(state) {
                return Err(Error::Invalid);
            }
            let changes = client.changes();
            change(&mut client);
            client.give(state);
            let is_wanted = client.is_wanted() || slot.line.is_waited_for();
            (is_wanted, client.changes() != changes)
        };
        if is_wanted {
            self.let_others_have(handle, slot, has_changed);
        }
        Ok(())
    }

    /// Somebody wants what was given back, or waits for what has changed.
    #[cold]
    fn let_others_have(&self, handle: SyncHandle, slot: &Slot<'m>, has_changed: bool) {
        let (has_out, yields, wakes) = {
            let mut client = slot.client.lock();
            let yields = client.is_contended() && client.is_time_to_yield();
            client.note_wanted();
            let mut wakes = slot.line.wakes();
            if client.is_used() {
                // The first in line waits for the last that uses it.
                wakes.first = 0;
            }
            wakes.aside &= has_changed;
            (client.next().is_some(), yields, wakes)
        };
        if has_out {
            self.say_for(handle.place);
        }
        self.wake_these(slot, wakes);
        if yields {
            give_way();
        }
    }

    /// Makes a handle that was taken [`SyncState::Shared`] [`SyncState::Exclusive`], without letting
    /// go in between: nobody changes the data meanwhile. It waits for those of this process that read
    /// already, and for nobody that calls later or waits for its turn.
    ///
    /// # Errors
    /// [`Error::Refused`] (`EDEADLK`) if somebody else wants to change the data and waits for this
    /// one to let go: it is still `Shared`, and to be given back. [`Error::Unsupported`] if the leader
    /// is a process in C, and this process has not got the handle to change it: such a leader can't
    /// keep others from changing the data in between. Else as [`Node::lock_sync`]; in all cases it
    /// stays `Shared`.
    pub fn upgrade_sync(&self, handle: SyncHandle, wait: Wait<'_>) -> Result<(), Error> {
        self.alive()?;
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
                    if !matches!(other, Take::LetGo | Take::Unsupported) {
                        client.stop_upgrade();
                    }
                    drop(client);
                    self.wake_slot(slot);
                    return Err(error_of(other));
                }
            }
        }
        let limits = Limits::of(wait, &self.pal);
        let upgraded = self.wait_for_slot(handle, slot, For::Upgrade, limits, |client, _| {
            Some(match client.upgrade(false) {
                Take::Taken => Ok(()),
                Take::Wait => return None,
                other => Err(error_of(other)),
            })
        });
        if upgraded.is_err() {
            slot.client.lock().stop_upgrade();
            self.say_for(handle.place);
            // Readers that came meanwhile may have their turn now.
            self.wake_slot(slot);
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
        self.alive()?;
        let slot = self.slot(handle)?;
        let limits = Limits::of(wait, &self.pal);
        self.wait_for_slot(handle, slot, For::Change, limits, |client, _| {
            (client.changes() != seen).then_some(Ok(()))
        })
    }

    /// How many deaths this process heard of that left the handle behind, and how many of them it has told
    /// its callers.
    pub(super) fn sync_deaths(&self, handle: SyncHandle) -> Result<(u32, u32), Error> {
        let client = self.slot(handle)?.client.lock();
        if client.opened() == handle.opened {
            Ok((client.deaths(), client.told_deaths()))
        } else {
            Err(Error::Invalid)
        }
    }

    /// The data has changed, and a call that has seen that has failed: the next is to be told.
    pub(super) fn keep_sync_change(&self, handle: SyncHandle, is_changed: bool) {
        if let Ok(slot) = self.slot(handle) {
            let mut client = slot.client.lock();
            if client.opened() == handle.opened {
                client.put_news_back((is_changed, false));
            }
        }
    }

    /// A count that grows whenever the data of the handle changes, or may soon.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the handle is closed.
    pub fn sync_changes(&self, handle: SyncHandle) -> Result<u64, Error> {
        self.alive()?;
        let slot = self.slot(handle)?;
        let client = slot.client.lock();
        if client.opened() == handle.opened && client.is_open() {
            Ok(client.changes())
        } else {
            Err(Error::Invalid)
        }
    }
}

/// What may end the wait, if the call waits for the server's word; `None` if only other threads of this
/// process can bring it on.
fn server_wake(client: &Client<'_>, what: For, is_first: bool, limits: Limits<'_>) -> Option<Wake> {
    let needs_server = match what {
        For::Use(state) => is_first && !client.has(state),
        For::Upgrade => !client.has(SyncState::Exclusive),
        For::Change | For::Close => true,
    };
    let by_event = limits.interrupt.is_some() || what == For::Change || client.is_used();
    let wake = if by_event { Wake::Event } else { Wake::Bytes };
    needs_server.then_some(wake)
}

fn error_of(take: Take) -> Error {
    match take {
        Take::LetGo => Error::Refused(errno::EDEADLK),
        Take::NoRoom => Error::Refused(errno::ENOMEM),
        Take::Unsupported => Error::Unsupported,
        Take::Closed | Take::Taken | Take::Wait => Error::Invalid,
    }
}
