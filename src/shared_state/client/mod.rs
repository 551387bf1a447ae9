//! A process's side of a handle.

mod messages;

use super::strength;
use crate::store::Buffer;
use crate::wire::{SyncCode, SyncState};

/// A handle that was taken away so often, each time soon, is one that others want all the time.
const CONTENTION_THRESHOLD: u32 = 8;
/// How often such a handle is used before others are let run.
const USES_PER_YIELD: u32 = 64;
/// After so many uses that nobody has interrupted, nobody wants it any more.
const USES_WITHOUT_REVOCATION: u32 = 64 * USES_PER_YIELD;

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

    /// Whether a caller that comes now may use the handle before those that wait: a reader passes
    /// readers, which it keeps from nothing, and nobody passes a writer.
    #[inline]
    pub fn may_overtake(&self, state: SyncState) -> bool {
        let [readers, writers] = self.waiting;
        writers == 0 && (readers == 0 || state == SyncState::Shared)
    }

    /// Uses the handle, to read or to change it, if that can be done now; asks for the lease if not.
    /// It is the caller's turn: nobody has come before it. A caller that then waits says so with
    /// [`Client::change_waiters`].
    #[inline]
    pub fn acquire(&mut self, state: SyncState) -> Acquisition {
        self.acquire_in_turn(state, true)
    }

    /// As [`Client::acquire`]; but a caller that does not have its turn only asks for the lease.
    #[inline]
    pub fn acquire_in_turn(&mut self, state: SyncState, has_turn: bool) -> Acquisition {
        if self.phase != ClientPhase::Open {
            return Acquisition::Closed;
        }
        let write = state == SyncState::Exclusive;
        // A reader that is to become the writer waits for the other readers: no more of them come.
        let is_free =
            !self.has_writer && !self.is_upgrading && (!write || self.readers == 0) && has_turn;
        let is_revoked = self
            .revoke_to
            .is_some_and(|revoke_to| strength(revoke_to) < strength(state));
        if is_free
            && strength(self.current) >= strength(state)
            && (!is_revoked || self.is_grant_unused)
        {
            self.has_writer = write;
            self.owner_died_at_acquire = self.owner_died;
            self.owner_died &= !write;
            self.readers = self.readers.saturating_add(u32::from(!write));
            self.is_grant_unused = false;
            return Acquisition::Acquired;
        }
        if core::mem::take(&mut self.no_room) {
            return Acquisition::NoRoom;
        }
        if strength(self.current) < strength(state) {
            self.request(state);
        }
        Acquisition::Pending
    }

    fn request(&mut self, state: SyncState) {
        if !self.is_extended && !self.can_request_from_c(state) {
            return;
        }
        if strength(self.requested) < strength(state) {
            self.requested = state;
            if strength(self.max_grant) < strength(state) {
                self.max_grant = state;
            }
            self.out_upgrade = Some(state);
            self.has_release_work = true;
        }
    }

    /// Whether a server in C can be asked for that now. It has a client that asks for more give back what
    /// that has, and takes what comes then for what it has just granted. So a client asks it for
    /// nothing before the last request was granted, and lets go of what it has before it asks for more.
    fn can_request_from_c(&mut self, state: SyncState) -> bool {
        if strength(self.requested) > 0 || self.readers > 0 {
            return false;
        }
        if state == SyncState::Exclusive && self.current == SyncState::Shared {
            self.downgrade_to(SyncState::Invalid);
            self.revoke_to = None;
            self.is_grant_unused = false;
        }
        true
    }

    /// Asks for no more than somebody here still waits for: others may have it meanwhile.
    fn reduce_request(&mut self) {
        let [readers, writers] = self.waiting;
        let needed = if writers > 0 || self.is_upgrading {
            SyncState::Exclusive
        } else if readers > 0 && strength(self.current) == 0 {
            SyncState::Shared
        } else {
            SyncState::Invalid
        };
        if strength(needed) >= strength(self.requested) {
            return;
        }
        if !self.is_known_to_server {
            // Nothing of that was said yet.
            self.requested = needed;
            self.out_upgrade = Some(needed).filter(|needed| strength(*needed) > 0);
        } else if self.is_extended {
            self.requested = needed;
            self.out_upgrade = Some(needed);
            self.has_release_work = true;
        }
    }

    /// Somebody waits to use it, or (with -1) no more.
    pub fn change_waiters(&mut self, state: SyncState, change: i32) {
        let [readers, writers] = &mut self.waiting;
        let count = if state == SyncState::Exclusive {
            writers
        } else {
            readers
        };
        *count = count.saturating_add_signed(change);
        if change < 0 {
            self.reduce_request();
            self.is_grant_unused &= self.can_serve();
            self.return_revoked();
        }
    }

    /// The only reader becomes the writer, if that can be done now; asks for the lease if not. It
    /// keeps on trying, or ends with [`Client::cancel_upgrade`].
    pub fn upgrade(&mut self, is_first: bool) -> Acquisition {
        if !self.is_extended && self.current != SyncState::Exclusive {
            return Acquisition::Unsupported;
        }
        if is_first {
            // Two that wait for each other to let go would do so for ever.
            let invalid = self.revoke_to == Some(SyncState::Invalid);
            if self.is_upgrading || invalid {
                return Acquisition::UpgradeDeadlock;
            }
            self.is_upgrading = true;
            self.upgrade_deadlock = false;
        }
        if self.upgrade_deadlock {
            return Acquisition::UpgradeDeadlock;
        }
        if self.current == SyncState::Exclusive && self.readers == 1 {
            self.readers = 0;
            self.has_writer = true;
            self.owner_died = false;
            self.is_upgrading = false;
            self.is_grant_unused = false;
            return Acquisition::Acquired;
        }
        if core::mem::take(&mut self.no_room) {
            return Acquisition::NoRoom;
        }
        if self.current != SyncState::Exclusive {
            self.request(SyncState::Exclusive);
        }
        Acquisition::Pending
    }

    /// The reader stays one.
    pub fn cancel_upgrade(&mut self) {
        self.is_upgrading = false;
        self.upgrade_deadlock = false;
        self.reduce_request();
        self.is_grant_unused &= self.can_serve();
        self.return_revoked();
    }

    /// What the first of those wants who stand in line, `None` if nobody does. Others may wait who do
    /// not stand there yet.
    pub fn set_head_request(&mut self, head: Option<SyncState>) {
        self.head_request = head;
    }

    /// Whether the next who is to use it waits for no more than this process has.
    fn can_serve(&self) -> bool {
        let [readers, writers] = self.waiting;
        if self.is_upgrading {
            return self.current == SyncState::Exclusive;
        }
        match (self.current, self.head_request) {
            (current, Some(head)) => strength(current) >= strength(head),
            (SyncState::Exclusive, None) => readers > 0 || writers > 0,
            (SyncState::Shared, None) => readers > 0,
            (SyncState::Invalid | SyncState::None, None) => false,
        }
    }

    /// Whether this process has what it takes to use it in that state.
    pub fn has_lease(&self, state: SyncState) -> bool {
        strength(self.current) >= strength(state)
    }

    /// Whether somebody here has taken it in that state, and can give it back: a reader that waits to
    /// become the writer can't.
    #[inline]
    pub fn is_held(&self, state: SyncState) -> bool {
        match state {
            SyncState::Exclusive => self.has_writer,
            SyncState::Shared => self.readers > u32::from(self.is_upgrading),
            SyncState::Invalid | SyncState::None => false,
        }
    }

    /// The data, to be changed by who has taken it for that. It is that long from now on; not at all
    /// if that is longer than there is room for.
    #[inline]
    pub fn data_mut(&mut self, length: usize) -> &mut [u8] {
        self.change_count = self.change_count.wrapping_add(1);
        let fits = length <= self.data.capacity();
        let data = self.data.first(if fits { length } else { 0 });
        self.length = data.len();
        data
    }

    /// The caller uses it no more.
    #[inline]
    pub fn release(&mut self, state: SyncState) {
        if state == SyncState::Exclusive {
            self.has_writer = false;
        } else {
            self.readers = self.readers.saturating_sub(1);
        }
        if self.revoke_to.is_some() {
            self.return_revoked();
        }
    }

    /// Whether there is anything for who gives it back to do: something to say, or others to let run.
    #[inline]
    pub fn has_release_work(&self) -> bool {
        self.has_release_work
    }

    /// Looks again whether there is.
    pub(crate) fn update_release_work(&mut self) {
        self.has_release_work = self.poll_transmit().is_some() || self.is_contended();
    }

    /// Whether others want it all the time.
    pub fn is_contended(&self) -> bool {
        self.quick_revocations >= CONTENTION_THRESHOLD
    }

    /// Whether who uses a contended handle had better let others run now: on a single core they can't
    /// even ask.
    pub fn should_yield(&mut self) -> bool {
        self.uses_since_grant = self.uses_since_grant.wrapping_add(1);
        if self.uses_since_grant >= USES_WITHOUT_REVOCATION {
            // Nobody has asked for long.
            self.quick_revocations = 0;
            self.update_release_work();
        }
        self.uses_since_grant.is_multiple_of(USES_PER_YIELD)
    }

    /// Gives back what the server wants, as far as nobody here uses it.
    fn return_revoked(&mut self) {
        let Some(revoke_to) = self.revoke_to else {
            return;
        };
        if self.phase != ClientPhase::Open {
            return;
        }
        let used = if self.has_writer || self.is_grant_unused {
            strength(self.current)
        } else {
            u8::from(self.readers > 0)
        };
        let target = if used > strength(revoke_to) {
            SyncState::Shared
        } else {
            revoke_to
        };
        if used <= strength(target) && strength(target) < strength(self.current) {
            self.quick_revocations = self.quick_revocations.saturating_add(1);
            self.uses_since_grant = 0;
            self.downgrade_to(target);
        }
        if strength(self.current) <= strength(revoke_to) {
            self.revoke_to = None;
        } else if self.is_upgrading && self.current == SyncState::Shared && !self.upgrade_deadlock {
            // It reads what is wanted back, and waits for more, which is not to be had before that. One
            // that has got it lets go when it has changed the data.
            self.upgrade_deadlock = true;
            self.change_count = self.change_count.wrapping_add(1);
        }
    }

    /// Gives back what it has beyond that.
    fn downgrade_to(&mut self, target: SyncState) {
        let had = self.out_downgrade.is_some_and(|(_, with_data)| with_data);
        let with_data = had || self.current == SyncState::Exclusive;
        self.forward_owner_death();
        self.current = target;
        if target == SyncState::Invalid {
            // It comes with the lease again.
            self.owner_died = false;
        }
        self.has_release_work = true;
        self.out_downgrade = Some((target, with_data));
        self.change_count = self.change_count.wrapping_add(1);
    }

    /// A lease to change the data is given back. The server takes it that who got it has seen to what
    /// a dead process left; here nobody has.
    fn forward_owner_death(&mut self) {
        let unseen = self.owner_died && self.current == SyncState::Exclusive;
        self.out_owner_died |= unseen && self.is_extended;
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
