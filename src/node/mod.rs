//! [`Node`]: one process of a family. It is the thread-safe interface of the crate.

// First for its macro.
#[macro_use]
mod rpc;

mod api;
mod connection;
mod construction;
mod deadlines;
mod heartbeats;
mod leader_tables;
mod lifecycle;
#[cfg(all(test, loom))]
mod loom_tests;
mod outbox;
mod reclaim;
mod reply;
mod statistics;
mod succession;
mod upcall;

use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::Identity;
use crate::config::{Config, Driving};
use crate::counters::Counters;
use crate::events::EventRing;
use crate::member::{Children, DelegatedFiles, OwnIds};
use crate::pal::{Deadline, Pal};
use crate::store::{SpinLock, assert_none_held};
use connection::{PollIterations, WorkerState};
use deadlines::LeaderLimits;
use heartbeats::Contact;
use succession::Leadership;

pub(crate) use crate::config::ANSWER_RESERVE;
pub(crate) use api::SyncHandles;
pub use api::{
    Arrival, Barrier, ChildSelector, Condvar, Exit, Queue, Reader, Semaphore, Shared, SliceReader,
    SliceWriter, SyncHandle, ValueStatus, Writer, lock_range,
};
use api::{OwnerCache, Parent, UsedLocks};
pub(crate) use connection::{AdaptiveSpin, PeerRef, Peers, RxHalf, StreamKey, TxHalf};
pub(crate) use leader_tables::LeaderTables;
pub(crate) use lifecycle::Phase;
pub(in crate::node) use outbox::Sender;
pub use reply::{Metadata, MetadataReply, SignalReply};
#[cfg(feature = "capi")]
pub(crate) use rpc::MAX_SET_ASIDE;
pub(crate) use rpc::ReplyData;
pub(crate) use rpc::{Delivery, LateReply, Waiters};
pub use rpc::{Interrupt, PendingCall, Request, Wait, WaitReason};
pub use upcall::{Embedder, Signal, Target};
pub(crate) use upcall::{NoEmbedder, Upcall};

/// The calls to the embedder that are queued, at the limit. When the queue is full, the worker
/// leaves a peer's message unread until there is room.
// The model checker has little room on its stacks.
type Upcalls = heapless::Deque<Upcall, { if cfg!(loom) { 1 } else { 64 } }>;

