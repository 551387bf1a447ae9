//! The table of the processes that this node is connected to, found by VMID.

use crate::invariant::{Count, OrBroken};
use crate::sync::Ordering;
use core::ops::Deref;

use super::halves::{QueueUsage, RxHalf, SendQueue, TxHalf};
use super::peer::Peer;
use super::stream_key::GENERATIONS;
use super::vmid_index::{Use, VmidIndex};
use super::work_queue::WorkQueue;
use crate::Vmid;
use crate::error::{Error, Resource};
use crate::store::{Arena, Contended, Rank, SortedMap, SpinLock, Table, bytes_for, memory_sum};

/// The table of peers.
pub(crate) struct Peers<'m, S> {
    slots: Table<'m, Peer<'m, S>>,
    directory: SpinLock<VmidIndex<'m>>,
    work_queue: SpinLock<WorkQueue<'m>>,
}

/// A reference to a peer. The slot is not reused as long as the reference lives.
pub(crate) struct PeerRef<'a, 'm, S> {
    peers: &'a Peers<'m, S>,
    peer: &'a Peer<'m, S>,
    vmid: Vmid,
}

impl<S> PeerRef<'_, '_, S> {
    /// Returns the process's VMID.
    pub(crate) fn vmid(&self) -> Vmid {
        self.vmid
    }
}

impl<'m, S> Deref for PeerRef<'_, 'm, S> {
    type Target = Peer<'m, S>;
    fn deref(&self) -> &Peer<'m, S> {
        self.peer
    }
}

impl<S> Drop for PeerRef<'_, '_, S> {
    fn drop(&mut self) {
        self.peers.release(self.peer);
    }
}

impl<'m, S> Peers<'m, S> {
    /// Returns the bytes of the table, without the buffers.
    pub(crate) const fn bytes(capacity: usize) -> usize {
        memory_sum!(
            bytes_for::<Peer<'m, S>>(capacity),
            SortedMap::bytes(capacity),
            bytes_for::<Use>(capacity),
            bytes_for::<u32>(capacity),
            bytes_for::<u32>(capacity),
        )
    }

    // Not inlined: its copies would add to the stack of `Node::new`.
    #[inline(never)]
    pub(crate) fn new(
        arena: &mut Arena<'m>,
        contended: Contended,
        capacity: usize,
        frame_length: usize,
        send_queue: usize,
    ) -> Self {
        let number = |index: usize| u32::try_from(index).or_broken(u32::MAX);
        // The buffers come from the far end of the arena, so that the tables are adjacent.
        let buffers_of_one = memory_sum!(frame_length, send_queue & !1);
        let mut buffers = arena.split_off(capacity.saturating_mul(buffers_of_one));
        let slots = arena.alloc_table(capacity, |index| {
            let rx = RxHalf::new(buffers.alloc_buffer(frame_length));
            let queue = SendQueue::new(buffers.alloc_buffer(send_queue / 2));
            let tx = TxHalf::new(buffers.alloc_buffer(send_queue / 2));
            Peer::new(number(index), contended, rx, queue, tx)
        });
        let directory = VmidIndex {
            by_vmid: SortedMap::new(arena, capacity),
            uses: arena.alloc_filled(capacity, &Use::default()),
            free: arena.alloc_table(capacity, |index| number(capacity.minus(index).minus(1))),
            free_count: capacity,
        };
        let work_queue = WorkQueue::new(arena, capacity);
        Peers {
            slots,
            directory: SpinLock::new(Rank::Peers, contended, directory),
            work_queue: SpinLock::new(Rank::WorkQueue, contended, work_queue),
        }
    }

    fn reference(&self, index: u32, vmid: Vmid) -> Option<PeerRef<'_, 'm, S>> {
        let peer = self.slots.get(index as usize)?;
        Some(PeerRef {
            peers: self,
            peer,
            vmid,
        })
    }

    /// Returns the peer with that VMID.
    pub(crate) fn find(&self, vmid: Vmid) -> Option<PeerRef<'_, 'm, S>> {
        let mut directory = self.directory.lock();
        let index = directory.index_of(vmid)?;
        directory.hold(index);
        drop(directory);
        self.reference(index, vmid)
    }

    /// Returns the peer with that VMID; adds it if there is none.
    pub(crate) fn find_or_add(&self, vmid: Vmid) -> Result<PeerRef<'_, 'm, S>, Error> {
        let full = Error::Full(Resource::Peers);
        let mut directory = self.directory.lock();
        let index = if let Some(index) = directory.index_of(vmid) {
            index
        } else {
            let free_count = directory.free_count.checked_sub(1).ok_or(full)?;
            let index = *directory.free.get(free_count).ok_or(full)?;
            let peer = self.slots.get(index as usize).ok_or(full)?;
            if !directory.by_vmid.insert(vmid.get(), index) {
                return Err(full);
            }
            directory.free_count = free_count;
            peer.vmid.store(vmid.get(), Ordering::Relaxed);
            // The lock order is table → queue, and no other thread uses this slot yet.
            let mut queue = peer.queue.lock();
            (queue.closed, queue.faulty, queue.reserved) = (false, false, 0);
            queue.is_new = true;
            drop(queue);
            index
        };
        directory.hold(index);
        drop(directory);
        self.reference(index, vmid).ok_or(full)
    }

