//! The leader of the family, which may change while this process lives.

mod following;
mod frame_kinds;
mod heir;
mod heir_list;
mod heir_selection;
mod kept_frames;
mod leader_liveness;
mod leader_log;
mod log_claim;
mod log_key;
mod log_reader;
mod log_records;
mod log_writing;
mod newcomer;
mod own_frames;
mod rejoin;
mod resend_to_leader;
mod resend_to_members;
mod resignation;
mod stall;
mod state_transfer;
mod take_over;
#[cfg(any(test, feature = "testing"))]
mod testing;
mod transfer_progress;
mod unreceived;

pub(in crate::node) use frame_kinds::is_for_leader;
pub(in crate::node) use kept_frames::{FrameToLeader, KeepOutcome, keep_answer, keep_message};
pub(in crate::node) use log_claim::LogClaim;
pub(in crate::node) use log_key::LogKeyFrame;
pub(in crate::node) use own_frames::undelegated;
pub(in crate::node) use rejoin::Succession;
pub(in crate::node) use resend_to_members::Resent;

use following::{Following, Stage};
use heir::Heir;
use leader_log::Log;
use rejoin::NOBODY;

use crate::config::Config;
use crate::error::Error;
use crate::invariant::OrBroken;
use crate::leader::Leader;
use crate::log::log_event;
use crate::node::{LeaderTables, Node, PeerRef, Upcall};
use crate::pal::{Deadline, Pal, Stream};
use crate::store::{Arena, Contended, bytes_for, total};
use crate::sync::{AtomicU32, Ordering};
use crate::wire::Hello;
use crate::{Identity, Vmid};

/// Which process leads the family, as far as this process knows, and the tables of a process that leads or
/// may lead later.
pub(in crate::node) struct Leadership<'m, S> {
    /// The leader's VMID.
    leader: AtomicU32,
    /// Exist in a process that leads, or may lead later.
    tables: Option<&'m LeaderTables<'m>>,
    /// Exists in a process that follows the succession: as a member, and as a leader that was one.
    following: Option<&'m Following<'m>>,
    /// Exists in a process that may become heir.
    heir: Option<&'m Heir<'m, S>>,
    /// Exists in a process that may lead a family that outlives it.
    log: Option<&'m Log<'m, S>>,
}

impl<'m, S: Stream> Leadership<'m, S> {
    pub(in crate::node) const fn bytes(config: &Config) -> usize {
        let capacities = &config.capacities;
        let following = if config.follows() {
            total!(
                bytes_for::<Following<'m>>(1),
                Following::bytes(capacities.frame_length, capacities.waiters)
            )
        } else {
            0
        };
        let heir = if config.may_lead() {
            total!(
                bytes_for::<Heir<'m, S>>(1),
                Heir::<'m, S>::bytes(capacities)
            )
        } else {
            0
        };
        let log = if config.follows() {
            let tables = Leader::bytes(&config.leader_capacities());
            total!(
                bytes_for::<Log<'m, S>>(1),
                Log::<'m, S>::bytes(capacities, tables)
            )
        } else {
            0
        };
        total!(following, heir, log)
    }

    pub(in crate::node) fn new(
        arena: &mut Arena<'m>,
        contended: Contended,
        identity: &Identity,
        config: &Config,
        tables: Option<&'m LeaderTables<'m>>,
    ) -> Result<Self, Error> {
        let capacities = &config.capacities;
        let mut following: Option<&'m Following<'m>> = None;
        if config.follows() {
            let (frame_length, waiters) = (capacities.frame_length, capacities.waiters);
            following = Some(
                arena
                    .alloc_with(|arena| Following::new(arena, contended, frame_length, waiters))?,
            );
        }
        let mut heir: Option<&'m Heir<'m, S>> = None;
        if config.may_lead() {
            heir = Some(arena.alloc_with(|arena| Heir::new(arena, contended, capacities))?);
        }
        let mut log: Option<&'m Log<'m, S>> = None;
        if let Some(tables) = tables.filter(|_| config.follows()) {
            let bytes = Leader::bytes(&config.leader_capacities());
            let made: &'m Log<'m, S> =
                arena.alloc_with(|arena| Log::new(arena, contended, capacities, bytes))?;
            tables.lock().observe(made);
            log = Some(made);
        }
        Ok(Leadership {
            leader: AtomicU32::new(identity.leader_vmid().get()),
            tables,
            following,
            heir,
            log,
        })
    }

    /// Returns the state of a process that follows the succession.
    #[inline]
    pub(in crate::node) const fn following(&self) -> Option<&'m Following<'m>> {
        if_built(self.following)
    }

    /// Returns the state of a process that may become heir.
    #[inline]
    pub(in crate::node) const fn heir(&self) -> Option<&'m Heir<'m, S>> {
        if_built(self.heir)
    }

    /// Returns the log of a process that may lead a family that outlives it.
    #[inline]
    pub(in crate::node) const fn log(&self) -> Option<&'m Log<'m, S>> {
        if_built(self.log)
    }

    fn set_leader(&self, leader: Vmid) {
        self.leader.store(leader.get(), Ordering::SeqCst);
    }
}

/// Returns none in a library that is built without the succession: the compiler leaves out what would use it.
#[inline]
const fn if_built<T>(state: Option<&T>) -> Option<&T> {
    if Config::HAS_SUCCESSION { state } else { None }
}

