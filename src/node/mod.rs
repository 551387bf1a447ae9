//! One process of a family: the thread-safe face of the crate.

mod api;
mod connection;
mod construction;
mod deadlines;
mod lifecycle;
#[cfg(all(test, loom))]
mod loom_tests;
mod rpc;
mod statistics;
mod upcall;

use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::config::{Config, Driving, Identity};
use crate::counters::Counters;
use crate::events::EventRing;
use crate::leader::Leader;
use crate::member::{Children, DelegatedFiles, OwnIds};
use crate::pal::{Pal, Time};
use crate::shared_state::Server;
use crate::store::SpinLock;
use connection::WorkerState;
use deadlines::LeaderLimits;

pub(crate) use api::SyncHandles;
pub use api::{ChildSelector, Exit, Reader, Shared, SyncHandle, ValueStatus, Writer, lock_range};
use api::{OwnerCache, Parent, UsedLocks};
#[cfg(feature = "trace")]
pub(crate) use connection::VMID_LENGTH;
pub(crate) use connection::{AdaptiveSpin, PeerRef, Peers, RxHalf, StreamKey, TxHalf};
pub(crate) use lifecycle::Phase;
#[cfg(feature = "capi")]
pub(crate) use rpc::ReplyData;
pub(crate) use rpc::{Delivery, LateReply, Waiters};
pub use rpc::{Interrupt, PendingCall, Request, Wait, WaitReason};
pub use upcall::{Embedder, Metadata, MetadataReply, Signal, SignalReply, Target};
pub(crate) use upcall::{NoEmbedder, Upcall};

/// The room every send queue keeps for one answer, so that a peer's request is only taken up when
/// its answer can be queued.
pub(crate) const ANSWER_RESERVE: usize = 128;

/// What is put aside for the embedder at once, at most. A peer whose message finds no room is left
/// waiting until there is.
// The model checker has little room on its stacks.
type Upcalls = heapless::Deque<Upcall, { if cfg!(loom) { 1 } else { 64 } }>;

/// One process of a family.
///
/// All calls may be made from any thread at once, but in [`Driving::Caller`] from one thread only.
/// Calls that wait take a [`Wait`]: a time limit and a way to interrupt.
pub struct Node<'m, P: Pal> {
    // The order matters when the node goes: whatever lives in the arena before the PAL.
    pub(crate) peers: Peers<'m, P::Stream>,
    pub(crate) waiters: Waiters<'m, P::Event>,
    pub(crate) leader: Option<SpinLock<Leader<'m>>>,
    pub(crate) own_ids: SpinLock<OwnIds<'m>>,
    pub(crate) children: SpinLock<Children<'m>>,
    /// When the worker is to tell the leader of children that will never come; 0 if there are none.
    abandoned_retry_at: AtomicU64,
    /// How long it waited before, in nanoseconds.
    abandoned_pause: AtomicU64,
    parent: SpinLock<Parent>,
    /// As the leader: all sync handles.
    pub(crate) server: Option<SpinLock<Server<'m>>>,
    pub(crate) sync_handles: SyncHandles<'m>,
    pub(crate) delegated_files: SpinLock<DelegatedFiles<'m>>,
    /// A borrowed file is to go back, and the worker is to see to that.
    pub(crate) returns_due: AtomicBool,
    leader_limits: LeaderLimits,
    pub(crate) upcalls: SpinLock<Upcalls>,
    pub(crate) owners: SpinLock<OwnerCache>,
    /// How often this process has sent something through the leader that may be under way.
    forwarded: AtomicU32,
    used_locks: UsedLocks,
    /// The leader has told which open files this process has inherited, though it has not joined.
    knows_inherited: AtomicBool,
    pub(crate) embedder: &'m (dyn Embedder<P> + 'm),
    /// This process's pid; 0 before it joined.
    own_pid: AtomicU32,
    /// The leader has said that it has this crate's extensions.
    extended: AtomicBool,
    pub(crate) worker: SpinLock<WorkerState<'m, P::Stream>>,
    pub(crate) stopped: P::Event,
    pub(crate) counters: Counters,
    pub(crate) events: EventRing<'m>,
    pub(crate) caller_spin: AdaptiveSpin,
    pub(crate) leader_gone: AtomicBool,
    /// The leader's `sync_data`, if it is another than this process's; else `connection::NO_LIMIT`.
    leaders_sync_data: AtomicU64,
    phase: AtomicU8,
    /// The process has ended for the family.
    ended: AtomicBool,
    woken: AtomicBool,
    /// It is a process in C, which does not [join](Node::join).
    pub(crate) never_joins: bool,
    pub(crate) identity: Identity,
    pub(crate) config: Config,
    pub(crate) pal: P,
}

impl<'m, P: Pal> Node<'m, P> {
    /// The same node with a library OS that is signalled, asked and told.
    #[must_use]
    pub fn with_embedder(mut self, embedder: &'m (dyn Embedder<P> + 'm)) -> Self {
        self.embedder = embedder;
        self
    }

    /// Who this process is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The platform.
    pub fn pal(&self) -> &P {
        &self.pal
    }

    /// Has the worker look around: it does so at least once after this.
    pub(crate) fn wake(&self) {
        // A look without waiting may swallow the PAL's wake, so the worker asks here as well.
        self.woken.store(true, Ordering::SeqCst);
        self.pal.wake();
    }

    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }

    /// As [`Node::is_woken`], and notes that the worker knows.
    pub(crate) fn take_wake(&self) -> bool {
        self.woken.swap(false, Ordering::SeqCst)
    }

    /// Lets time pass until the event is set: sleeping where a worker moves the bytes, moving them
    /// where nobody else does.
    pub(crate) fn sleep_on(&self, event: &P::Event, until: Option<Time>) {
        match self.config.driving {
            Driving::Worker => self.pal.wait_event(event, until),
            Driving::Caller => {
                self.poll_for(Some(event), until);
            }
        }
    }
}

// The reserve holds the longest answer that is not metadata.
const _: () = assert!(ANSWER_RESERVE >= crate::wire::HEADER_LENGTH + 48);
