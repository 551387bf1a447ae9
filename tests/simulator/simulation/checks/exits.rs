//! **exits**: a child is reported dead exactly once, in the way it died, by SIGPWR if without a word.
//! **reaping**: each is waited for once, by one parent, and in the end all are.

use std::collections::{BTreeMap, BTreeSet};

use libos_ipc::wire::ChildExit;

use super::family::{Family, SIGPWR, State};

#[derive(Default)]
pub(crate) struct Exits {
    /// Which parent's embedder was told of which process's end.
    told: BTreeSet<(u32, u32)>,
    /// Whose end was waited for, and by whom.
    reaped: BTreeMap<u32, u32>,
    /// Whose end somebody has seen, or was about to see, who is cut off or did not hear from the leader in
    /// time: the leader may have heard of it yet, or not.
    may_be_reaped: BTreeSet<u32>,
    /// How many calls of a process wait for a child.
    waiting: BTreeMap<u32, u32>,
}

impl Exits {
    /// A parent hears of an end.
    pub(crate) fn told(
        &mut self,
        family: &Family,
        parent: u32,
        exit: &ChildExit,
    ) -> Result<(), String> {
        if !family.is_certain(parent) {
            // To one that is ending or cut off all are dead.
            return Ok(());
        }
        let child = as_it_ended(family, exit)?;
        if !self.told.insert((child, parent)) {
            return Err(format!("v{parent} is told of {exit:?} twice"));
        }
        Ok(())
    }

    /// A parent has waited for a child.
    pub(crate) fn reaped(
        &mut self,
        family: &Family,
        parent: u32,
        exit: &ChildExit,
    ) -> Result<(), String> {
        let child = as_it_ended(family, exit)?;
        let before = self.reaped.insert(child, parent);
        // It may have died before anybody could know that it had seen this.
        let died = |vmid| {
            let process = family.get(vmid);
            process.is_some_and(|process| process.ends.contains(&(0, SIGPWR)))
        };
        match before {
            Some(before) if before == parent || !(died(before) || died(parent)) => {
                Err(format!("{exit:?} was seen by v{before} and by v{parent}"))
            }
            _ => Ok(()),
        }
    }

    /// One who is cut off has waited for a child.
    pub(crate) fn may_be_reaped_as(&mut self, family: &Family, exit: &ChildExit) {
        self.may_be_reaped.extend(as_it_ended(family, exit));
    }

    /// One who ended meanwhile, or did not hear from the leader in time, was about to reap that process.
    pub(crate) fn may_be_reaped(&mut self, vmid: u32) {
        self.may_be_reaped.insert(vmid);
    }

    /// A call of that process begins to wait for a child.
    pub(crate) fn wait_begins(&mut self, vmid: u32) {
        *self.waiting.entry(vmid).or_default() += 1;
    }

    pub(crate) fn wait_ends(&mut self, vmid: u32) {
        *self.waiting.entry(vmid).or_default() -= 1;
    }

    /// Whether the leader may have reaped the process though no wait has returned it yet.
    pub(crate) fn may_be_gone(&self, vmid: u32, parent: u32) -> bool {
        let calls = self.waiting.get(&parent).copied().unwrap_or(0);
        calls > 0 || self.may_be_reaped.contains(&vmid)
    }

    /// At the end of all.
    pub(crate) fn all_reaped(&self, family: &Family) -> Result<(), String> {
        let missing = family.all().find(|process| {
            // One that has not joined when its parent ends is not started any more.
            let counts =
                process.vmid != 1 && matches!(process.state, State::Running | State::Ending);
            // A call that has not come back, of a parent that is cut off, may have been about to see it.
            let is_being_seen = self
                .waiting
                .get(&process.parent)
                .is_some_and(|calls| *calls > 0);
            let is_seen = is_being_seen || self.reaped.contains_key(&process.vmid);
            counts && !is_seen && !self.may_be_reaped.contains(&process.vmid)
        });
        match missing {
            Some(process) => Err(format!("nobody has waited for {process:?}")),
            None => Ok(()),
        }
    }
}

/// Who it was.
fn as_it_ended(family: &Family, exit: &ChildExit) -> Result<u32, String> {
    let process = family.of_pid(exit.pid);
    let end = (exit.exit_code, exit.term_signal);
    match process {
        Some(process) if process.ends.contains(&end) => Ok(process.vmid),
        _ => Err(format!("{exit:?} is told of {process:?}")),
    }
}