    /// Returns the peer of a stream key, if it is still in the table.
    pub(crate) fn find_by_key(&self, index: u32, generation: u32) -> Option<PeerRef<'_, 'm, S>> {
        let peer = self.slots.get(index as usize)?;
        let mut directory = self.directory.lock();
        let vmid = Vmid::new(peer.vmid.load(Ordering::Relaxed))?;
        let used = directory.uses.get_mut(index as usize)?;
        if used.removed || peer.generation.load(Ordering::Relaxed) & GENERATIONS != generation {
            return None;
        }
        used.users.increment();
        drop(directory);
        Some(PeerRef {
            peers: self,
            peer,
            vmid,
        })
    }

    /// Returns the peers, each if it is in the table when the iterator reaches it.
    pub(crate) fn all(&self) -> impl Iterator<Item = PeerRef<'_, 'm, S>> {
        self.slots.iter().filter_map(|peer| {
            self.find_by_key(
                peer.index,
                peer.generation.load(Ordering::Relaxed) & GENERATIONS,
            )
        })
    }

    /// Removes the peer from the table; the caller has closed its streams and emptied its buffers.
    /// The slot is free when the last reference is dropped.
    pub(crate) fn remove(&self, peer: &Peer<'m, S>) {
        let mut directory = self.directory.lock();
        if !directory.by_vmid.remove(peer.vmid.load(Ordering::Relaxed)) {
            return;
        }
        if let Some(used) = directory.uses.get_mut(peer.index as usize) {
            used.removed = true;
        }
    }

    fn release(&self, peer: &Peer<'m, S>) {
        let mut directory = self.directory.lock();
        let Some(used) = directory.uses.get_mut(peer.index as usize) else {
            return;
        };
        used.users.decrement();
        if used.users > 0 {
            return;
        }
        if !used.removed {
            if peer.has_connection() {
                return;
            }
            // A call added the peer and failed before it sent anything.
            peer.queue.lock().closed = true;
            directory.by_vmid.remove(peer.vmid.load(Ordering::Relaxed));
        }
        if let Some(used) = directory.uses.get_mut(peer.index as usize) {
            *used = Use::default();
        }
        peer.vmid.store(0, Ordering::Relaxed);
        peer.generation.fetch_add(1, Ordering::Relaxed);
        peer.reset();
        let free_count = directory.free_count;
        if let Some(free) = directory.free.get_mut(free_count) {
            *free = peer.index;
            directory.free_count.increment();
        }
    }

    /// Schedules the peer for the worker. Returns true if it was not scheduled already.
    pub(crate) fn schedule(&self, peer: &Peer<'m, S>) -> bool {
        if peer.is_scheduled.swap(true, Ordering::SeqCst) {
            return false;
        }
        self.work_queue.lock().push(peer.index);
        true
    }

    /// Returns the number of scheduled peers.
    pub(crate) fn scheduled(&self) -> usize {
        self.work_queue.lock().len()
    }

    /// Removes the next scheduled peer, and returns it unless it was removed from the table.
    pub(crate) fn next_scheduled(&self) -> Option<PeerRef<'_, 'm, S>> {
        let index = self.work_queue.lock().pop()?;
        let peer = self.slots.get(index as usize)?;
        // The flag is cleared before the worker serves the peer, so that a later request
        // schedules it again.
        peer.is_scheduled.swap(false, Ordering::SeqCst);
        let generation = peer.generation.load(Ordering::Relaxed) & GENERATIONS;
        self.find_by_key(index, generation)
    }

    /// Returns true if any peer has a connection with this process, or will get one.
    pub(crate) fn is_any_connected(&self) -> bool {
        self.usage().0 > 0 && self.all().any(|peer| peer.has_connection())
    }

    /// Returns the number of peers now, and the highest number so far.
    pub(crate) fn usage(&self) -> (usize, usize) {
        let directory = self.directory.lock();
        (directory.by_vmid.len(), directory.by_vmid.peak())
    }

    /// Returns the usage of the send queues.
    pub(crate) fn queue_usage(&self) -> QueueUsage {
        let mut usage = QueueUsage::default();
        for peer in self.slots.iter() {
            let queue = peer.queue.lock();
            usage.now = usage.now.max(queue.filling.unsent().len());
            usage.peak = usage.peak.max(queue.peak);
            usage.accepted = usage.accepted.plus(queue.accepted);
        }
        usage
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn locking_the_rx_half_does_not_count_as_an_inbound_stream() {
        let mut memory = std::boxed::Box::new_uninit_slice(Peers::<()>::bytes(1) + 1024);
        let mut arena = Arena::new(&mut memory);
        let peers: Peers<'_, ()> = Peers::new(&mut arena, |_| {}, 1, 128, 512);
        let peer = peers.find_or_add(Vmid::LEADER).unwrap();
        // A call checks for a stream to read while the worker accepts the first one.
        let rx = peer.rx.try_lock().unwrap();
        assert!(peer.lacks_inbound());
        drop(rx);
        assert!(peer.lacks_inbound());
    }
}
