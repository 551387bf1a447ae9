//! The leader's part of the shared values: it grants leases, and revokes them.
//!
//! The server grants the requests for a handle in the order of their arrival. It grants adjacent
//! requests to read at the head of the queue together. A request to change the value is granted
//! after all other clients have given their leases back; later requests wait behind it.

mod digest;
mod image;
mod invariants;
mod messages;
mod outbox;
mod quotas;
mod revocations;
mod scheduling;
mod table;

use super::{LeaseLimits, ProtocolViolation};
use crate::Vmid;
use crate::error::Error;
use crate::invariant::OrBroken;
use crate::store::{
    Arena, Buffer, Digested, HashIndex, NONE, Payer, Portion, Quotas, SlotAllocator, Steps, Table,
    TransmitQueue, bytes_for, entry, memory_sum,
};
use crate::wire::SyncState;
pub use outbox::ServerMessage;

struct HandleRecord<'m> {
    id: u64,
    /// The first of its clients, which are linked by `next_of_handle`.
    clients: u32,
    /// The ends of the queue of requests, which are linked by `next`.
    queue_head: u32,
    queue_tail: u32,
    /// The number of clients with a lease to read.
    readers: u32,
    /// The client with the lease to change the value.
    writer: u32,
    /// The number of its clients in the list of revocations.
    revocations: u32,
    /// A process died while it held the lease to change the value, and no other process has held
    /// that lease since.
    owner_died: bool,
    payer: Payer,
    value: Digested<Value<'m>>,
}

/// The value of a handle.
struct Value<'m> {
    length: usize,
    buffer: Buffer<'m>,
}

impl Value<'_> {
    fn bytes(&self) -> &[u8] {
        self.buffer.initialized().get(..self.length).or_broken(&[])
    }
}

/// A client: one process and one handle that it uses.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Copy, Hash)]
struct ClientRecord {
    vmid: Option<Vmid>,
    handle: u32,
    current: SyncState,
    /// The requested lease.
    requested: Option<SyncState>,
    /// The strongest lease that the server still allows it, if the server has revoked more.
    revoke_to: Option<SyncState>,
    /// Its process knows the extensions, so it must return a revoked lease in time. The leader's own
    /// process can't be disconnected.
    has_limit: bool,
    /// The number of the revocation, and its neighbours in the list of revocations; 0: it is not in that list.
    revocation: u64,
    prev_revoked: u32,
    next_revoked: u32,
    /// A client in C reads and requests the lease to change the value. It keeps its lease to read
    /// until then, so the server can grant nothing to others before.
    upgrades_in_place: bool,
    /// The server granted it more after it had revoked the lease to read: the confirmation of that
    /// revocation may still arrive.
    expects_stale_downgrade: bool,
    /// The client holds the lease to change the value, is the first to do so after the owner died,
    /// and has not acknowledged that.
    owner_died_unacked: bool,
    /// The neighbours in the list of the clients of the same handle.
    next_of_handle: u32,
    prev_of_handle: u32,
    prev: u32,
    next: u32,
    out_owner_died: bool,
    out_confirm: Option<SyncState>,
    out_downgrade: Option<SyncState>,
    out_close: bool,
    payer: Payer,
}

entry!(ClientRecord {
    vmid,
    handle,
    current,
    requested,
    revoke_to,
    has_limit,
    revocation,
    prev_revoked,
    next_revoked,
    upgrades_in_place,
    expects_stale_downgrade,
    owner_died_unacked,
    next_of_handle,
    prev_of_handle,
    prev,
    next,
    out_owner_died,
    out_confirm,
    out_downgrade,
    out_close,
    payer,
});

const EMPTY: ClientRecord = ClientRecord {
    vmid: None,
    handle: NONE,
    current: SyncState::Invalid,
    requested: None,
    revoke_to: None,
    has_limit: false,
    revocation: 0,
    prev_revoked: NONE,
    next_revoked: NONE,
    upgrades_in_place: false,
    expects_stale_downgrade: false,
    owner_died_unacked: false,
    next_of_handle: NONE,
    prev_of_handle: NONE,
    prev: NONE,
    next: NONE,
    out_owner_died: false,
    out_confirm: None,
    out_downgrade: None,
    out_close: false,
    payer: Payer::NOBODY,
};

/// The error of a client's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// A correct client does not send the message in this state.
    ProtocolViolation,
    /// There is no room for the handle, or for one more client.
    NoRoom,
    /// The client closes a handle that the server does not know, because it never had room for it.
    /// The caller confirms the close.
    Closed,
}

impl From<ProtocolViolation> for RequestError {
    fn from(ProtocolViolation: ProtocolViolation) -> RequestError {
        RequestError::ProtocolViolation
    }
}

/// The leases of all handles of the family.
pub struct Server<'m> {
    handles: Table<'m, HandleRecord<'m>>,
    handle_slots: SlotAllocator<'m>,
    by_id: HashIndex<'m>,
    clients: Table<'m, ClientRecord>,
    client_slots: SlotAllocator<'m>,
    by_client: HashIndex<'m>,
    /// The clients with outgoing messages.
    outbox: TransmitQueue<'m>,
    /// The ends of the list of the revoked leases that others wait for, in the order of their numbers.
    first_revoked: u32,
    last_revoked: u32,
    last_revocation: u64,
    steps: Steps,
    quotas: Quotas<'m>,
}

