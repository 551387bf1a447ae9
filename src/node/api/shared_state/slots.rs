//! The handles of this process: their slots, their numbers, and the calls that wait for them.

use super::SyncHandle;
use super::call_queue::{CallQueue, WaitLinks};
use crate::Vmid;
use crate::invariant::Count;
use crate::shared_state::Client;
use crate::store::{
    Arena, Contended, HashIndex, Rank, SlotAllocator, SpinLock, Table, bytes_for, hash64,
    memory_sum,
};

/// The slot of a handle.
pub(in crate::node) struct Slot<'m> {
    pub(super) client: SpinLock<Client<'m>>,
    /// The calls that wait for the handle.
    pub(super) call_queue: CallQueue,
}

/// A handle that this process has opened, with its slot: a call that has both need not look for the slot.
#[derive(Clone, Copy)]
pub(in crate::node) struct Opened<'n, 'm> {
    pub(in crate::node) handle: SyncHandle,
    pub(super) slot: &'n Slot<'m>,
}

pub(super) struct SyncDirectory<'m> {
    ids: Table<'m, u64>,
    pub(super) slot_allocator: SlotAllocator<'m>,
    by_id: HashIndex<'m>,
    /// The number of fresh numbers made so far.
    count: u64,
}

/// Returns the fresh number `count` of a process. It consists of: the highest bit, which no number
/// of a process in C has; the length of the VMID in bytes, less one, in two bits; the VMID in that
/// many bytes; the count in the rest. A VMID is never used twice, so no number is. `None` if the
/// count has no room.
fn fresh_id(vmid: Vmid, count: u64) -> Option<u64> {
    let vmid = vmid.get();
    let bytes = 4_u32.minus(vmid.leading_zeros() / 8);
    let count_bits = 61_u32.minus(bytes << 3);
    if count.checked_shr(count_bits)? > 0 {
        return None;
    }
    let class = u64::from(bytes.minus(1)) << 61;
    Some(1 << 63 | class | u64::from(vmid).checked_shl(count_bits)? | count)
}

impl SyncDirectory<'_> {
    /// Returns the next fresh number of the process with that VMID that is not open here. `None` if
    /// all are used up.
    pub(super) fn fresh_id(&mut self, vmid: Vmid) -> Option<u64> {
        // Each number skipped has a slot here, so the loop ends.
        loop {
            let id = fresh_id(vmid, self.count)?;
            self.count.increment();
            if self.find(id).is_none() {
                return Some(id);
            }
        }
    }

    pub(super) fn find(&self, id: u64) -> Option<u32> {
        self.by_id.find(hash64(id), |index| {
            self.ids.get(index as usize).cmp(&Some(&id))
        })
    }

    /// Adds the handle in that slot to the index.
    pub(super) fn insert(&mut self, id: u64, slot: u32) {
        if let Some(of) = self.ids.get_mut(slot as usize) {
            *of = id;
        }
        let ids = &self.ids;
        self.by_id.insert(hash64(id), slot, &|other| {
            ids.get(other as usize).cmp(&Some(&id))
        });
    }

    pub(super) fn remove(&mut self, id: u64, slot: u32) {
        let ids = &self.ids;
        self.by_id.remove(hash64(id), slot, &|other| {
            ids.get(other as usize).cmp(&Some(&id))
        });
    }
}

/// All handles that this process uses.
pub(crate) struct SyncHandles<'m> {
    pub(super) slots: Table<'m, Slot<'m>>,
    pub(super) links: WaitLinks<'m>,
    pub(super) directory: SpinLock<SyncDirectory<'m>>,
}

impl<'m> SyncHandles<'m> {
    pub(crate) const fn bytes(handles: usize, data: usize, waiters: usize) -> usize {
        memory_sum!(
            bytes_for::<Slot<'m>>(handles),
            WaitLinks::bytes(waiters),
            handles.saturating_mul(data),
            bytes_for::<u64>(handles),
            SlotAllocator::bytes(handles),
            HashIndex::bytes(handles),
        )
    }

