//! A process's side of a handle.

mod messages;

use super::rank;
use crate::store::Buffer;
use crate::wire::{SyncCode, SyncState};

/// A handle that was taken away so often, each time soon, is one that others want all the time.
const CONTENDED: u32 = 8;
/// How often such a handle is used before others are let run.
const USES_AT_ONCE: u32 = 64;
/// After so many uses that nobody has interrupted, nobody wants it any more.
const ALONE: u32 = 64 * USES_AT_ONCE;

/// What a client has to say to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Say {
    /// What it says.
    pub code: SyncCode,
    /// What it wants, or has from now on.
    pub state: SyncState,
    /// Whether its data goes with it.
    pub with_data: bool,
}

/// What a request for a handle came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// It is the caller's, until it gives it back.
    Taken,
    /// Not yet: to be tried again when something has changed.
    Wait,
    /// Somebody who wants to change what the caller reads waits for it to let go.
    LetGo,
    /// The server has no room for the handle.
    NoRoom,
    /// The server is one in C: between reading and changing others would come.
    Unsupported,
    /// The handle is closed.
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
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
    phase: Phase,
    id: u64,
    /// Counts the handles that this was.
    opened: u32,
    /// The server may know of this client.
    is_known: bool,
    /// What it has.
    current: SyncState,
    /// What it asks for and has not got.
    asked: SyncState,
    /// The most that may come: more than it asks for if it asks for less than before.
    may_come: SyncState,
    /// The server has said HELLO: it understands that the client asks for less than before, that it
    /// passes a death on, and that it asks for more while it reads.
    is_extended: bool,
    /// What the server wants it to have at most.
    wanted_back: Option<SyncState>,
    /// Who uses it in this process.
    readers: u32,
    has_writer: bool,
    /// A reader waits to become the writer.
    is_upgrading: bool,
    /// That reader is to let go.
    must_let_go: bool,
    /// Who waits to use it: to read, to write.
    waiting: [u32; 2],
    /// What the first of those wants who stand in line for it.
    first_wants: Option<SyncState>,
    /// Something came for who waits, and none has had it yet: it stays until then.
    is_fresh: bool,
    no_room: bool,
    /// Another process has changed the data since it was last used here.
    is_changed: bool,
    /// The owner died, and nobody has had it to change it since, here neither.
    is_orphan: bool,
    /// It was so when the handle was last taken.
    was_orphan: bool,
    /// Counts the deaths that this process heard of, and how many it has told its callers.
    deaths: u32,
    told_deaths: u32,
    /// Counts what may make somebody look again.
    changes: u64,
    /// There is something to say, or others want it all the time: the one thing that who gives it back
    /// looks at.
    is_wanted: bool,
    /// How often in a row it was taken away again soon.
    losses: u32,
    /// Uses since it came.
    uses: u32,
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
        Client::over(Buffer::of(data))
    }

    /// As [`Client::new`].
    pub(crate) fn over(data: Buffer<'m>) -> Client<'m> {
        Client {
            phase: Phase::Free,
            id: 0,
            opened: 0,
            is_known: false,
            current: SyncState::Invalid,
            asked: SyncState::Invalid,
            may_come: SyncState::Invalid,
            is_extended: false,
            wanted_back: None,
            readers: 0,
            has_writer: false,
            is_upgrading: false,
            must_let_go: false,
            waiting: [0; 2],
            first_wants: None,
            is_fresh: false,
            no_room: false,
            is_changed: false,
            is_orphan: false,
            was_orphan: false,
            deaths: 0,
            told_deaths: 0,
            changes: 0,
            is_wanted: false,
            losses: 0,
            uses: 0,
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
        let (changes, opened) = (self.changes, self.opened.wrapping_add(1));
        let data = core::mem::take(&mut self.data);
        *self = Client {
            phase: Phase::Open,
            id,
            opened,
            changes,
            is_extended,
            ..Client::over(data)
        };
        opened
    }

    /// The server has said HELLO.
    pub fn server_is_extended(&mut self) {
        self.is_extended = true;
    }

    /// Which of those that were opened here this is.
    #[inline]
    pub fn opened(&self) -> u32 {
        self.opened
    }

    /// The handle's number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is open.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether there is no handle here.
    pub fn is_free(&self) -> bool {
        self.phase == Phase::Free
    }

    /// Whether anybody here uses it, to read or to change it.
    pub fn is_used(&self) -> bool {
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
    pub fn news(&mut self) -> (bool, bool) {
        self.told_deaths = self.deaths;
        (core::mem::take(&mut self.is_changed), self.was_orphan)
    }

    /// The news come to nobody: they are for the next who takes it. A death only as long as the handle
    /// is still taken.
    pub fn put_news_back(&mut self, (is_changed, owner_died): (bool, bool)) {
        self.is_changed |= is_changed;
        if owner_died {
            self.is_orphan = true;
            self.told_deaths = self.deaths.wrapping_sub(1);
        }
    }

    /// How many deaths this process heard of.
    pub fn deaths(&self) -> u32 {
        self.deaths
    }

    /// How many of them it has told its callers.
    pub fn told_deaths(&self) -> u32 {
        self.told_deaths
    }

    /// Grows whenever somebody who waits is to look again.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether a caller that comes now may use the handle before those that wait: a reader passes
    /// readers, which it keeps from nothing, and nobody passes a writer.
    #[inline]
    pub fn may_pass(&self, state: SyncState) -> bool {
        let [readers, writers] = self.waiting;
        writers == 0 && (readers == 0 || state == SyncState::Shared)
    }

    /// Uses the handle, to read or to change it, if that can be done now; asks for the lease if not.
    /// It is the caller's turn: nobody has come before it. A caller that then waits says so with
    /// [`Client::wait`].
    #[inline]
    pub fn take(&mut self, state: SyncState) -> Take {
        self.take_in_turn(state, true)
    }

    /// As [`Client::take`]; but a caller that does not have its turn only asks for the lease.
    #[inline]
    pub fn take_in_turn(&mut self, state: SyncState, has_turn: bool) -> Take {
        if self.phase != Phase::Open {
            return Take::Closed;
        }
        let write = state == SyncState::Exclusive;
        // A reader that is to become the writer waits for the other readers: no more of them come.
        let is_free =
            !self.has_writer && !self.is_upgrading && (!write || self.readers == 0) && has_turn;
        let is_wanted = self
            .wanted_back
            .is_some_and(|most| rank(most) < rank(state));
        if is_free && rank(self.current) >= rank(state) && (!is_wanted || self.is_fresh) {
            self.has_writer = write;
            self.was_orphan = self.is_orphan;
            self.is_orphan &= !write;
            self.readers = self.readers.saturating_add(u32::from(!write));
            self.is_fresh = false;
            return Take::Taken;
        }
        if core::mem::take(&mut self.no_room) {
            return Take::NoRoom;
        }
        if rank(self.current) < rank(state) {
            self.ask(state);
        }
        Take::Wait
    }

    fn ask(&mut self, state: SyncState) {
        if !self.is_extended && !self.can_ask_in_c(state) {
            return;
        }
        if rank(self.asked) < rank(state) {
            self.asked = state;
            if rank(self.may_come) < rank(state) {
                self.may_come = state;
            }
            self.out_upgrade = Some(state);
            self.is_wanted = true;
        }
    }

    /// Whether a server in C can be asked for that now. It has a client that asks for more give back what
    /// that has, and takes what comes then for what it has just granted. So a client asks it for
    /// nothing before the last request was granted, and lets go of what it has before it asks for more.
    fn can_ask_in_c(&mut self, state: SyncState) -> bool {
        if rank(self.asked) > 0 || self.readers > 0 {
            return false;
        }
        if state == SyncState::Exclusive && self.current == SyncState::Shared {
            self.lower_to(SyncState::Invalid);
            self.wanted_back = None;
            self.is_fresh = false;
        }
        true
    }

    /// Asks for no more than somebody here still waits for: others may have it meanwhile.
    fn ask_for_less(&mut self) {
        let [readers, writers] = self.waiting;
        let needed = if writers > 0 || self.is_upgrading {
            SyncState::Exclusive
        } else if readers > 0 && rank(self.current) == 0 {
            SyncState::Shared
        } else {
            SyncState::Invalid
        };
        if rank(needed) >= rank(self.asked) {
            return;
        }
        if !self.is_known {
            // Nothing of that was said yet.
            self.asked = needed;
            self.out_upgrade = Some(needed).filter(|needed| rank(*needed) > 0);
        } else if self.is_extended {
            self.asked = needed;
            self.out_upgrade = Some(needed);
            self.is_wanted = true;
        }
    }

    /// Somebody waits to use it, or (with -1) no more.
    pub fn wait(&mut self, state: SyncState, change: i32) {
        let [readers, writers] = &mut self.waiting;
        let count = if state == SyncState::Exclusive {
            writers
        } else {
            readers
        };
        *count = count.saturating_add_signed(change);
        if change < 0 {
            self.ask_for_less();
            self.is_fresh &= self.can_serve();
            self.settle();
        }
    }

    /// The only reader becomes the writer, if that can be done now; asks for the lease if not. It
    /// keeps on trying, or ends with [`Client::stop_upgrade`].
    pub fn upgrade(&mut self, is_first: bool) -> Take {
        if !self.is_extended && self.current != SyncState::Exclusive {
            return Take::Unsupported;
        }
        if is_first {
            // Two that wait for each other to let go would do so for ever.
            let invalid = self.wanted_back == Some(SyncState::Invalid);
            if self.is_upgrading || invalid {
                return Take::LetGo;
            }
            self.is_upgrading = true;
            self.must_let_go = false;
        }
        if self.must_let_go {
            return Take::LetGo;
        }
        if self.current == SyncState::Exclusive && self.readers == 1 {
            self.readers = 0;
            self.has_writer = true;
            self.is_orphan = false;
            self.is_upgrading = false;
            self.is_fresh = false;
            return Take::Taken;
        }
        if core::mem::take(&mut self.no_room) {
            return Take::NoRoom;
        }
        if self.current != SyncState::Exclusive {
            self.ask(SyncState::Exclusive);
        }
        Take::Wait
    }

    /// The reader stays one.
    pub fn stop_upgrade(&mut self) {
        self.is_upgrading = false;
        self.must_let_go = false;
        self.ask_for_less();
        self.is_fresh &= self.can_serve();
        self.settle();
    }

    /// What the first of those wants who stand in line, `None` if nobody does. Others may wait who do
    /// not stand there yet.
    pub fn set_first(&mut self, wants: Option<SyncState>) {
        self.first_wants = wants;
    }

    /// Whether the next who is to use it waits for no more than this process has.
    fn can_serve(&self) -> bool {
        let [readers, writers] = self.waiting;
        if self.is_upgrading {
            return self.current == SyncState::Exclusive;
        }
        match (self.current, self.first_wants) {
            (current, Some(wants)) => rank(current) >= rank(wants),
            (SyncState::Exclusive, None) => readers > 0 || writers > 0,
            (SyncState::Shared, None) => readers > 0,
            (SyncState::Invalid | SyncState::None, None) => false,
        }
    }

    /// Whether this process has what it takes to use it in that state.
    pub fn has(&self, state: SyncState) -> bool {
        rank(self.current) >= rank(state)
    }

    /// Whether somebody here has taken it in that state, and can give it back: a reader that waits to
    /// become the writer can't.
    #[inline]
    pub fn is_taken(&self, state: SyncState) -> bool {
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
        self.changes = self.changes.wrapping_add(1);
        let fits = length <= self.data.capacity();
        let data = self.data.first(if fits { length } else { 0 });
        self.length = data.len();
        data
    }

    /// The caller uses it no more.
    #[inline]
    pub fn give(&mut self, state: SyncState) {
        if state == SyncState::Exclusive {
            self.has_writer = false;
        } else {
            self.readers = self.readers.saturating_sub(1);
        }
        if self.wanted_back.is_some() {
            self.settle();
        }
    }

    /// Whether there is anything for who gives it back to do: something to say, or others to let run.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Looks again whether there is.
    pub(crate) fn note_wanted(&mut self) {
        self.is_wanted = self.next().is_some() || self.is_contended();
    }

    /// Whether others want it all the time.
    pub fn is_contended(&self) -> bool {
        self.losses >= CONTENDED
    }

    /// Whether who uses a contended handle had better let others run now: on a single core they can't
    /// even ask.
    pub fn is_time_to_yield(&mut self) -> bool {
        self.uses = self.uses.wrapping_add(1);
        if self.uses >= ALONE {
            // Nobody has asked for long.
            self.losses = 0;
            self.note_wanted();
        }
        self.uses.is_multiple_of(USES_AT_ONCE)
    }

    /// Gives back what the server wants, as far as nobody here uses it.
    fn settle(&mut self) {
        let Some(wanted) = self.wanted_back else {
            return;
        };
        if self.phase != Phase::Open {
            return;
        }
        let used = if self.has_writer || self.is_fresh {
            rank(self.current)
        } else {
            u8::from(self.readers > 0)
        };
        let target = if used > rank(wanted) {
            SyncState::Shared
        } else {
            wanted
        };
        if used <= rank(target) && rank(target) < rank(self.current) {
            self.losses = self.losses.saturating_add(1);
            self.uses = 0;
            self.lower_to(target);
        }
        if rank(self.current) <= rank(wanted) {
            self.wanted_back = None;
        } else if self.is_upgrading && self.current == SyncState::Shared && !self.must_let_go {
            // It reads what is wanted back, and waits for more, which is not to be had before that. One
            // that has got it lets go when it has changed the data.
            self.must_let_go = true;
            self.changes = self.changes.wrapping_add(1);
        }
    }

    /// Gives back what it has beyond that.
    fn lower_to(&mut self, target: SyncState) {
        let had = self.out_downgrade.is_some_and(|(_, with_data)| with_data);
        let with_data = had || self.current == SyncState::Exclusive;
        self.pass_death_on();
        self.current = target;
        if target == SyncState::Invalid {
            // It comes with the lease again.
            self.is_orphan = false;
        }
        self.is_wanted = true;
        self.out_downgrade = Some((target, with_data));
        self.changes = self.changes.wrapping_add(1);
    }

    /// A lease to change the data is given back. The server takes it that who got it has seen to what
    /// a dead process left; here nobody has.
    fn pass_death_on(&mut self) {
        let unseen = self.is_orphan && self.current == SyncState::Exclusive;
        self.out_owner_died |= unseen && self.is_extended;
    }

    /// Closes the handle; nobody uses it. False if somebody does.
    pub fn close(&mut self) -> bool {
        if self.phase != Phase::Open || self.has_writer || self.readers > 0 {
            return false;
        }
        self.changes = self.changes.wrapping_add(1);
        self.out_upgrade = None;
        if self.is_known {
            self.pass_death_on();
            self.phase = Phase::Closing;
            self.out_close = true;
        } else {
            self.phase = Phase::Free;
        }
        true
    }

    /// As [`Client::close`], at the end of the process. A server in C would end with a client that has
    /// something: toward that the handle is closed even if it is in use, without what was not given back.
    pub fn close_at_end(&mut self) -> bool {
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
        self.phase == Phase::Closing && !self.is_extended
    }

    /// The server is gone: what was closed stays so.
    pub fn abandon(&mut self) {
        if self.phase == Phase::Closing {
            self.phase = Phase::Free;
        }
        self.changes = self.changes.wrapping_add(1);
    }
}