impl<'m> Server<'m> {
    /// Returns the number of bytes of memory that a server takes, with `data` bytes for each
    /// handle's value.
    pub const fn bytes(limits: &LeaseLimits, data: usize) -> usize {
        memory_sum!(
            bytes_for::<HandleRecord<'m>>(limits.handles),
            limits.handles.saturating_mul(data),
            SlotAllocator::bytes(limits.handles),
            HashIndex::bytes(limits.handles),
            bytes_for::<ClientRecord>(limits.clients),
            SlotAllocator::bytes(limits.clients),
            HashIndex::bytes(limits.clients),
            TransmitQueue::bytes(limits.clients),
        )
    }

    /// Makes a server without handles, in memory from `arena`, with `data` bytes for each handle's value.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn new(arena: &mut Arena<'m>, limits: &LeaseLimits, data: usize) -> Result<Self, Error> {
        Self::shared(arena, limits, data, 0)
    }

    /// Like [`Server::new`], with tables that at most `members` of a family share: none of them
    /// gets more than its quota (`docs/design.md`). 0 members: there are no quotas.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn shared(
        arena: &mut Arena<'m>,
        limits: &LeaseLimits,
        data: usize,
        members: usize,
    ) -> Result<Self, Error> {
        arena.checked(|arena| Self::make(arena, limits, data, members))
    }

    pub(crate) fn make(
        arena: &mut Arena<'m>,
        limits: &LeaseLimits,
        data: usize,
        members: usize,
    ) -> Self {
        let mut memory = arena.split_off(limits.handles.saturating_mul(data));
        Server {
            handles: arena.alloc_table(limits.handles, |_| HandleRecord {
                id: 0,
                clients: NONE,
                queue_head: NONE,
                queue_tail: NONE,
                readers: 0,
                writer: NONE,
                revocations: 0,
                owner_died: false,
                payer: Payer::NOBODY,
                value: Digested::new(Value {
                    length: 0,
                    buffer: memory.alloc_buffer(data),
                }),
            }),
            handle_slots: SlotAllocator::new(arena, limits.handles),
            by_id: HashIndex::new(arena, limits.handles),
            clients: arena.alloc_filled(limits.clients, &EMPTY),
            client_slots: SlotAllocator::new(arena, limits.clients),
            by_client: HashIndex::new(arena, limits.clients),
            outbox: TransmitQueue::new(arena, limits.clients),
            first_revoked: NONE,
            last_revoked: NONE,
            last_revocation: 0,
            steps: Steps::default(),
            quotas: Quotas::new(arena, members, &[limits.handles, limits.clients]),
        }
    }

    /// Reclaims all leases and requests of a process that has ended.
    pub fn reclaim(&mut self, vmid: Vmid) {
        let mut left = u64::MAX;
        while left > 0 {
            left = self.reclaim_portion(vmid, left);
        }
    }

    /// Like [`Server::reclaim`], but only a portion: the caller begins with `u64::MAX`, and goes on
    /// with what is returned until that is 0.
    pub fn reclaim_portion(&mut self, vmid: Vmid, left: u64) -> u64 {
        let mut portion = Portion::new();
        let mut slots = left.min(self.client_slots.high_water().into());
        while let Some(slot) = slots.checked_sub(1) {
            if !portion.take_slot() {
                break;
            }
            let index = u32::try_from(slot).or_broken(NONE);
            let client = *self.client(index);
            if client.vmid != Some(vmid) {
                slots = slot;
                continue;
            }
            if !portion.take_entry() {
                break;
            }
            if client.current == SyncState::Exclusive {
                self.update_handle(client.handle, |handle| handle.owner_died = true);
            }
            if !client.out_close {
                self.release_lease(index);
            }
            self.remove_client(index);
            self.grant_next(client.handle);
            self.remove_if_unused(client.handle);
            slots = slot;
        }
        if slots == 0 {
            self.quotas.on_left(vmid);
        }
        slots
    }

    /// How many entries of its tables the operations so far have visited. Only in builds with debug
    /// assertions: tests assert the bound of each operation.
    #[cfg(debug_assertions)]
    pub fn steps(&self) -> u64 {
        let indexes = self.by_id.steps().wrapping_add(self.by_client.steps());
        self.steps.get().wrapping_add(indexes)
    }

    /// Returns true if any process uses the handle.
    pub fn is_used(&self, id: u64) -> bool {
        self.find_handle(id).is_some()
    }

    /// Returns the number of handles in use: now, and at most so far.
    pub fn handle_usage(&self) -> (usize, usize) {
        (self.handle_slots.in_use(), self.handle_slots.peak())
    }

    /// Returns the number of clients: now, and at most so far.
    pub fn client_usage(&self) -> (usize, usize) {
        (self.client_slots.in_use(), self.client_slots.peak())
    }
}
