//! A process's part of a shared value: its lease, and the use of the value by its threads.

mod contention;
mod lease;
mod messages;
mod usage;

use crate::fencing::Numbers;
use crate::invariant::{Count, OrBroken};
use crate::store::Buffer;
use crate::wire::{SyncCode, SyncState};

/// A message from a client to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientMessage {
    /// The code of the message.
    pub code: SyncCode,
    /// The requested lease, or the one the client keeps.
    pub state: SyncState,
    /// Whether the value goes along.
    pub with_data: bool,
}

/// The result of an attempt to acquire a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquisition {
    /// The caller holds the handle until it releases it.
    Acquired,
    /// The handle is not available yet: the caller tries again when [`Client::change_count`] has
    /// changed.
    Pending,
    /// Another process or thread that wants to change the value waits for the caller to release it.
    UpgradeDeadlock,
    /// The server has no room for the handle.
    NoRoom,
    /// The server is a process in C, which would let others change the value in between.
    Unsupported,
    /// The handle is closed.
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientPhase {
    Free,
    Open,
    Closing,
    /// The handle was opened again before the server has confirmed the close: it is new after that.
    Reopening,
}

/// The state of one handle in one process.
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub struct Client<'m> {
    phase: ClientPhase,
    id: u64,
    /// Counts the handles that this slot has had.
    generation: u32,
    /// The number of times that this process has opened the handle and not closed it.
    openings: u32,
    /// The server may know this client, because a request was sent.
    is_known_to_server: bool,
    /// The lease that this process holds.
    current: SyncState,
    /// The requested lease that was not granted yet.
    requested: SyncState,
    /// The strongest lease that may be granted: stronger than `requested` after the request was
    /// reduced.
    max_grant: SyncState,
    /// The server has sent HELLO: it understands a reduced request, the forwarded death of an
    /// owner, and a request for a stronger lease while the client reads.
    is_extended: bool,
    /// The strongest lease that the server leaves this process, if it has revoked more.
    revoke_to: Option<SyncState>,
    /// The users in this process: the number of readers, and whether there is a writer.
    readers: u32,
    has_writer: bool,
    /// A reader waits to become the writer.
    is_upgrading: bool,
    /// The upgrade of that reader has failed, because the server has revoked the lease it uses.
    upgrade_deadlock: bool,
    /// The number of calls that wait to read, and to change the value.
    waiting: [u32; 2],
    /// The access that the first queued call wants.
    head_request: Option<SyncState>,
    /// The lease was granted for a waiting call, and no call has used it yet: it stays until then.
    is_grant_unused: bool,
    no_room: bool,
    /// Another process has changed the value since this one last used it.
    is_changed: bool,
    /// The owner died, and no process has held the lease to change the value since, nor has a
    /// thread of this one used it.
    owner_died: bool,
    /// The value of `owner_died` when the handle was last acquired.
    owner_died_at_acquire: bool,
    /// The number of deaths of owners that this process knows of, and of those it has reported to
    /// its callers.
    owner_deaths: u32,
    reported_deaths: u32,
    /// Counts the events that may let a waiting call proceed.
    change_count: u64,
    /// There is a message to send, or the handle is contended. It is the one field that a release
    /// reads.
    has_release_work: bool,
    /// The number of revocations in a row, each soon after the grant.
    quick_revocations: u32,
    /// The number of uses since the lease was granted.
    uses_since_grant: u32,
    out_downgrade: Option<(SyncState, bool)>,
    out_upgrade: Option<SyncState>,
    out_close: bool,
    /// The next message returns a lease with an unreported death of its owner.
    out_owner_died: bool,
    /// The fencing numbers for uses under the present lease.
    fencing: Numbers,
    length: usize,
    data: Buffer<'m>,
}

