//! The waits of calls for a sync handle, in the queue of their process.

use super::Opened;
use super::call_queue::{WaitKind, WakeSet};
use super::slots::Slot;
use crate::error::{Error, Invalid};
use crate::invariant::OrBroken;
use crate::node::rpc::{ClaimedWaiter, Limits, Progress, WaitToken, Wake};
use crate::node::{Node, Phase, WaitReason};
use crate::pal::Pal;
use crate::shared_state::Client;
use crate::sync::Ordering;
use crate::wire::SyncState;

/// How a wait has ended, if it has.
type Ended = Option<Result<(), Error>>;

/// The place of a call in the queue of a handle. The call leaves the queue when this is dropped.
struct QueuedCall<'a, 'm, P: Pal> {
    node: &'a Node<'m, P>,
    opened: Opened<'a, 'm>,
    kind: WaitKind,
    /// None if no waiter was free, so that the call is not in the queue.
    waiter: Option<ClaimedWaiter<'a, 'm, P>>,
}

impl<'m, P: Pal> Node<'m, P> {
    /// Returns the error that ends every wait for a sync handle.
    fn failure_of_slot(&self, token: WaitToken) -> Option<Error> {
        if let Some(error) = self.failure(token) {
            return Some(error);
        }
        // The leader may have ended before the wait was registered, so that nothing failed the
        // wait.
        if self.leader_gone.load(Ordering::SeqCst) {
            return Some(self.gone_error(self.leader_vmid()));
        }
        if self.phase() != Phase::Running {
            return Some(Error::ShuttingDown);
        }
        self.check_limits().err()
    }

