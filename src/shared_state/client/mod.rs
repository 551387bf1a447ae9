//! A process's side of a handle.

mod contention;
mod lease;
mod messages;
mod usage;

use crate::store::Buffer;
use crate::wire::{SyncCode, SyncState};

/// What a client has to say to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientMessage {
    /// What it says.
    pub code: SyncCode,
    /// What it wants, or has from now on.
    pub state: SyncState,
    /// Whether its data goes with it.
    pub with_data: bool,
}

/// What a request for a handle came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquisition {
    /// It is the caller's, until it gives it back.
    Acquired,
    /// Not yet: to be tried again when something has changed.
    Pending,
    /// Somebody who wants to change what the caller reads waits for it to let go.
    UpgradeDeadlock,
    /// The server has no room for the handle.
    NoRoom,
    /// The server is one in C: between reading and changing others would come.
    Unsupported,
    /// The handle is closed.
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientPhase {
    Free,
    Open,
    Closing,
}

/// A handle as a process has it.
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub struct Client<'m> {
    phase: ClientPhase,
    id: u64,
    /// Counts the handles that this was.
    generation: u32,
    /// The server may know of this client.
    is_known_to_server: bool,
    /// What it has.
    current: SyncState,
    /// What it asks for and has not got.
    requested: SyncState,
    /// The most that may come: more than it asks for if it asks for less than before.
    max_grant: SyncState,
    /// The server has said HELLO: it understands that the client asks for less than before, that it
    /// passes a death on, and that it asks for more while it reads.
    is_extended: bool,
    /// What the server wants it to have at most.
    revoke_to: Option<SyncState>,
    /// Who uses it in this process.
    readers: u32,
    has_writer: bool,
    /// A reader waits to become the writer.
    is_upgrading: bool,
    /// That reader is to let go.
    upgrade_deadlock: bool,
    /// Who waits to use it: to read, to write.
    waiting: [u32; 2],
    /// What the first of those wants who stand in line for it.
    head_request: Option<SyncState>,
    /// Something came for who waits, and none has had it yet: it stays until then.
    is_grant_unused: bool,
    no_room: bool,
    /// Another process has changed the data since it was last used here.
    is_changed: bool,
    /// The owner died, and nobody has had it to change it since, here neither.
    owner_died: bool,
    /// It was so when the handle was last taken.
    owner_died_at_acquire: bool,
    /// Counts the deaths that this process heard of, and how many it has told its callers.
    owner_deaths: u32,
    reported_deaths: u32,
    /// Counts what may make somebody look again.
    change_count: u64,
    /// There is something to say, or others want it all the time: the one thing that who gives it back
    /// looks at.
    has_release_work: bool,
    /// How often in a row it was taken away again soon.
    quick_revocations: u32,
    /// Uses since it came.
    uses_since_grant: u32,
    out_downgrade: Option<(SyncState, bool)>,
    out_upgrade: Option<SyncState>,
    out_close: bool,
    /// With what is given back: the next is to be told that the owner died.
    out_owner_died: bool,
    length: usize,
    data: Buffer<'m>,
}

impl<'m> Client<'m> {
    /// A free place, whose handle may have as much data as there is memory.
    pub fn new(data: &'m mut [u8]) -> Client<'m> {
        Client::from_buffer(Buffer::of(data))
    }

    /// As [`Client::new`].
    pub(crate) fn from_buffer(data: Buffer<'m>) -> Client<'m> {
        Client {
            phase: ClientPhase::Free,
            id: 0,
            generation: 0,
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
            length: 0,
            data,
        }
    }

    /// Opens the handle in this free place. `is_extended`: the server has said HELLO, or is of this
    /// process. Returns which of those that were opened here it is.
    pub fn open(&mut self, id: u64, is_extended: bool) -> u32 {
        let (change_count, generation) = (self.change_count, self.generation.wrapping_add(1));
        let data = core::mem::take(&mut self.data);
        *self = Client {
            phase: ClientPhase::Open,
            id,
            generation,
            change_count,
            is_extended,
            ..Client::from_buffer(data)
        };
        generation
    }

    /// The server has said HELLO.
    pub fn on_server_hello(&mut self) {
        self.is_extended = true;
    }

    /// Which of those that were opened here this is.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The handle's number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is open.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.phase == ClientPhase::Open
    }

    /// Whether there is no handle here.
    pub fn is_free(&self) -> bool {
        self.phase == ClientPhase::Free
    }

    /// Whether anybody here uses it, to read or to change it.
    pub fn is_in_use(&self) -> bool {
        self.has_writer || self.readers > 0
    }

    /// What this process has of it.
    pub fn current(&self) -> SyncState {
        self.current
    }

    /// Its data, as far as this process knows it.
    #[inline]
    pub fn data(&self) -> &[u8] {
        self.data.made().get(..self.length).unwrap_or(&[])
    }

    /// For who has just taken it: whether the data has changed since that was last asked, and whether
    /// a process died that was changing it. The death is told to all who take it here until one of
    /// them, or another process, has had it to change it.
    #[inline]
    pub fn take_status(&mut self) -> (bool, bool) {
        self.reported_deaths = self.owner_deaths;
        (
            core::mem::take(&mut self.is_changed),
            self.owner_died_at_acquire,
        )
    }

    /// The news come to nobody: they are for the next who takes it. A death only as long as the handle
    /// is still taken.
    pub fn restore_status(&mut self, (is_changed, owner_died): (bool, bool)) {
        self.is_changed |= is_changed;
        if owner_died {
            self.owner_died = true;
            self.reported_deaths = self.owner_deaths.wrapping_sub(1);
        }
    }

    /// How many deaths this process heard of.
    pub fn owner_deaths(&self) -> u32 {
        self.owner_deaths
    }

    /// How many of them it has told its callers.
    pub fn reported_deaths(&self) -> u32 {
        self.reported_deaths
    }

    /// Grows whenever somebody who waits is to look again.
    pub fn change_count(&self) -> u64 {
        self.change_count
    }

    /// Closes the handle; nobody uses it. False if somebody does.
    pub fn close(&mut self) -> bool {
        if self.phase != ClientPhase::Open || self.has_writer || self.readers > 0 {
            return false;
        }
        self.change_count = self.change_count.wrapping_add(1);
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

    /// As [`Client::close`], at the end of the process. A server in C would end with a client that has
    /// something: toward that the handle is closed even if it is in use, without what was not given back.
    pub fn close_at_exit(&mut self) -> bool {
        if !self.is_extended {
            self.readers = 0;
            self.has_writer = false;
            self.is_upgrading = false;
        }
        self.close()
    }

    /// Whether the server in C, which ends if the connection does before that, has yet to confirm the
    /// close.
    pub fn awaits_c_server(&self) -> bool {
        self.phase == ClientPhase::Closing && !self.is_extended
    }

    /// The server is gone: what was closed stays so.
    pub fn abandon(&mut self) {
        if self.phase == ClientPhase::Closing {
            self.phase = ClientPhase::Free;
        }
        self.change_count = self.change_count.wrapping_add(1);
    }
}
