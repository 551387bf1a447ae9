//! **leaders**: an epoch has one leader, which leads after the one before has died or left, and no process sees epochs
//! fall. **logged**: a leader has each operation of which a member may know. **rejoins**: only a member of the leader
//! before, or a process that was never a member, follows a leader. **replicas**: the heir has the leader's state after
//! each operation. **outages**: a call returns that the leader is gone only if no heir was fit.

use std::collections::{BTreeMap, BTreeSet};

use super::family::Family;

/// The time between the death of a leader and the succession of the next.
#[derive(Clone, Copy)]
struct Outage {
    /// The heir that knew that it was the heir.
    heir: Option<u32>,
}

#[derive(Default)]
pub(crate) struct Succession {
    /// The leader of each epoch.
    leaders: BTreeMap<u32, u32>,
    /// The last epoch that each process has seen.
    seen: BTreeMap<u32, u32>,
    /// The state of the leader after each operation.
    digests: BTreeMap<u64, u64>,
    /// The heirs that know that they are, their leaders, and since when that is known.
    heirs: BTreeMap<u32, (u32, u64)>,
    /// The outage since a leader has died, if none has followed it.
    outage: Option<Outage>,
    /// The processes that have begun to leave.
    leaving: BTreeSet<u32>,
    /// The members of the last leader, since it leads.
    members: BTreeSet<u32>,
    /// The time at which a leader has last died or left.
    last_end: Option<u64>,
}

impl Succession {
    /// Records that a process knows that another leads, which may be itself. Checks **leaders**.
    pub(crate) fn record_follower(
        &mut self,
        vmid: u32,
        leader: u32,
        epoch: u32,
    ) -> Result<(), String> {
        let known = *self.leaders.entry(epoch).or_insert(leader);
        if known != leader {
            return Err(format!(
                "v{vmid} follows v{leader} in epoch {epoch}, which v{known} leads"
            ));
        }
        match self.seen.insert(vmid, epoch) {
            Some(before) if before >= epoch => Err(format!(
                "v{vmid} follows v{leader} in epoch {epoch} after epoch {before}"
            )),
            _ => Ok(()),
        }
    }

    /// Checks **rejoins**, when a process knows that another leads.
    pub(crate) fn check_rejoin(&self, vmid: u32, leader: u32, epoch: u32) -> Result<(), String> {
        let is_last = self.leaders.keys().max() == Some(&epoch);
        if !is_last || vmid == leader || self.members.contains(&vmid) {
            return Ok(());
        }
        Err(format!(
            "v{vmid} follows v{leader}, of which it is no member: it had left before"
        ))
    }

    /// Records that a process is connected with the leader for the first time.
    pub(crate) fn record_member(&mut self, vmid: u32) {
        self.members.insert(vmid);
    }

    /// Records that the leader has applied an operation.
    pub(crate) fn record_op(&mut self, op: u64, digest: u64) {
        self.digests.insert(op, digest);
    }

    /// Checks **replicas**, when the heir has applied an operation.
    pub(crate) fn check_replica(&self, vmid: u32, op: u64, digest: u64) -> Result<(), String> {
        match self.digests.get(&op) {
            Some(leader) if *leader != digest => Err(format!(
                "v{vmid} is in another state than the leader after operation {op}"
            )),
            Some(_) => Ok(()),
            None => Err(format!(
                "v{vmid} has operation {op}, which the leader has not applied"
            )),
        }
    }

    /// Records whose heir a process finds itself to be: that of the leader `of`, or of none.
    pub(crate) fn record_heir(&mut self, vmid: u32, of: Option<u32>, now: u64) {
        match of {
            Some(leader) => self.heirs.insert(vmid, (leader, now)),
            None => self.heirs.remove(&vmid),
        };
    }

    /// Records that a leader has died, or leaves. `heir` has an open log, since that time.
    pub(crate) fn record_leader_end(&mut self, leader: u32, heir: Option<(u32, u64)>, now: u64) {
        let heir = heir.filter(|(heir, since)| {
            let known = self.heirs.get(heir);
            known.is_some_and(|(of, seen)| *of == leader && seen > since)
        });
        self.outage = Some(Outage {
            heir: heir.map(|(heir, _)| heir),
        });
        self.last_end = Some(now);
    }

    /// Records that a process begins to lead a family with these members, after another one, which may be dead. Checks
    /// **leaders**.
    pub(crate) fn record_leader(
        &mut self,
        vmid: u32,
        epoch: u32,
        (before, is_dead): (u32, bool),
        members: BTreeSet<u32>,
    ) -> Result<(), String> {
        self.outage = None;
        self.members = members;
        if !is_dead && !self.leaving.contains(&before) {
            return Err(format!("v{vmid} leads, and v{before} has not ended"));
        }
        let known = *self.leaders.entry(epoch).or_insert(vmid);
        if known == vmid {
            return Ok(());
        }
        Err(format!("v{vmid} leads in epoch {epoch}, as v{known} does"))
    }

    /// Checks **logged**, when a leader begins with that operation: the one before has let no other process
    /// know of a later one. A leader that dies while it dismisses its heir may have written to that heir alone, which
    /// does not lead if it knows more than its log says. What a leader that has resigned applies is void.
    pub(crate) fn check_logged(&self, before: u32, op: u64, revealed: u64) -> Result<(), String> {
        if op > revealed || self.leaving.contains(&before) {
            return Ok(());
        }
        Err(format!(
            "operation {revealed} of v{before}, of which a member may know, is unknown to its successor"
        ))
    }

    /// Records that the leader leaves the family to its heir.
    pub(crate) fn record_leaving(&mut self, vmid: u32, now: u64) {
        self.leaving.insert(vmid);
        self.last_end = Some(now);
    }

    /// Returns true if the process has begun to leave the family to its heir.
    pub(crate) fn is_leaving(&self, vmid: u32) -> bool {
        self.leaving.contains(&vmid)
    }

    /// Returns true if a leader has ended since that time.
    pub(crate) fn has_ended_since(&self, then: u64) -> bool {
        self.last_end.is_some_and(|last| last >= then)
    }

    /// Returns true if the leader may have ended without an heir that can follow it.
    pub(crate) fn may_be_gone(&self, family: &Family) -> bool {
        match self.outage {
            Some(Outage { heir, .. }) => heir.is_none_or(|heir| !family.is_certain(heir)),
            None => false,
        }
    }
}
