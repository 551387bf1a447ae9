//! **exits**: a child is reported dead exactly once, with its exit code or signal, and with SIGPWR
//! if it died without a report. **reaping**: one parent waits for each child, once, and at the end
//! all children are reaped.

use std::collections::{BTreeMap, BTreeSet};

use libos_ipc::ChildExit;

use super::family::{Family, Process, SIGPWR, State};

#[derive(Default)]
pub(crate) struct Exits {
    /// The deaths that embedders were notified of, by parent.
    reported: BTreeSet<(u32, u32)>,
    /// The processes that were reaped, and their parents.
    reaped: BTreeMap<u32, u32>,
    /// Processes that a parent has reaped, or was about to reap, while it was cut off or timed out:
    /// the leader may know of that or not.
    may_be_reaped: BTreeSet<u32>,
    /// The number of calls of each process that wait for a child.
    waiting: BTreeMap<u32, u32>,
}

impl Exits {
    /// Records that a parent's embedder is notified of a death, and checks that this is its only notification.
    pub(crate) fn record_report(
        &mut self,
        family: &Family,
        parent: u32,
        exit: &ChildExit,
    ) -> Result<(), String> {
        if !family.is_certain(parent) {
            // To a process that is ending or cut off, all others are dead.
            return Ok(());
        }
        let child = check_exit_report(family, exit)?;
        if !self.reported.insert((child, parent)) {
            return Err(format!("v{parent} gets the report of {exit:?} twice"));
        }
        Ok(())
    }

    /// Records that a parent has reaped a child, and checks that no other parent has.
    pub(crate) fn record_reap(
        &mut self,
        family: &Family,
        parent: u32,
        exit: &ChildExit,
    ) -> Result<(), String> {
        let child = check_exit_report(family, exit)?;
        let before = self.reaped.insert(child, parent);
        // The process may have died before another could know that it had reaped this child.
        let died = |vmid| {
            let process = family.get(vmid);
            process.is_some_and(|process| process.ends.contains(&(0, SIGPWR)))
        };
        match before {
            Some(before) if before == parent || !(died(before) || died(parent)) => Err(format!(
                "{exit:?} was reported to v{before} and to v{parent}"
            )),
            _ => Ok(()),
        }
    }

    /// Records that a process that is cut off has reaped a child.
    pub(crate) fn record_uncertain_reap_of(&mut self, family: &Family, exit: &ChildExit) {
        self.may_be_reaped.extend(check_exit_report(family, exit));
    }

    /// Records that a process that has ended meanwhile, or timed out, was about to reap this child.
    pub(crate) fn record_uncertain_reap(&mut self, vmid: u32) {
        self.may_be_reaped.insert(vmid);
    }

    /// Records that a call of that process begins to wait for a child.
    pub(crate) fn begin_wait(&mut self, vmid: u32) {
        *self.waiting.entry(vmid).or_default() += 1;
    }

    /// Records that the call of that process has returned.
    pub(crate) fn end_wait(&mut self, vmid: u32) {
        *self.waiting.entry(vmid).or_default() -= 1;
    }

    /// Returns true if the leader may have reaped the process although no wait has returned it yet.
    pub(crate) fn may_be_gone(&self, vmid: u32, parent: u32) -> bool {
        let calls = self.waiting.get(&parent).copied().unwrap_or(0);
        calls > 0 || self.may_be_reaped.contains(&vmid)
    }

    /// Checks at the end of the run that all processes are reaped.
    pub(crate) fn check_all_reaped(&self, family: &Family) -> Result<(), String> {
        let missing = family.all().find(|process| {
            // A process that has not joined when its parent ends is abandoned.
            let counts =
                process.vmid != 1 && matches!(process.state, State::Running | State::Ending);
            // A call under way of a parent that is cut off may have been about to reap it.
            let is_being_seen = self
                .waiting
                .get(&process.parent)
                .is_some_and(|calls| *calls > 0);
            let is_seen = is_being_seen || self.reaped.contains_key(&process.vmid);
            counts && !is_seen && !self.may_be_reaped.contains(&process.vmid)
        });
        match missing {
            Some(process) => Err(format!("no process has waited for {process:?}")),
            None => Ok(()),
        }
    }
}

/// Returns the VMID of the child, and checks its exit report.
fn check_exit_report(family: &Family, exit: &ChildExit) -> Result<u32, String> {
    let end = (exit.code, exit.signal);
    let ended = |process: &&Process| process.pid == exit.pid.get() && process.ends.contains(&end);
    // The leader frees the pid of a child before the call that reaps it returns, so another process may
    // have the pid by now.
    let process = family.of_pid(exit.pid.get()).filter(ended).or_else(|| {
        family
            .all()
            .filter(ended)
            .max_by_key(|process| process.vmid)
    });
    process.map(|process| process.vmid).ok_or_else(|| {
        let process = family.of_pid(exit.pid.get());
        format!("{exit:?} is reported of {process:?}")
    })
}