    /// Checks that there is a place for the leader, if it is not connected.
    ///
    /// # Errors
    /// [`Error::Full`] if there is none: a message to it would wait until the call's time limit.
    fn check_place_of_leader(&self) -> Result<(), Error> {
        match self.led_by() {
            Some(leader) if !self.leader_gone.load(Ordering::SeqCst) => {
                self.peers.find_or_add(leader).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Wakes the calls that wait for the handle.
    pub(super) fn wake_slot(&self, slot: &Slot<'m>) {
        self.wake_set(slot, slot.call_queue.wakes());
    }

    pub(super) fn wake_set(&self, slot: &Slot<'m>, wakes: WakeSet) {
        self.waiters.wake(wakes.first);
        self.waiters.wake(wakes.upgrader);
        if wakes.observers {
            let what = WaitReason::Handle(slot.client.lock().id());
            let links = &self.sync_handles.links;
            self.waiters.wake_all(what, |name| links.is_observer(name));
        }
    }
}

impl<'a, 'm, P: Pal> QueuedCall<'a, 'm, P> {
    /// Puts the call into the queue.
    fn enter(&mut self, waiter: ClaimedWaiter<'a, 'm, P>) {
        let (links, call_queue) = (&self.node.sync_handles.links, &self.opened.slot.call_queue);
        let mut client = self.opened.slot.client.lock();
        call_queue.enqueue(links, waiter.token.name(), self.kind);
        client.set_head_request(call_queue.head_request(links));
        self.waiter = Some(waiter);
    }

    /// Polls the call. Returns its outcome. The error, while there is none, is the way in which the server's answer can
    /// end the wait.
    fn poll(
        &self,
        token: WaitToken,
        poll: &mut (impl FnMut(&mut Client<'m>, bool) -> Ended + ?Sized),
    ) -> Result<Result<(), Error>, Option<Wake>> {
        let (node, slot) = (self.node, self.opened.slot);
        let (found, wake, has_output) = {
            let mut client = slot.client.lock();
            let is_first = slot.call_queue.is_first(token.name());
            let found = if client.generation() == self.opened.handle.generation && !client.is_free()
            {
                poll(&mut client, is_first)
            } else {
                Some(Err(Error::Invalid(Invalid::HandleClosed)))
            };
            let wake = wake_source(&client, self.kind, is_first);
            (found, wake, client.poll_transmit().is_some())
        };
        if has_output {
            node.send_client_messages(self.opened.handle.slot_index);
        }
        match found {
            // The shutdown has closed the handle.
            Some(Err(Error::Invalid(Invalid::HandleClosed))) if node.phase() != Phase::Running => {
                Ok(Err(Error::ShuttingDown))
            }
            Some(found) => Ok(found),
            None => node.failure_of_slot(token).map(Err).ok_or(wake),
        }
    }

    /// Takes the call out of the queue, and wakes the next one if that may go on.
    fn leave(&mut self) {
        let Some(waiter) = self.waiter.take() else {
            return;
        };
        let (slot, kind, name) = (self.opened.slot, self.kind, waiter.token.name());
        let links = &self.node.sync_handles.links;
        let next = {
            let mut client = slot.client.lock();
            let was_first = slot.call_queue.is_first(name);
            slot.call_queue.dequeue(links, name, kind);
            let wants = slot.call_queue.head_request(links);
            client.set_head_request(wants);
            // A call that acquired the handle to read lets the readers behind it in; one that gave
            // up lets any call in.
            let can_go = !client.is_in_use()
                || wants == Some(SyncState::Shared) && !client.is_held(SyncState::Exclusive);
            let is_free = (was_first || kind == WaitKind::Upgrade) && can_go;
            if is_free {
                slot.call_queue.wakes().first
            } else {
                0
            }
        };
        self.node.waiters.wake(next);
    }
}

impl<P: Pal> Drop for QueuedCall<'_, '_, P> {
    fn drop(&mut self) {
        self.leave();
        let has_output = {
            let mut client = self.opened.slot.client.lock();
            // The handle may have been closed meanwhile, and the slot opened again.
            if let WaitKind::Use(state) = self.kind
                && client.generation() == self.opened.handle.generation
            {
                client.change_waiters(state, -1);
            }
            client.poll_transmit().is_some()
        };
        if has_output {
            self.node
                .send_client_messages(self.opened.handle.slot_index);
        }
    }
}

/// Returns the way in which the server's answer ends the wait; `None` if only other threads of this
/// process can end it.
fn wake_source(client: &Client<'_>, kind: WaitKind, is_first: bool) -> Option<Wake> {
    let needs_server = match kind {
        WaitKind::Use(state) => is_first && !client.has_lease(state),
        WaitKind::Upgrade => !client.has_lease(SyncState::Exclusive),
        WaitKind::Change | WaitKind::Close => true,
    };
    let by_event = kind == WaitKind::Change || client.is_in_use();
    let wake = if by_event { Wake::Event } else { Wake::Bytes };
    needs_server.then_some(wake)
}

calls! {
    /// Waits until `poll` returns a result, and calls it whenever the handle changes in a way that
    /// may end the wait. The second argument of `poll` says whether the call is the first in the
    /// queue.
    fn wait_for_slot<T>(
        &self,
        opened: &Opened<'_, 'm>,
        kind: WaitKind,
        limits: Limits<'_>,
        mut poll: impl FnMut(&mut Client<'m>, bool) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut result = None;
        let mut poll = |client: &mut Client<'m>, is_first| {
            let polled = poll(client, is_first)?;
            Some(polled.map(|found| result = Some(found)))
        };
        wait!(self.wait_in_queue(opened, kind, limits, &mut poll))?;
        // The wait succeeds only with a result.
        result.ok_or(Error::Invalid(Invalid::Internal))
    }

    /// Like `wait_for_slot`, for a caller that keeps the result of `poll` itself.
    fn wait_in_queue(
        &self,
        opened: &Opened<'_, 'm>,
        kind: WaitKind,
        limits: Limits<'_>,
        poll: &mut callback!(FnMut(&mut Client<'m>, bool) -> Ended),
    ) -> Result<(), Error> {
        let mut place = QueuedCall {
            node: self.node(),
            opened: *opened,
            kind,
            waiter: None,
        };
        let server = self.leader_vmid();
        let what = WaitReason::Handle(opened.handle.id);
        let is_open_ended = kind != WaitKind::Close;
        let waiter = self.claim_waiter(server, what, limits, is_open_ended)?;
        let token = waiter.token;
        place.enter(waiter);
        let peer = self
            .led_by()
            .and_then(|leader| self.peers.find(leader));
        if peer.is_none() {
            self.check_place_of_leader()?;
        }
        let mut outcome = None;
        let mut step = |limit: Option<Error>| {
            outcome = match limit {
                Some(error) => Some(Err(error)),
                None => match place.poll(token, poll) {
                    Ok(found) => Some(found),
                    Err(wake) => return Progress::Pending(wake),
                },
            };
            Progress::Done
        };
        // A thread takes over the reading only after its messages are queued: the first poll may
        // succeed without the server.
        wait!(self.run(token, limits, peer.as_ref(), &mut step));
        drop(place);
        // The machine runs until there is an outcome.
        outcome.or_broken(Err(Error::Invalid(Invalid::Internal)))
    }
}
