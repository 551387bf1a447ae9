//! The peers that the worker serves in a turn, before it looks at the streams.

use super::{RETRY, Retry, WorkerState};
use crate::counters::Refusal;
use crate::invariant::Count;
use crate::node::{Node, PeerRef, Sender};
use crate::pal::{Pal, Time};
use crate::sync::Ordering;

impl<'m, P: Pal> Node<'m, P> {
    /// Serves the scheduled peers. Returns when to serve again, and the number of peers that were
    /// scheduled again.
    pub(super) fn serve_scheduled(&self, state: &mut WorkerState<'m, P::Stream>) -> (Retry, usize) {
        let mut retry = Retry::No;
        let mut relisted = 0_usize;
        state.next_try = None;
        // Only the peers that are scheduled now: a peer that is scheduled again is served after the
        // streams.
        for _ in 0..self.peers.scheduled() {
            let Some(peer) = self.peers.next_scheduled() else {
                break;
            };
            let kept_until = Self::kept_until(&peer).filter(|until| self.now() < *until);
            let retry_peer = if let Some(until) = kept_until {
                relisted = relisted.plus(self.serve_again_at(state, &peer, until));
                Retry::No
            } else if !self.judge_unreachable(&peer) {
                Retry::Soon
            } else if peer.broken.load(Ordering::SeqCst) {
                if self.may_be_refused(&peer) {
                    self.accept(state);
                }
                self.close(state, &peer)
            } else {
                self.flush(&peer);
                let retry = self.resume(&peer);
                if let Some(next) = peer.next_try() {
                    // Later if another thread had locked the half, so that no attempt was made.
                    let now = self.now();
                    let next = if next > now { next } else { now + RETRY };
                    relisted = relisted.plus(self.serve_again_at(state, &peer, next));
                }
                retry
            };
            if retry_peer != Retry::No {
                let is_new = self.peers.schedule(&peer);
                relisted = relisted.plus(usize::from(is_new));
                retry = retry.min(retry_peer);
            }
            self.run_upcalls();
        }
        retry = retry.min(self.send_output(Sender::Turn));
        // The calls to the embedder that this and other threads have queued.
        self.run_upcalls();
        (retry, relisted)
    }

    /// Schedules the peer, and has the worker serve it at that time at the latest. Returns the number of
    /// peers that were scheduled.
    fn serve_again_at(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        next: Time,
    ) -> usize {
        let first = state.next_try.unwrap_or(next);
        state.next_try = Some(first.min(next));
        usize::from(self.peers.schedule(peer))
    }

    /// Marks a peer broken to which no stream could be opened, unless a stream to or from it was
    /// opened meanwhile. False if another thread, which may be opening the stream now, has locked
    /// the half: the flag `unreachable` changes, and streams are opened, only under this lock.
    fn judge_unreachable(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> bool {
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