impl<'m, P: Pal> Node<'m, P> {
    /// Returns the tables if this process leads.
    #[inline]
    pub(crate) fn leading(&self) -> Option<&'m LeaderTables<'m>> {
        // In a family without heirs only the first leader has tables.
        let tables = self.leadership.tables;
        tables.filter(|_| !Config::HAS_SUCCESSION || self.leads_itself())
    }

    /// Returns true if this process leads.
    #[inline]
    pub(crate) fn leads(&self) -> bool {
        self.leading().is_some()
    }

    #[inline]
    fn leads_itself(&self) -> bool {
        self.leadership.leader.load(Ordering::Acquire) == self.identity.vmid.get()
    }

    /// Returns the leader, which may be this process.
    #[inline]
    pub(crate) fn leader_vmid(&self) -> Vmid {
        Vmid::new(self.leadership.leader.load(Ordering::Acquire)).or_broken(self.identity.vmid)
    }

    /// Returns the process that leads the family, as far as this process knows: it may be this process, or
    /// one that has just ended. It does not wait. [`Embedder::leader_changed`](crate::Embedder::leader_changed) is
    /// called when another one leads.
    pub fn leader(&self) -> Vmid {
        let leader = self.leader_vmid();
        match self.following() {
            // Until another one has said that it leads, it is the one that has ended.
            Some(following) if leader == NOBODY || following.stage() == Stage::Orphaned => {
                Vmid::new(following.old.load(Ordering::SeqCst)).or_broken(leader)
            }
            _ => leader,
        }
    }

    /// Goes on with the succession, in the worker: as a member, as a new leader, as an heir, and as the leader of
    /// an heir. Returns when to run again, if before `until`. It is one check where the leader never changes.
    #[inline]
    pub(in crate::node) fn poll_succession(&self, until: Deadline) -> Deadline {
        if self.follows() {
            self.poll_each_role(until)
        } else {
            until
        }
    }

    #[inline(never)]
    fn poll_each_role(&self, until: Deadline) -> Deadline {
        let mut until = until;
        if !self.leads_itself() {
            until = self.poll_following(until);
            until = self.poll_heir(until);
        }
        // This process may lead since a moment ago.
        match self.leading() {
            Some(tables) => self.poll_log(self.poll_announcements(tables, until)),
            None => until,
        }
    }

    /// As the leader: returns the number of operations and bytes that the heir's log stream has not taken.
    pub(in crate::node) fn log_lag(&self) -> (u64, u64) {
        self.log().filter(|_| self.leads()).map_or((0, 0), Log::lag)
    }

    /// Returns the heir that the leader has named, as far as this process knows.
    pub(in crate::node) fn known_heir(&self) -> Option<Vmid> {
        if let Some(log) = self.log().filter(|_| self.leads()) {
            return log.hot_heir();
        }
        let heir = self.following()?.heir();
        // The one that is to lead.
        let next = || {
            let next = self.led_by().filter(|_| self.is_orphaned());
            next.filter(|next| *next != NOBODY)
        };
        heir.or_else(next)
    }

    /// Returns true if this process waits for a leader, or leads and waits for the members of the leader
    /// before.
    #[inline]
    pub(in crate::node) fn is_in_succession(&self) -> bool {
        self.leadership
            .following()
            .is_some_and(Following::is_in_succession)
    }

    /// Records that another process leads, which may be this one, and notifies the embedder. Only in the worker,
    /// without any lock.
    pub(in crate::node) fn record_new_leader(&self, leader: Vmid, epoch: u32) {
        log_event!(warn, "the leader is now process {leader}, in epoch {epoch}");
        self.counters.successions.add(1);
        self.counters.succession.end_outage(self.now(), epoch);
        self.events.leader_changed(leader, epoch);
        self.enqueue_upcall(Upcall::LeaderChanged(leader, epoch));
    }

    /// Returns the leader, if it is another process.
    #[inline]
    pub(crate) fn led_by(&self) -> Option<Vmid> {
        Some(self.leader_vmid()).filter(|leader| *leader != self.identity.vmid)
    }

    /// Returns the features that this process states with HELLO.
    pub(in crate::node) fn hello_features(&self) -> u32 {
        let mut features = 0;
        if self.answers_heartbeats() {
            features |= Hello::ANSWERS_HEARTBEATS;
        }
        if self.config.follows() {
            features |= Hello::FOLLOWS_SUCCESSION;
        }
        if self.config.may_lead() {
            features |= Hello::features_to_lead(self.tables_hash());
            if P::Stream::SHARES_LOGS {
                features |= Hello::SHARES_LOGS;
            }
        }
        features
    }

    /// Returns a HELLO without a process.
    pub(in crate::node) fn own_hello(&self) -> Hello {
        Hello {
            features: self.hello_features(),
            ..Hello::NO_PROCESS
        }
    }

    /// Returns a hash of all that a leader and its heir must have alike.
    fn tables_hash(&self) -> u32 {
        let hash = self.config.leader_capacities().fingerprint();
        // The upper half has as much of the hash as the lower one.
        (hash >> 40) as u32
    }

    /// As the leader: records what a member can do for the succession.
    pub(in crate::node) fn note_follower(&self, peer: &PeerRef<'_, 'm, P::Stream>, hello: &Hello) {
        let follows = hello.features & Hello::FOLLOWS_SUCCESSION != 0;
        let can_lead = follows && hello.tables() == Some(self.tables_hash());
        peer.member.follows.store(follows, Ordering::SeqCst);
        peer.member.can_lead.store(can_lead, Ordering::SeqCst);
        let shares_logs = hello.features & Hello::SHARES_LOGS != 0;
        peer.member.shares_logs.store(shares_logs, Ordering::SeqCst);
    }
}
