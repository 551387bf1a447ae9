//! How a call waits for a sync handle, in the queue of its process.

use super::SyncHandle;
use super::slots::Slot;
use super::wait_queue::{WaitKind, WakeSet};
use crate::error::Error;
use crate::invariant::OrBroken;
use crate::node::rpc::{CallerRead, Limits, Progress, WaitToken, Wake};
use crate::node::{LateReply, Node, Phase, WaitReason};
use crate::pal::Pal;
use crate::shared_state::Client;
use crate::sync::Ordering;
use crate::wire::SyncState;

impl<'m, P: Pal> Node<'m, P> {
    /// Waits until `poll` returns a result, and calls it whenever the handle changes in a way that
    /// may end the wait. The second argument of `poll` says whether the call is the first in the
    /// queue.
    pub(super) fn wait_for_slot<T>(
        &self,
        handle: SyncHandle,
        slot: &Slot<'m>,
        kind: WaitKind,
        limits: Limits<'_>,
        poll: impl FnMut(&mut Client<'m>, bool) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let server = self.identity.leader_vmid();
        let shown = (WaitReason::Handle(handle.id), self.now());
        let is_open_ended = !matches!(kind, WaitKind::Close);
        let claimed = self
            .waiters
            .claim(server, shown, None, LateReply::Drop, is_open_ended);
        let outcome = match claimed {
            Ok(claim) => {
                let outcome = self.wait_queued(handle, slot, kind, (claim, limits), poll);
                self.waiters.release(claim);
                outcome
            }
            Err(error) => Err(error),
        };
        let has_output = {
            let mut client = slot.client.lock();
            // The handle may have been closed meanwhile, and the slot opened again.
            if let WaitKind::Use(state) = kind
                && client.generation() == handle.generation
            {
                client.change_waiters(state, -1);
            }
            client.poll_transmit().is_some()
        };
        if has_output {
            self.send_client_messages(handle.slot_index);
        }
        outcome
    }

    fn wait_queued<T>(
        &self,
        handle: SyncHandle,
        slot: &Slot<'m>,
        kind: WaitKind,
        (token, limits): (WaitToken, Limits<'_>),
        mut poll: impl FnMut(&mut Client<'m>, bool) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let (name, links) = (token.name(), &self.sync_handles.links);
        {
            let mut client = slot.client.lock();
            slot.wait_queue.enqueue(links, name, kind);
            client.set_head_request(slot.wait_queue.head_request(links));
        }
        let peer = self
            .identity
            .leader
            .and_then(|leader| self.peers.find(leader));
        // The thread takes over the reading only after its messages are queued: the first poll may
        // succeed without the server.
        let mut reader = peer.as_ref().map(|peer| CallerRead::new(self, peer, token));
        let mut outcome = None;
        self.block_on(token, limits, reader.as_mut(), &mut |limit| {
            if let Some(error) = limit {
                outcome = Some(Err(error));
                return Progress::Done;
            }
            let (found, wake, has_output) = {
                let mut client = slot.client.lock();
                let is_first = slot.wait_queue.is_first(name);
                let found = if client.generation() == handle.generation && !client.is_free() {
                    poll(&mut client, is_first)
                } else {
                    Some(Err(Error::Invalid))
                };
                let wake = wake_source(&client, kind, is_first);
                (found, wake, client.poll_transmit().is_some())
            };
            if has_output {
                self.send_client_messages(handle.slot_index);
            }
            outcome = match found {
                // The shutdown has closed the handle.
                Some(Err(Error::Invalid)) if self.phase() != Phase::Running => {
                    Some(Err(Error::ShuttingDown))
                }
                None => self.failure_of_slot(token).map(Err),
                found => found,
            };
            match outcome {
                Some(_) => Progress::Done,
                None => Progress::Pending(wake),
            }
        });
        drop(reader);
        let next = {
            let mut client = slot.client.lock();
            let was_first = slot.wait_queue.is_first(name);
            slot.wait_queue.dequeue(links, name, kind);
            let wants = slot.wait_queue.head_request(links);
            client.set_head_request(wants);
            // A call that acquired the handle to read lets the readers behind it in; one that gave
            // up lets any call in.
            let can_go = !client.is_in_use()
                || wants == Some(SyncState::Shared) && !client.is_held(SyncState::Exclusive);
            let is_free = (was_first || kind == WaitKind::Upgrade) && can_go;
            if is_free {
                slot.wait_queue.wakes().first
            } else {
                0
            }
        };
        self.waiters.wake(next);
        // The loop returns only after there is an outcome.
        outcome.or_broken(Err(Error::Invalid))
    }

    /// Returns the error that ends every wait for a sync handle.
    fn failure_of_slot(&self, token: WaitToken) -> Option<Error> {
        if let Some(error) = self.failure(token) {
            return Some(error);
        }
        // The leader may have ended before the wait was registered, so that nothing failed the
        // wait.
        if self.leader_gone.load(Ordering::SeqCst) {
            return Some(self.gone(self.leader_vmid()));
        }
        if self.phase() != Phase::Running {
            return Some(Error::ShuttingDown);
        }
        self.check_limits().err()
    }

    /// Wakes the calls that wait for the handle.
    pub(super) fn wake_slot(&self, slot: &Slot<'m>) {
        self.wake_set(slot, slot.wait_queue.wakes());
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

/// The way in which the server's answer ends the wait; `None` if only other threads of this process
/// can end it.
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