/// One process of a family.
///
/// All calls may be made from any thread at once, but in [`Driving::Caller`] from one thread only.
/// Calls that wait take a [`Wait`]: a time limit and a way to interrupt.
/// Each of them has a form that does not block, with the suffix `_async`: a future, as
/// [`Node::set_lock_async`].
/// The table in docs/concurrency.md states what may be called from callbacks, signal handlers and
/// interrupt handlers.
///
/// | group | calls |
/// | --- | --- |
/// | set-up | [`memory`](Node::memory), [`new`](Node::new), [`with_embedder`](Node::with_embedder), [`identity`](Node::identity), [`pal`](Node::pal) |
/// | driving | [`work`](Node::work), [`poll`](Node::poll), [`poll_once`](Node::poll_once), [`shut_down`](Node::shut_down) |
/// | the life of a process | [`join`](Node::join), [`pid`](Node::pid), [`exit`](Node::exit), [`leave`](Node::leave) |
/// | children and the parent | [`start_child`](Node::start_child), [`abandon_child`](Node::abandon_child), [`wait_child`](Node::wait_child), [`peek_child`](Node::peek_child), [`watch_parent`](Node::watch_parent) |
/// | the process table | [`process`](Node::process), [`next_process`](Node::next_process), [`group_of`](Node::group_of), [`set_group`](Node::set_group), [`session_of`](Node::session_of), [`new_session`](Node::new_session), [`mark`](Node::mark) |
/// | signals and metadata | [`kill`](Node::kill), [`credentials`](Node::credentials), [`path_of`](Node::path_of) |
/// | IDs | [`take_id`](Node::take_id), [`take_id_for`](Node::take_id_for), [`transfer_id`](Node::transfer_id), [`accept_id`](Node::accept_id), [`release_id`](Node::release_id), [`release_idle_ranges`](Node::release_idle_ranges), [`ids_in_use`](Node::ids_in_use), [`owner_of`](Node::owner_of), [`change_owner`](Node::change_owner), [`alloc_range`](Node::alloc_range), [`release_range`](Node::release_range), [`new_vmid`](Node::new_vmid), [`announce`](Node::announce) |
/// | file locks | [`set_lock`](Node::set_lock), [`find_lock`](Node::find_lock), [`fencing_number`](Node::fencing_number), [`close_file`](Node::close_file), [`clear_locks`](Node::clear_locks) |
/// | open files | [`hold_open_file`](Node::hold_open_file), [`give_open_file`](Node::give_open_file), [`take_back_open_file`](Node::take_back_open_file), [`close_open_file`](Node::close_open_file) |
/// | shared values, typed | [`share`](Node::share), [`share_slice`](Node::share_slice), [`open_semaphore`](Node::open_semaphore), [`open_queue`](Node::open_queue), [`open_condvar`](Node::open_condvar), [`open_barrier`](Node::open_barrier) |
/// | shared values, as bytes | [`open_sync`](Node::open_sync), [`lock_sync`](Node::lock_sync), [`sync_fencing_number`](Node::sync_fencing_number), [`upgrade_sync`](Node::upgrade_sync), [`unlock_sync`](Node::unlock_sync), [`wait_sync`](Node::wait_sync), [`sync_changes`](Node::sync_changes), [`close_sync`](Node::close_sync), [`close_all_syncs`](Node::close_all_syncs) |
/// | connections | [`connect`](Node::connect), [`disconnect`](Node::disconnect), [`leader`](Node::leader) |
/// | diagnosis | [`statistics`](Node::statistics), [`events`](Node::events), [`pending_calls`](Node::pending_calls), [`check_invariants`](Node::check_invariants) |
///
/// # Errors of every call
/// A call that needs another process fails with
/// * [`Error::TimedOut`](crate::Error::TimedOut) or [`Error::Interrupted`](crate::Error::Interrupted), as its
///   [`Wait`] says;
/// * [`Error::NoSuchProcess`](crate::Error::NoSuchProcess) or [`Error::LeaderGone`](crate::Error::LeaderGone), if
///   the process that has to answer is gone;
/// * [`Error::Invalid`](crate::Error::Invalid), if an argument is not allowed, or the call at this moment, with the
///   [cause](crate::Invalid);
/// * [`Error::Full`](crate::Error::Full), at a limit of this node, which the error names;
/// * [`Error::LimitsDiffer`](crate::Error::LimitsDiffer), if the other process has a lower limit;
/// * [`Error::ShuttingDown`](crate::Error::ShuttingDown), if this process has [ended](Node::exit) or its node was
///   [shut down](Node::shut_down).
// In this order, since the fields that most functions read have short offsets, and so short instructions.
#[repr(C)]
pub struct Node<'m, P: Pal> {
    phase: AtomicU8,
    pub(crate) leader_gone: AtomicBool,
    /// The leader has refused this process, since it has no room for it.
    leader_is_full: AtomicBool,
    /// The leader has sent HELLO, so it knows the extensions of this crate.
    extended: AtomicBool,
    /// The process has ended for the family, though its node still answers.
    ended: AtomicBool,
    woken: AtomicBool,
    /// This process uses the C interface and never [joins](Node::join).
    pub(crate) never_joins: bool,
    /// The leader has sent the open files that this process inherited, before the process joined.
    knows_inherited: AtomicBool,
    /// As a member: a message to the leader had no room, and the worker sends it when there is some.
    member_output_deferred: AtomicBool,
    /// The worker waits for the table of delegated files, from which it takes what is recalled.
    recall_waits: AtomicBool,
    /// The pid of this process; 0 before it joined.
    own_pid: AtomicU32,
    /// The number of signals that this process has sent through the leader and that may not have
    /// arrived yet.
    forwarded: AtomicU32,
    // The larger parts are in the arena, so that the node is small and takes little stack while it is made.
    leadership: Leadership<'m, P::Stream>,
    pub(crate) identity: Identity,
    pub(crate) embedder: &'m (dyn Embedder<P> + 'm),
    pub(crate) delegated_files: &'m SpinLock<DelegatedFiles<'m>>,
    leader_limits: &'m LeaderLimits,
    pub(crate) upcalls: &'m SpinLock<Upcalls>,
    pub(crate) owners: &'m SpinLock<OwnerCache>,
    // The fields are dropped in this order: everything that lives in the arena goes before the PAL.
    pub(crate) peers: Peers<'m, P::Stream>,
    pub(crate) waiters: Waiters<'m, P::Event>,
    pub(crate) events: EventRing<'m>,
    pub(crate) sync_handles: SyncHandles<'m>,
    pub(crate) own_ids: SpinLock<OwnIds<'m>>,
    pub(crate) children: SpinLock<Children<'m>>,
    /// The time at which the worker reports abandoned children to the leader again; 0 if there are
    /// none.
    abandoned_retry_at: AtomicU64,
    /// The last pause before such a report, in nanoseconds.
    abandoned_pause: AtomicU64,
    parent: SpinLock<Parent>,
    /// As a member: the contact with the leader.
    contact: Contact,
    iterations: PollIterations,
    used_locks: UsedLocks,
    pub(crate) worker: SpinLock<WorkerState<'m, P::Stream>>,
    pub(crate) stopped: P::Event,
    pub(crate) counters: Counters,
    pub(crate) caller_spin: AdaptiveSpin,
    /// The `sync_data` of the leader if it differs from this process's; else [`limits::NONE`].
    leaders_sync_data: AtomicU64,
    pub(crate) config: Config,
    pub(crate) pal: P,
}

/// # Set-up: the parts
impl<'m, P: Pal> Node<'m, P> {
    /// Returns the node with `embedder` as the library OS that receives signals, requests for
    /// metadata and notices.
    #[must_use]
    pub fn with_embedder(mut self, embedder: &'m (dyn Embedder<P> + 'm)) -> Self {
        self.embedder = embedder;
        self
    }

    /// Returns the identity of this process.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Returns the platform.
    pub fn pal(&self) -> &P {
        &self.pal
    }

    /// Wakes the worker, which runs at least one poll iteration after this call.
    pub(crate) fn wake(&self) {
        // A PAL wait without time may consume the PAL's wake, so the worker reads this flag as
        // well.
        self.woken.store(true, Ordering::SeqCst);
        self.pal.wake();
    }

    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }

    /// Like [`Node::is_woken`], and clears the flag.
    pub(crate) fn take_wake(&self) -> bool {
        self.woken.swap(false, Ordering::SeqCst)
    }

    /// Blocks until the event is set or the time is `until`. With a worker thread the caller
    /// sleeps; without one the caller polls the node meanwhile.
    pub(crate) fn sleep_on(&self, event: &P::Event, until: Deadline) {
        assert_none_held();
        match self.config.driving {
            Driving::Worker => self.pal.wait_event(event, until),
            Driving::Caller => {
                self.poll_for(Some(event), until);
            }
        }
    }
}
