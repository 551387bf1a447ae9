//! **ranges**: ranges do not overlap, contain no pid that is in use, and are at most 32 long.
//! **ids**: an ID has one owner and is allocated once. **owners**: a look-up returns an owner that
//! the ID had at some time since the request. **pids**: a pid is not allocated again while its
//! process lives, is a zombie, or names a group.

use std::collections::{BTreeMap, BTreeSet};

use libos_ipc::Id;
use libos_ipc::wire::IdRange;

use super::exits::Exits;
use super::family::{Family, State};

/// The owners of IDs, as far as answers have stated them. An ID is absent while a request is under
/// way that may change its owner.
#[derive(Default)]
pub(crate) struct Ids {
    /// The owner of an ID, and the tick since when that is certain.
    owners: BTreeMap<Id, (u32, u64)>,
    /// The ranges that their owners may release.
    ranges: BTreeMap<Id, (IdRange, u32)>,
    /// The IDs in use, with their processes.
    taken: BTreeMap<Id, u32>,
    /// The VMIDs of the processes that were reaped.
    reaped: BTreeSet<u32>,
}

impl Ids {
    /// Records that the leader has given this range to `owner`, and checks that the IDs were free.
    pub(crate) fn record_range(
        &mut self,
        range: IdRange,
        owner: u32,
        now: u64,
    ) -> Result<(), String> {
        if range.start < 1 || range.end < range.start || range.end - range.start >= 32 {
            return Err(format!("v{owner} gets {range:?}"));
        }
        for id in range.start..=range.end {
            if let Some((before, _)) = self.owners.insert(id, (owner, now)) {
                return Err(format!(
                    "v{owner} gets {range:?}, of which v{before} owns {id}"
                ));
            }
        }
        self.ranges.insert(range.start, (range, owner));
        Ok(())
    }

    /// Returns a range of `owner`, if it has one for certain.
    pub(crate) fn range_of(&self, owner: u32, choice: usize) -> Option<IdRange> {
        let own = self.ranges.values().filter(|(_, of)| *of == owner);
        let own: Vec<_> = own.collect();
        (!own.is_empty()).then(|| own[choice % own.len()].0)
    }

    /// Forgets the owner of these IDs: it is uncertain from now on.
    pub(crate) fn forget(&mut self, range: IdRange) {
        self.ranges.remove(&range.start);
        for id in range.start..=range.end {
            self.owners.remove(&id);
        }
    }

    /// Forgets the IDs of a process that has ended, or may have.
    pub(crate) fn forget_all_of(&mut self, owner: u32) {
        self.ranges.retain(|_, (_, of)| *of != owner);
        self.owners.retain(|_, (of, _)| *of != owner);
        self.taken.retain(|_, of| *of != owner);
    }

    /// Records the leader's answer that the ID of `from`'s range went to `to`, or stayed, and checks that the parts of the
    /// range had no other owner.
    pub(crate) fn record_owner_change(
        &mut self,
        range: IdRange,
        id: Id,
        (from, to): (u32, Option<u32>),
        now: u64,
    ) -> Result<(), String> {
        let parts = [
            (range.start, id - 1, Some(from)),
            (id, id, to),
            (id + 1, range.end, Some(from)),
        ];
        for (start, end, owner) in parts {
            if let Some(owner) = owner.filter(|_| start <= end) {
                self.record_range(IdRange { start, end }, owner, now)?;
            }
        }
        Ok(())
    }

    /// Checks the leader's answer to a look-up: the ID had this owner at some time since `asked`.
    pub(crate) fn check_owner(&self, id: Id, owner: u32, asked: u64) -> Result<(), String> {
        match self.owners.get(&id) {
            Some((known, since)) if *since < asked && owner != *known => Err(format!(
                "v{owner} is the reported owner of {id}, which v{known} owns"
            )),
            _ => Ok(()),
        }
    }

    /// Records that a process allocates an ID, and checks that no other process has it.
    pub(crate) fn record_allocation(&mut self, id: Id, by: u32, now: u64) -> Result<(), String> {
        if let Some(other) = self.taken.insert(id, by) {
            return Err(format!("v{by} takes {id}, which v{other} has taken"));
        }
        match self.owners.insert(id, (by, now)) {
            Some((other, _)) if other != by => {
                Err(format!("v{by} takes {id}, which v{other} owns"))
            }
            _ => Ok(()),
        }
    }

    /// Returns an ID that this process has allocated.
    pub(crate) fn allocated_by(&self, by: u32, choice: usize) -> Option<Id> {
        let own = self.taken.iter().filter(|(_, of)| **of == by);
        let own: Vec<_> = own.map(|(id, _)| *id).collect();
        (!own.is_empty()).then(|| own[choice % own.len()])
    }

    /// Records that the ID is about to be released or transferred.
    pub(crate) fn begin_release(&mut self, id: Id) {
        self.taken.remove(&id);
        self.owners.remove(&id);
    }

    /// Records that a parent has reaped the process.
    pub(crate) fn record_reap(&mut self, pid: Id, family: &Family) {
        let process = family.of_pid(pid);
        self.reaped.extend(process.map(|process| process.vmid));
    }

    /// Checks that the ID may be allocated.
    pub(crate) fn check_no_pid(
        &self,
        id: Id,
        family: &Family,
        exits: &Exits,
    ) -> Result<(), String> {
        for process in family
            .all()
            .filter(|process| process.state != State::Failed)
        {
            // The parent of a dead process knows when it is reaped; the parent of an orphan is not
            // known here.
            let is_zombie = || {
                let is_reaped = self.reaped.contains(&process.vmid);
                let may_be_gone = is_reaped || exits.may_be_gone(process.vmid, process.parent);
                family.is_certain(process.parent) && !may_be_gone
            };
            let is_there = process.state == State::Running || is_zombie();
            if process.pid == id && is_there {
                return Err(format!("{id} is taken, the pid of v{}", process.vmid));
            }
            if process.group == id && process.is_group_known && is_there && !process.is_marked_dead
            {
                return Err(format!("{id} is taken, the group of v{}", process.vmid));
            }
        }
        Ok(())
    }
}
