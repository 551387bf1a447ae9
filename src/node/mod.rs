//! One process of a family: the thread-safe face of the crate.

mod api;
mod connection;
#[cfg(all(test, loom))]
mod loom_tests;
mod rpc;
mod upcall;

use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use core::mem::MaybeUninit;
use core::time::Duration;

use crate::config::{Config, Driving, Identity, MemoryUse};
use crate::counters::{Counters, Fill, Pools, Statistics};
use crate::error::Error;
use crate::events::Ring;
use crate::leader::Leader;
use crate::member::{Borrowed, Children, OwnIds};
use crate::pal::{Event, Pal, Time};
use crate::shared_state::Server;
use crate::store::{Arena, Lock};
use crate::wire::{self, Message, SyncCode, SyncState};
use connection::WorkerState;

pub use api::Exit;
use api::OwnerCache;
use api::Parent;
pub(crate) use api::SyncHandles;
use api::UsedLocks;
pub use api::Which;
pub use api::lock_range;
pub use api::{Reader, Shared, SyncHandle, ValueStatus, Writer};
pub(crate) use connection::Name;
pub(crate) use connection::SpinGauge;
#[cfg(feature = "trace")]
pub(crate) use connection::VMID_LENGTH;
pub(crate) use connection::{PeerRef, Peers};
pub(crate) use connection::{Reading, Sending};
#[cfg(feature = "capi")]
pub(crate) use rpc::Data;
pub use rpc::Request;
pub(crate) use rpc::{Delivery, Late, Waiters};
pub use rpc::{Interrupt, Wait};
pub use rpc::{Waiting, WaitsFor};
pub(crate) use upcall::NoEmbedder;
pub(crate) use upcall::Upcall;
pub use upcall::{Embedder, Metadata, MetadataReply, Signal, SignalReply, Target};

/// The room every send queue keeps for one answer, so that a peer's request is only taken up when
/// its answer can be queued.
pub(crate) const ANSWER_RESERVE: usize = 128;

/// How long [`Node::shut_down`] waits for the worker to close the streams.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// How long a node that is dropped waits for a leader in C to confirm that its handles are closed.
const DROP_LIMIT: Duration = Duration::from_millis(500);

/// What is put aside for the embedder at once, at most. A peer whose message finds no room is left
/// waiting until there is.
// The model checker has little room on its stacks.
type Upcalls = heapless::Deque<Upcall, { if cfg!(loom) { 1 } else { 64 } }>;

/// How far a node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    Running = 0,
    /// The process ends, or has ended: it makes no new calls. A leader serves the others on.
    Ending = 1,
    /// No new calls; what was accepted for sending still goes out.
    Flushing = 2,
    /// The worker closes all streams and returns.
    Closing = 3,
    Closed = 4,
}