impl<'m> Client<'m> {
    /// Makes a free slot. `data` is the memory for a handle's value, and limits its length.
    pub fn new(data: &'m mut [u8]) -> Client<'m> {
        Client::from_buffer(Buffer::from_slice(data))
    }

    /// Like [`Client::new`].
    pub(crate) fn from_buffer(data: Buffer<'m>) -> Client<'m> {
        Client {
            phase: ClientPhase::Free,
            id: 0,
            generation: 0,
            openings: 0,
            is_known_to_server: false,
            current: SyncState::Invalid,
            requested: SyncState::Invalid,
            max_grant: SyncState::Invalid,
            is_extended: false,
            revoke_to: None,
            readers: 0,
            has_writer: false,
            is_upgrading: false,
            upgrade_deadlock: false,
            waiting: [0; 2],
            head_request: None,
            is_grant_unused: false,
            no_room: false,
            is_changed: false,
            owner_died: false,
            owner_died_at_acquire: false,
            owner_deaths: 0,
            reported_deaths: 0,
            change_count: 0,
            has_release_work: false,
            quick_revocations: 0,
            uses_since_grant: 0,
            out_downgrade: None,
            out_upgrade: None,
            out_close: false,
            out_owner_died: false,
            fencing: Numbers::NONE,
            length: 0,
            data,
        }
    }

    /// Opens the handle with that number in this free slot. `is_extended` says whether the server
    /// has sent HELLO, or is in this process. Returns the slot's new generation.
    pub fn open(&mut self, id: u64, is_extended: bool) -> u32 {
        let (change_count, generation) = (self.change_count, self.generation.wrapping_add(1));
        let data = core::mem::take(&mut self.data);
        *self = Client {
            phase: ClientPhase::Open,
            id,
            generation,
            openings: 1,
            change_count,
            is_extended,
            ..Client::from_buffer(data)
        };
        generation
    }

    /// Opens the handle once more. Returns the generation of the slot, which is new if the handle
    /// was closed; `None` if it is free, or at the limit of the count.
    pub(crate) fn open_again(&mut self) -> Option<u32> {
        if self.phase == ClientPhase::Closing {
            self.phase = ClientPhase::Reopening;
            self.generation = self.generation.wrapping_add(1);
            self.openings = 0;
            // Those that wait for the closed handle do not count.
            self.waiting = [0; 2];
        } else if !self.is_open() {
            return None;
        }
        self.openings = self.openings.checked_add(1)?;
        Some(self.generation)
    }

    /// Handles the end of a close: the handle is free, or open anew.
    fn on_closed(&mut self) {
        if self.phase == ClientPhase::Closing {
            self.phase = ClientPhase::Free;
        } else {
            let (generation, openings) = (self.generation, self.openings);
            let (waiting, head_request) = (self.waiting, self.head_request);
            self.open(self.id, self.is_extended);
            (self.generation, self.openings) = (generation, openings);
            (self.waiting, self.head_request) = (waiting, head_request);
        }
        self.change_count = self.change_count.wrapping_add(1);
    }

    /// Undoes one opening, if another remains. Returns false if the caller has to close the handle.
    pub(crate) fn close_one(&mut self) -> bool {
        let is_shared = self.is_open() && self.openings > 1;
        if is_shared {
            self.openings.decrement();
        }
        is_shared
    }

    /// Has the next close end all openings of the handle, unless a thread of this process uses it.
    pub(crate) fn join_openings(&mut self) {
        if !self.is_in_use() {
            self.openings = 1;
        }
    }

    /// Records that the server has sent HELLO.
    pub fn on_server_hello(&mut self) {
        self.is_extended = true;
    }

    /// Returns the generation of the slot: the number of handles opened here so far.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Returns the handle's number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns true if the handle is open.
    #[inline]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, ClientPhase::Open | ClientPhase::Reopening)
    }

    /// Returns true if the slot is free.
    pub fn is_free(&self) -> bool {
        self.phase == ClientPhase::Free
    }

    /// Returns true if a thread of this process reads or changes the value.
    pub fn is_in_use(&self) -> bool {
        self.has_writer || self.readers > 0
    }

    /// Returns the lease that this process holds.
    pub fn current(&self) -> SyncState {
        self.current
    }

    /// Returns the value, as far as this process knows it.
    #[inline]
    pub fn data(&self) -> &[u8] {
        self.data.initialized().get(..self.length).or_broken(&[])
    }

    /// Returns whether the value has changed, for a caller that has just acquired the handle, since the last
    /// call of this function, and whether a process died while it held the lease to change it. All
    /// callers get the report of a death until one of them, or another process, has held the lease
    /// to change the value.
    #[inline]
    pub fn take_status(&mut self) -> (bool, bool) {
        self.reported_deaths = self.owner_deaths;
        (
            core::mem::take(&mut self.is_changed),
            self.owner_died_at_acquire,
        )
    }

    /// Keeps the status for the next caller, because the present one could not report it. The death
    /// is kept only while the handle is held.
    pub fn restore_status(&mut self, (is_changed, owner_died): (bool, bool)) {
        self.is_changed |= is_changed;
        if owner_died {
            self.owner_died = true;
            self.reported_deaths = self.owner_deaths.wrapping_sub(1);
        }
    }

    /// Returns the number of deaths of owners that this process knows of.
    pub fn owner_deaths(&self) -> u32 {
        self.owner_deaths
    }

    /// Returns the number of those deaths that were reported to a caller.
    pub fn reported_deaths(&self) -> u32 {
        self.reported_deaths
    }

    /// Returns a count that grows with each event that may let a waiting call proceed.
    pub fn change_count(&self) -> u64 {
        self.change_count
    }

    /// Takes a fencing number for the holder that may change the value; none if the lease's are used up.
    pub fn take_fencing_number(&mut self) -> Option<u64> {
        self.fencing.take()
    }

    /// Adds the block of fencing numbers that begins with this one, which the server has given to this
    /// client. `asked_at` is the change count when the caller, which holds the handle, asked for it: with
    /// another count this may be a later lease, and nothing happens.
    pub fn add_fencing_block(&mut self, asked_at: u64, first: u64) {
        if self.change_count == asked_at && self.has_writer {
            self.fencing = Numbers::block(first);
        }
    }

    /// Closes the handle. Returns false if a thread of this process uses it.
    pub fn close(&mut self) -> bool {
        if !self.is_open() || self.has_writer || self.readers > 0 {
            return false;
        }
        self.change_count = self.change_count.wrapping_add(1);
        if self.phase == ClientPhase::Reopening {
            // The server confirms the close before.
            self.phase = ClientPhase::Closing;
            return true;
        }
        self.out_upgrade = None;
        if self.is_known_to_server {
            self.forward_owner_death();
            self.phase = ClientPhase::Closing;
            self.out_close = true;
        } else {
            self.phase = ClientPhase::Free;
        }
        true
    }

    /// Like [`Client::close`], at the end of the process. A server in C would end with a client
    /// that holds a lease, so toward such a server the handle is closed even if it is in use, with
    /// the value that was last released.
    pub fn close_at_exit(&mut self) -> bool {
        if !self.is_extended {
            self.readers = 0;
            self.has_writer = false;
            self.is_upgrading = false;
        }
        self.close()
    }

    /// Returns true if the server is a process in C that has not confirmed the close. Such a server
    /// ends if the connection ends before.
    pub fn awaits_c_server(&self) -> bool {
        self.is_closing() && !self.is_extended
    }

    /// Handles the end of the server: a handle that was being closed is closed.
    pub fn abandon(&mut self) {
        if self.is_closing() {
            self.on_closed();
        } else {
            self.change_count = self.change_count.wrapping_add(1);
        }
    }

    /// Returns true if the server has not confirmed a close.
    const fn is_closing(&self) -> bool {
        matches!(self.phase, ClientPhase::Closing | ClientPhase::Reopening)
    }
}