    /// Waits until no thread is in the middle of a use that began before this call.
    pub(crate) fn await_users(&self) {
        for slot in self.slots.iter() {
            drop(slot.client.lock());
        }
    }

    // Not inlined: its copies would add to the stack of `Node::new`.
    #[inline(never)]
    pub(crate) fn new(
        arena: &mut Arena<'m>,
        contended: Contended,
        handles: usize,
        data: usize,
        waiters: usize,
    ) -> Self {
        let mut memory = arena.split_off(handles.saturating_mul(data));
        SyncHandles {
            slots: arena.alloc_table(handles, |_| Slot {
                client: SpinLock::new(
                    Rank::SyncHandle,
                    contended,
                    Client::from_buffer(memory.alloc_buffer(data)),
                ),
                call_queue: CallQueue::new(),
            }),
            links: WaitLinks::new(arena, waiters),
            directory: SpinLock::new(
                Rank::SyncDirectory,
                contended,
                SyncDirectory {
                    ids: arena.alloc_filled(handles, &0),
                    slot_allocator: SlotAllocator::new(arena, handles),
                    by_id: HashIndex::new(arena, handles),
                    count: 0,
                },
            ),
        }
    }

    pub(crate) fn usage(&self) -> (usize, usize) {
        let directory = self.directory.lock();
        (
            directory.slot_allocator.in_use(),
            directory.slot_allocator.peak(),
        )
    }

    /// Returns the slot of the handle with that number, and its index.
    pub(super) fn of_id(&self, id: u64) -> Option<(u32, &Slot<'m>)> {
        let index = self.directory.lock().find(id)?;
        Some((index, self.slots.get(index as usize)?))
    }

    /// Records that the server has sent HELLO, so it understands this crate's extensions.
    pub(crate) fn on_server_hello(&self) {
        for slot in self.slots.iter() {
            slot.client.lock().on_server_hello();
        }
    }

    /// Frees the slot if its handle is closed. Returns true if it did.
    pub(super) fn free_if_closed(&self, index: u32) -> bool {
        let mut directory = self.directory.lock();
        let Some(slot) = self.slots.get(index as usize) else {
            return false;
        };
        let client = slot.client.lock();
        let id = client.id();
        if !client.is_free() || directory.find(id) != Some(index) {
            return false;
        }
        directory.remove(id, index);
        directory.slot_allocator.free(index);
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::boxed::Box;

    use super::*;

    fn vmid(number: u32) -> Vmid {
        Vmid::new(number).unwrap()
    }

    #[test]
    fn fresh_numbers_differ_by_process_and_by_count() {
        let vmids = [
            1,
            2,
            0xff,
            0x100,
            0xffff,
            0x1_0000,
            0xff_ffff,
            0x100_0000,
            u32::MAX,
        ];
        let counts = [0, 1, 0xff, 0x100, 0xffff, (1 << 29) - 1];
        let mut ids = std::collections::BTreeSet::new();
        for number in vmids {
            for count in counts {
                let id = fresh_id(vmid(number), count).unwrap();
                assert!(ids.insert(id), "vmid {number}, count {count}");
                assert!(id >> 63 == 1, "a process in C makes pid << 32 | count");
            }
        }
    }

    #[test]
    fn used_up_fresh_numbers_are_refused() {
        for (number, bits) in [(1, 53), (0x100, 45), (0x1_0000, 37), (u32::MAX, 29)] {
            assert!(fresh_id(vmid(number), (1 << bits) - 1).is_some());
            assert_eq!(fresh_id(vmid(number), 1 << bits), None);
            assert_eq!(fresh_id(vmid(number), u64::MAX), None);
        }
        let mut memory = Box::new_uninit_slice(SyncHandles::bytes(1, 0, 0));
        let handles = SyncHandles::new(&mut Arena::new(&mut memory), |_| {}, 1, 0, 0);
        let mut directory = handles.directory.lock();
        directory.count = u64::MAX;
        assert_eq!(directory.fresh_id(vmid(1)), None);
        assert_eq!(directory.fresh_id(vmid(1)), None);
    }
}