/// One process of a family.
///
/// All calls may be made from any thread at once, but in [`Driving::Caller`] from one thread only.
/// Calls that wait take a [`Wait`]: a time limit and a way to interrupt.
pub struct Node<'m, P: Pal> {
    // The order matters when the node goes: whatever lives in the arena before the PAL.
    pub(crate) peers: Peers<'m, P::Stream>,
    pub(crate) waiters: Waiters<'m, P::Event>,
    pub(crate) leader: Option<Lock<Leader<'m>>>,
    pub(crate) own_ids: Lock<OwnIds<'m>>,
    pub(crate) children: Lock<Children<'m>>,
    /// When the worker is to tell the leader of children that will never come; 0 if there are none.
    unborn_at: AtomicU64,
    /// How long it waited before, in nanoseconds.
    unborn_pause: AtomicU64,
    parent: Lock<Parent>,
    /// As the leader: all sync handles.
    pub(crate) server: Option<Lock<Server<'m>>>,
    pub(crate) sync_handles: SyncHandles<'m>,
    pub(crate) borrowed: Lock<Borrowed<'m>>,
    /// A borrowed file is to go back, and the worker is to see to that.
    pub(crate) returns_due: AtomicBool,
    /// As the leader: files that were lent are to come back.
    pub(crate) recalling: AtomicBool,
    /// As the leader: processes are being started whose parent has ended.
    pub(crate) awaiting_starts: AtomicBool,
    pub(crate) upcalls: Lock<Upcalls>,
    pub(crate) owners: Lock<OwnerCache>,
    /// How often this process has sent something through the leader that may be under way.
    passed: AtomicU32,
    used_locks: UsedLocks,
    /// The leader has told which open files this process has inherited, though it has not joined.
    knows_inherited: AtomicBool,
    pub(crate) embedder: &'m (dyn Embedder<P> + 'm),
    /// This process's pid; 0 before it joined.
    own_pid: AtomicU32,
    /// The leader has said that it has this crate's extensions.
    extended: AtomicBool,
    pub(crate) worker: Lock<WorkerState<'m, P::Stream>>,
    pub(crate) stopped: P::Event,
    pub(crate) counters: Counters,
    pub(crate) events: Ring<'m>,
    pub(crate) caller_spin: SpinGauge,
    pub(crate) leader_gone: AtomicBool,
    /// The leader's `sync_data`, if it is another than this process's; else [`limits::NONE`].
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
    /// How much memory a node with that configuration takes. A `const fn`, so that the memory can
    /// be a [`Memory`](crate::store::Memory) in a `static`.
    pub const fn memory(identity: &Identity, config: &Config) -> MemoryUse {
        let capacities = &config.capacities;
        MemoryUse {
            peers: Peers::<P::Stream>::bytes(capacities.peers).saturating_add(WorkerState::<
                P::Stream,
            >::bytes(
                capacities.strangers,
            )),
            receive_buffers: capacities.peers.saturating_mul(capacities.frame_length),
            send_buffers: capacities.peers.saturating_mul(
                capacities
                    .send_queue
                    .saturating_sub(capacities.send_queue % 2),
            ),
            waiters: Waiters::<P::Event>::bytes(capacities.waiters, capacities.answers),
            leader: if identity.is_leader() {
                Leader::bytes(
                    capacities.ranges,
                    capacities.processes,
                    &capacities.signals(),
                    &capacities.locks,
                )
            } else {
                0
            },
            own_ids: OwnIds::bytes(capacities.own_ranges),
            children: Children::bytes(capacities.children),
            sync_handles: SyncHandles::bytes(
                capacities.sync_handles,
                capacities.sync_data,
                capacities.waiters,
            ),
            leases: if identity.is_leader() {
                Server::bytes(&capacities.leases, capacities.sync_data)
            } else {
                0
            },
            borrowed: if identity.is_leader() {
                0
            } else {
                Borrowed::bytes(capacities.borrowable())
            },
            events: Ring::bytes(capacities.events),
        }
    }

    /// Makes the node that is `identity`. Its address must be listened at by `pal` already. The
    /// memory must be at least [`Node::memory`] bytes, whatever is in them; best untouched, for the
    /// node touches what it uses only.
    ///
    /// With [`Driving::Worker`] a thread must then be put into [`Node::work`].
    ///
    /// # Errors
    /// [`Error::Full`] ([`Memory`](crate::Resource::Memory)) if the memory is too small, [`Error::Invalid`] if
    /// the capacities contradict each other, [`Error::Platform`] if the PAL has no events left.
    pub fn new(
        pal: P,
        identity: Identity,
        config: Config,
        memory: &'m mut [MaybeUninit<u8>],
    ) -> Result<Self, Error> {
        let limits = &config.capacities;
        let smallest_queue = limits.frame_length.saturating_add(ANSWER_RESERVE);
        if limits.frame_length < ANSWER_RESERVE || limits.send_queue / 2 < smallest_queue {
            return Err(Error::Invalid);
        }
        let uses_syncs = limits.sync_handles > 0 || limits.leases.handles > 0;
        let longest = Message::Sync(
            SyncCode::ConfirmUpgrade,
            wire::Sync {
                id: 0,
                state: SyncState::None,
                data: &[],
            },
        )
        .length()
        .saturating_add(limits.sync_data);
        if uses_syncs && longest > limits.frame_length {
            return Err(Error::Invalid);
        }
        let mut arena = Arena::new(memory);
        let peers = Peers::new(
            &mut arena,
            limits.peers,
            limits.frame_length,
            limits.send_queue,
        )?;
        let waiters = Waiters::new(&mut arena, limits.waiters, limits.answers, || pal.event())?;
        let leader = if identity.is_leader() {
            Some(Lock::new(Leader::new(
                &mut arena,
                limits.ranges,
                limits.processes,
                &limits.signals(),
                &limits.locks,
                config.wrap_ids,
            )?))
        } else {
            None
        };
        let own_ids = Lock::new(OwnIds::new(&mut arena, limits.own_ranges)?);
        let children = Lock::new(Children::new(&mut arena, limits.children)?);
        let borrowed = if identity.is_leader() {
            0
        } else {
            limits.borrowable()
        };
        let borrowed = Lock::new(Borrowed::new(&mut arena, borrowed)?);
        let server = if identity.is_leader() {
            let server = Server::new(&mut arena, &limits.leases, limits.sync_data)?;
            Some(Lock::new(server))
        } else {
            None
        };
        let sync_handles = SyncHandles::new(
            &mut arena,
            limits.sync_handles,
            limits.sync_data,
            limits.waiters,
        )?;
        let worker = Lock::new(WorkerState::new(&mut arena, limits.strangers)?);
        let events = Ring::new(&mut arena, limits.events)?;
        let stopped = pal.event().map_err(|_| Error::Platform)?;
        Ok(Node {
            peers,
            waiters,
            leader,
            own_ids,
            children,
            parent: Lock::new(Parent::new(identity.parent, identity.parent_pid)),
            server,
            sync_handles,
            borrowed,
            unborn_at: AtomicU64::new(0),
            unborn_pause: AtomicU64::new(0),
            returns_due: AtomicBool::new(false),
            recalling: AtomicBool::new(false),
            awaiting_starts: AtomicBool::new(false),
            upcalls: Lock::new(Upcalls::new()),
            owners: Lock::new(OwnerCache::new()),
            passed: AtomicU32::new(0),
            used_locks: UsedLocks::new(),
            knows_inherited: AtomicBool::new(false),
            embedder: &NoEmbedder,
            own_pid: AtomicU32::new(0),
            extended: AtomicBool::new(false),
            worker,
            stopped,
            counters: Counters::default(),
            events,
            caller_spin: SpinGauge::new(),
            leader_gone: AtomicBool::new(false),
            leaders_sync_data: AtomicU64::new(connection::NO_LIMIT),
            phase: AtomicU8::new(Phase::Running as u8),
            ended: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            never_joins: false,
            identity,
            config,
            pal,
        })
    }

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

    /// What was counted so far, and how full the pools are. Takes no lock over I/O.
    pub fn statistics(&self) -> Statistics {
        let limits = &self.config.capacities;
        let fill = |(now, most): (usize, usize), limit| Fill { now, most, limit };
        let leader = self.leader.as_ref().map(|leader| {
            let mut leader = leader.lock();
            let ranges = (leader.ranges().len(), leader.ranges().most());
            let processes = (leader.processes().len(), leader.processes().most());
            let signals = leader.processes().signals.fill();
            let locks = leader.locks();
            let lent_limit = locks.lent_limit();
            let locks = [
                locks.fill(),
                locks.files_fill(),
                locks.waiting_fill(),
                locks.handles_fill(),
                locks.lent_fill(),
            ];
            (ranges, processes, signals, locks, lent_limit)
        });
        let (ranges, processes, signals, [locks, files, waiting, handles, lent], lent_limit) =
            leader.unwrap_or_default();
        let own = {
            let own = self.own_ids.lock();
            (own.len(), own.most())
        };
        let served = self.server.as_ref().map(|server| {
            let server = server.lock();
            (server.handle_usage(), server.client_usage())
        });
        let (served, clients) = served.unwrap_or_default();
        self.counters.read(Pools {
            peers: fill(self.peers.fill(), limits.peers),
            waiters: fill(self.waiters.fill(), limits.waiters),
            ranges: fill(ranges, limits.ranges),
            processes: fill(processes, limits.processes),
            queued_signals: fill(signals, limits.queued_signals),
            children: fill(self.children.lock().fill(), limits.children),
            locks: fill(locks, limits.locks.locks),
            locked_files: fill(files, limits.locks.files),
            waiting_for_locks: fill(waiting, limits.locks.waiting),
            lock_handles: fill(handles, limits.locks.handles),
            lent_files: fill(lent, lent_limit),
            sync_handles: fill(self.sync_handles.usage(), limits.sync_handles),
            served_handles: fill(served, limits.leases.handles),
            sync_clients: fill(clients, limits.leases.clients),
            borrowed_files: fill(self.borrowed.lock().fill(), limits.borrowable()),
            own_ranges: fill(own, limits.own_ranges),
            send_queue: fill(self.peers.queue_fill(), limits.send_queue / 2),
        })
    }

    /// The calls of this node that wait just now, in no order: at most
    /// [`Capacities::waiters`](crate::Capacities::waiters).
    pub fn waits(&self) -> impl Iterator<Item = Waiting> {
        self.waiters.all(self.pal.now())
    }

    /// Whether no node of the leader's table was lost. Slow: for tests and self-checks.
    pub fn is_sound(&self) -> bool {
        let leader = self.leader.as_ref();
        let server = self.server.as_ref();
        leader.is_none_or(|leader| leader.lock().is_sound())
            && server.is_none_or(|server| server.lock().check_invariants())
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Ending,
            2 => Phase::Flushing,
            3 => Phase::Closing,
            _ => Phase::Closed,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// Goes from one phase to another. False if it is in neither of the two, or in the other already.
    pub(super) fn change_phase(&self, from: Phase, to: Phase) -> bool {
        let (from, to) = (from as u8, to as u8);
        self.phase
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Whether the process may make calls: it has not ended, and the node is not shutting down.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] if not.
    #[inline]
    pub(crate) fn alive(&self) -> Result<(), Error> {
        if self.phase() == Phase::Running {
            Ok(())
        } else {
            Err(Error::ShuttingDown)
        }
    }

    /// Whether the process has [ended](Node::exit) for the family.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
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
    pub(crate) fn was_woken(&self) -> bool {
        self.woken.swap(false, Ordering::SeqCst)
    }

    /// Leaves the family: new calls fail with [`Error::ShuttingDown`], as do calls that wait; what
    /// was accepted for sending goes out, for at most `limit`; then all streams are closed and
    /// [`Node::work`] returns. Blocks until that is done. True if everything went out.
    ///
    /// Sync handles are closed. A leader in C ends if a stream breaks while it answers that, so its
    /// confirmations are waited for, too, within the same `limit`.
    ///
    /// The PAL stops listening when the node is dropped.
    pub fn shut_down(&self, limit: Duration) -> bool {
        self.enter(Phase::Flushing);
        self.waiters.fail(None, Error::ShuttingDown);
        // What was changed here goes to the others.
        self.close_unused_syncs();
        for peer in self.peers.all() {
            self.flush(&peer);
        }
        self.wake();
        let until = self.pal.now() + limit;
        let mut flushed = false;
        while self.phase() == Phase::Flushing && !flushed {
            self.stopped.clear();
            flushed = !self.unsent() && !self.awaits_c_server();
            if flushed || self.pal.now() >= until {
                break;
            }
            self.rest(&self.stopped, Some(until));
        }
        self.enter(Phase::Closing);
        self.wake();
        // The worker needs no more than a turn or two for that; without one there is nothing to
        // wait for.
        let until = self.pal.now() + CLOSE_LIMIT;
        loop {
            self.stopped.clear();
            if self.phase() == Phase::Closed || self.pal.now() >= until {
                break;
            }
            self.rest(&self.stopped, Some(until));
        }
        flushed
    }

    /// Lets time pass until the event is set: sleeping where a worker moves the bytes, moving them
    /// where nobody else does.
    pub(crate) fn rest(&self, event: &P::Event, until: Option<Time>) {
        match self.config.driving {
            Driving::Worker => self.pal.wait_event(event, until),
            Driving::Caller => {
                self.turn_for(Some(event), until);
            }
        }
    }

    /// Whether anything accepted for sending is still here.
    fn unsent(&self) -> bool {
        self.peers.all().any(|peer| {
            // Somebody may have found the token taken. Who shuts down must not tell itself to look
            // again: it would do nothing else until the peer reads.
            self.send_out(&peer);
            let sending = peer.sending.try_lock();
            let is_unsent = sending.is_none_or(|sending| !sending.draining.is_empty());
            is_unsent || !peer.queue.lock().filling.is_empty()
        })
    }
}

impl<P: Pal> Drop for Node<'_, P> {
    fn drop(&mut self) {
        // A process may be gone without a word, but a leader in C would end with it.
        let has_c_leader = self.identity.leader.is_some() && !self.has_extensions();
        if has_c_leader && self.phase() < Phase::Closing {
            self.config.driving = Driving::Caller;
            self.close_unused_syncs();
            if self.awaits_c_server() {
                self.shut_down(DROP_LIMIT);
            }
        }
        // A PAL may keep watches by stream: they end before the streams go.
        self.enter(Phase::Closing);
        self.turn(Some(Time(0)));
    }
}

// The reserve holds the longest answer that is not metadata.
const _: () = assert!(ANSWER_RESERVE >= crate::wire::HEADER_LENGTH + 48);
