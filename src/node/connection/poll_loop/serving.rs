//! The peers that the worker serves in a poll iteration, before it looks at the streams.

use super::worker_state::Round;
use super::{RETRY, Retry, WorkerState};
use crate::counters::Refusal;
use crate::invariant::Count;
use crate::node::{Node, PeerRef, Sender};
use crate::pal::{Pal, Time};
use crate::sync::Ordering;

/// The most scheduled peers that one poll iteration serves, so that it takes some milliseconds if many processes end at
/// once: each close takes several system calls.
const SERVED_AT_ONCE: usize = 32;

impl<'m, P: Pal> Node<'m, P> {
    /// Serves scheduled peers, at most [`SERVED_AT_ONCE`]. Returns when to serve again.
    pub(super) fn serve_scheduled(&self, state: &mut WorkerState<'m, P::Stream>) -> Retry {
        if state.round.left == 0 {
            // Only the peers that are scheduled now: a peer that is scheduled again is served after the
            // streams.
            state.round = Round::new(self.peers.scheduled());
            state.next_try = None;
        }
        for _ in 0..state.round.left.min(SERVED_AT_ONCE) {
            state.round.left.decrement();
            let Some(peer) = self.peers.next_scheduled() else {
                continue;
            };
            let retry = self.serve(state, &peer);
            if retry != Retry::No {
                self.schedule_again(state, &peer);
                state.round.retry = state.round.retry.min(retry);
            }
            self.run_upcalls();
        }
        let retry = self.send_output(Sender::Worker);
        // The calls to the embedder that this and other threads have queued.
        self.run_upcalls();
        if state.round.left > 0 {
            return Retry::Now;
        }
        retry.min(state.round.retry)
    }

    /// Serves a peer that was scheduled. Returns when it must be served again.
    fn serve(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        peer: &PeerRef<'_, 'm, P::Stream>,
    ) -> Retry {
        let kept_until = Self::kept_until(peer).filter(|until| self.now() < *until);
        if let Some(until) = kept_until {
            self.serve_again_at(state, peer, until);
            return Retry::No;
        }
        if !self.mark_broken_if_unreachable(peer) {
            return Retry::Soon;
        }
        if peer.broken.load(Ordering::SeqCst) {
            if self.may_be_refused(peer) {
                self.accept_last(state);
            }
            return self.close(state, peer);
        }
        self.flush(peer);
        let retry = self.resume(peer);
        if let Some(next) = peer.next_try() {
            // Later if another thread had locked the half, so that no attempt was made.
            let now = self.now();
            let next = if next > now { next } else { now + RETRY };
            self.serve_again_at(state, peer, next);
        }
        retry
    }

    /// Schedules the peer, and has the worker serve it at that time at the latest.
    fn serve_again_at(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        next: Time,
    ) {
        let first = state.next_try.unwrap_or(next);
        state.next_try = Some(first.min(next));
        self.schedule_again(state, peer);
    }

    /// Schedules a peer that this round has served.
    fn schedule_again(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        peer: &PeerRef<'_, 'm, P::Stream>,
    ) {
        let is_new = self.peers.schedule(peer);
        state.round.relisted = state.round.relisted.plus(usize::from(is_new));
    }

    /// Marks a peer broken to which no stream could be opened, unless a stream to or from it was
    /// opened meanwhile. Returns false if another thread, which may be opening the stream now, has
    /// locked the half: the flag `unreachable` changes, and streams are opened, only under this
    /// lock.
    fn mark_broken_if_unreachable(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> bool {
        if !peer.unreachable.load(Ordering::SeqCst) {
            return true;
        }
        let Some(tx) = peer.tx.try_lock() else {
            return false;
        };
        let was_unreachable = peer.unreachable.swap(false, Ordering::SeqCst);
        if was_unreachable && peer.lacks_inbound() && tx.stream.is_none() {
            peer.broken.store(true, Ordering::SeqCst);
            drop(tx);
            self.refuse(Some(peer.vmid()), Refusal::Unreachable);
        }
        true
    }
}
