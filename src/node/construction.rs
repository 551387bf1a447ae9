//! Construction of a node, and the memory that it needs.

use core::mem::MaybeUninit;

use super::api::{OwnerCache, Parent, SyncHandles, UsedLocks};
use super::connection::{AdaptiveSpin, NO_LIMIT, Peers, PollIterations, WorkerState};
use super::deadlines::LeaderLimits;
use super::heartbeats::Contact;
use super::rpc::Waiters;
use super::succession::Leadership;
use super::{LeaderTables, NoEmbedder, Node, Phase, Upcalls};
use crate::Identity;
use crate::config::{Capacities, Config, MemoryUse};
use crate::counters::Counters;
use crate::error::Error;
use crate::events::EventRing;
use crate::leader::{Leader, LeaderCapacities};
use crate::member::{Children, DelegatedFiles, OwnIds};
use crate::pal::{Event, Pal};
use crate::shared_state::Server;
use crate::start_error::StartError;
use crate::store::{Arena, Contended, Rank, SpinLock, bytes_for, memory_sum};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};

/// # Set-up
impl<'m, P: Pal> Node<'m, P> {
    /// Returns the memory that a node with this configuration needs, in bytes for each part. A
    /// `const fn`, so that the memory can be a [`Memory`](crate::store::Memory) in a `static`.
    pub const fn memory(identity: &Identity, config: &Config) -> MemoryUse {
        let capacities = &config.capacities;
        let has_tables = identity.is_leader() || config.may_lead();
        MemoryUse {
            peers: memory_sum!(
                Peers::<P::Stream>::bytes(capacities.peers),
                WorkerState::<P::Stream>::bytes(capacities.unidentified),
                bytes_for::<LeaderLimits>(1),
                bytes_for::<SpinLock<Upcalls>>(1),
                bytes_for::<SpinLock<OwnerCache>>(1),
                bytes_for::<SpinLock<DelegatedFiles<'m>>>(1),
            ),
            receive_buffers: capacities.peers.saturating_mul(capacities.frame_length),
            send_buffers: capacities.peers.saturating_mul(capacities.send_queue & !1),
            waiters: Waiters::<P::Event>::bytes(capacities.waiters, capacities.reply_buffers),
            leader: if has_tables {
                // The leases are counted apart.
                let capacities = config.leader_capacities();
                let tables = Leader::bytes(&LeaderCapacities {
                    leases: LeaderCapacities::NONE.leases,
                    ..capacities
                });
                memory_sum!(tables, bytes_for::<LeaderTables<'m>>(1))
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
            leases: if has_tables {
                Server::bytes(&capacities.leases, capacities.sync_data)
            } else {
                0
            },
            delegated_files: if identity.is_leader() {
                0
            } else {
                DelegatedFiles::bytes(capacities.max_delegated_files())
            },
            succession: Leadership::<P::Stream>::bytes(config),
            events: EventRing::bytes(capacities.events),
        }
    }

    /// Makes the node of the process `identity`. The PAL must already listen at the address of this
    /// process. The memory must have at least [`Node::memory`] bytes; its contents do not matter.
    /// The node writes only the memory that it uses, so untouched pages stay untouched.
    ///
    /// With [`Driving::Worker`](crate::Driving::Worker) the embedder must then run [`Node::work`]
    /// in a thread.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left of the node then.
    pub fn new(
        pal: P,
        identity: Identity,
        config: Config,
        memory: &'m mut [MaybeUninit<u8>],
    ) -> Result<Self, StartError> {
        Self::new_in(pal, identity, config, memory, |node| node)
    }

    /// Like [`Node::new`]; `place` moves the node to its place, without a copy of it on the stack.
    pub(crate) fn new_in<R>(
        pal: P,
        identity: Identity,
        config: Config,
        memory: &'m mut [MaybeUninit<u8>],
        place: impl FnOnce(Self) -> R,
    ) -> Result<R, StartError> {
        let given = memory.len();
        let is_secure = pal.is_secure() || !pal.requires_secure() && !config.require_secure;
        let needed = Self::check_start(&identity, &config, given, is_secure)?;
        let too_little = StartError::TooLittleMemory { needed, given };
        Self::assemble(pal, identity, config, memory, place).map_err(|error| match error {
            // The memory may begin at an address that wastes more than was counted.
            Error::Full(_) => too_little,
            _ => StartError::Platform,
        })
    }

    /// Checks the configuration and the memory of a node, and returns the memory that it needs. `is_secure` is true if
    /// the streams are secure, or need not be.
    ///
    /// # Errors
    /// As [`Node::new`].
    pub(crate) fn check_start(
        identity: &Identity,
        config: &Config,
        given: usize,
        is_secure: bool,
    ) -> Result<usize, StartError> {
        config.check()?;
        let needed = Self::memory(identity, config).total();
        if given < needed {
            return Err(StartError::TooLittleMemory { needed, given });
        }
        if is_secure {
            Ok(needed)
        } else {
            Err(StartError::NotSecure)
        }
    }

    #[inline]
    fn assemble<R>(
        pal: P,
        identity: Identity,
        config: Config,
        memory: &'m mut [MaybeUninit<u8>],
        place: impl FnOnce(Self) -> R,
    ) -> Result<R, Error> {
        let limits = &config.capacities;
        let mut arena = Arena::new(memory);
        let arena = &mut arena;
        let peers = Peers::new(
            arena,
            P::contended,
            limits.peers,
            limits.frame_length,
            limits.send_queue,
        );
        let waiters = Waiters::new(
            arena,
            P::contended,
            limits.waiters,
            limits.reply_buffers,
            || pal.event(),
        )?;
        let leader = new_leader(arena, P::contended, &identity, &config)?;
        let delegated_files = new_delegated_files(arena, P::contended, &identity, limits)?;
        let leader_limits = arena.alloc_with(|_| LeaderLimits::new(P::contended))?;
        let upcalls =
            arena.alloc_with(|_| SpinLock::new(Rank::Upcalls, P::contended, Upcalls::new()))?;
        let owners =
            arena.alloc_with(|_| SpinLock::new(Rank::Owners, P::contended, OwnerCache::new()))?;
        let worker = WorkerState::new(arena, limits.unidentified)?;
        let sync_handles = SyncHandles::new(
            arena,
            P::contended,
            limits.sync_handles,
            limits.sync_data,
            limits.waiters,
        );
        let own_ids = OwnIds::make(arena, limits.own_ranges);
        let children = Children::make(arena, limits.children);
        let leadership = Leadership::new(arena, P::contended, &identity, &config, leader)?;
        let events = EventRing::new(arena, limits.events);
        arena.check()?;
        let stopped = pal.event().map_err(|_| Error::Platform)?;
        stopped.prepare().map_err(|_| Error::Platform)?;
        Ok(place(Node {
            peers,
            waiters,
            leadership,
            own_ids: SpinLock::new(Rank::OwnIds, P::contended, own_ids),
            children: SpinLock::new(Rank::Children, P::contended, children),
            parent: SpinLock::new(
                Rank::Parent,
                P::contended,
                Parent::new(identity.parent, identity.parent_pid),
            ),
            sync_handles,
            delegated_files,
            recall_waits: AtomicBool::new(false),
            abandoned_retry_at: AtomicU64::new(0),
            abandoned_pause: AtomicU64::new(0),
            member_output_deferred: AtomicBool::new(false),
            leader_limits,
            contact: Contact::new(&config, !identity.is_leader() && pal.is_secure()),
            iterations: PollIterations::new(),
            upcalls,
            owners,
            forwarded: AtomicU32::new(0),
            used_locks: UsedLocks::new(),
            knows_inherited: AtomicBool::new(false),
            embedder: &NoEmbedder,
            own_pid: AtomicU32::new(0),
            extended: AtomicBool::new(false),
            worker: SpinLock::new(Rank::Token, P::contended, worker),
            stopped,
            counters: Counters::default(),
            events,
            caller_spin: AdaptiveSpin::new(),
            leader_gone: AtomicBool::new(false),
            leader_is_full: AtomicBool::new(false),
            leaders_sync_data: AtomicU64::new(NO_LIMIT),
            phase: AtomicU8::new(Phase::Running as u8),
            ended: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            never_joins: false,
            identity,
            config,
            pal,
        }))
    }
}

/// Makes the leader's tables, in the process that leads.
fn new_leader<'m>(
    arena: &mut Arena<'m>,
    contended: Contended,
    identity: &Identity,
    config: &Config,
) -> Result<Option<&'m LeaderTables<'m>>, Error> {
    if !identity.is_leader() && !config.may_lead() {
        return Ok(None);
    }
    let capacities = config.leader_capacities();
    let make =
        |arena: &mut Arena<'m>| LeaderTables::new(contended, Leader::make(arena, &capacities));
    Ok(Some(arena.alloc_with(make)?))
}

/// Makes the table of the files that are delegated to this process. A process that leads has none.
fn new_delegated_files<'m>(
    arena: &mut Arena<'m>,
    contended: Contended,
    identity: &Identity,
    limits: &Capacities,
) -> Result<&'m SpinLock<DelegatedFiles<'m>>, Error> {
    let max_files = if identity.is_leader() {
        0
    } else {
        limits.max_delegated_files()
    };
    let files = arena.alloc_with(|arena| {
        let files = DelegatedFiles::make(arena, max_files);
        SpinLock::new(Rank::DelegatedFiles, contended, files)
    })?;
    Ok(files)
}
