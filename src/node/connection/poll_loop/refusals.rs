//! Peers that the worker is to close the connection of, and connections that are refused.

use crate::Vmid;
use crate::counters::Refusal;
use crate::log::log_event;
use crate::node::{Node, PeerRef};
use crate::pal::Pal;
use crate::sync::Ordering;

impl<'m, P: Pal> Node<'m, P> {
    /// Schedules the peer, and wakes the worker.
    pub(crate) fn call_worker(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        if self.peers.schedule(peer) {
            self.wake();
        }
    }

    /// Counts a fault of a peer, or of an unidentified connection.
    pub(in crate::node) fn refuse(&self, vmid: Option<Vmid>, refusal: Refusal) {
        self.counters.refuse(refusal);
        self.events.refused(vmid, refusal);
        if let Some(vmid) = vmid
            && refusal == Refusal::Unreachable
        {
            // A process that ends closes its listening stream before others have noticed its end.
            log_event!(debug, "process {vmid} cannot be answered: {refusal}");
        } else if let Some(vmid) = vmid {
            log_event!(warn, "process {vmid} is refused: {refusal}");
        } else {
            log_event!(warn, "a connection is refused: {refusal}");
        }
    }

    /// Closes the connection of a peer that has not returned a delegation or a lease in time.
    pub(crate) fn disconnect_overdue(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        // The peer is disconnected already, and the worker reclaims what it has later.
        if Self::kept_until(peer).is_some() {
            return;
        }
        if !peer.broken.swap(true, Ordering::SeqCst) {
            self.refuse(Some(peer.vmid()), Refusal::NotReturned);
        }
        self.disconnect_peer(peer);
    }

    /// Has the worker close the connection of the peer.
    pub(crate) fn disconnect_peer(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        peer.broken.store(true, Ordering::SeqCst);
        self.call_worker(peer);
    }
}
