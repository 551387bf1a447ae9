//! **heartbeats**: on secure streams a member that the host has cut off from the leader uses what it was
//! given for the limit of silence and no longer, and its library OS is notified of that; what others ask
//! the leader for meanwhile is answered at once. That no two processes have the same thing follows
//! from the other checks (**locks**, **leases**, **ids**), for which the member keeps it so long.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::plan::SILENCE_LIMIT;
use super::super::process::nanoseconds;
use super::calls::Call;

/// The calls that give a process something.
const GRANTS: [&str; 5] = [
    "lock",
    "lock_sync",
    "upgrade_sync",
    "take_id",
    "fencing number",
];
/// The calls that the leader answers whatever the process does that was cut off.
const LOOK_UPS: [&str; 3] = ["owner_of", "alloc_range", "new_vmid"];
/// The time in which such a call ends, and a notification comes.
const PROMPT_LIMIT: Duration = Duration::from_secs(1);

/// A member that the leader has lost.
struct Lost {
    /// The time up to which it may use what it has.
    until: u64,
    /// Only its heartbeats tell it.
    is_silent: bool,
}

#[derive(Default)]
pub(crate) struct Heartbeats {
    lost: BTreeMap<u32, Lost>,
    /// Those whose time is over.
    lapsed: BTreeMap<u32, Lost>,
    /// Those whose library OS was notified.
    reported: BTreeSet<u32>,
}

impl Heartbeats {
    /// Records that the leader has lost the member. `is_silent`: the member sees no end of its streams.
    pub(crate) fn record_loss(&mut self, vmid: u32, now: u64, is_silent: bool) {
        let until = now + nanoseconds(SILENCE_LIMIT);
        self.lost.insert(vmid, Lost { until, is_silent });
    }

    /// Returns true if the leader has lost the member, and it may use what it has.
    pub(crate) fn may_use(&self, vmid: u32) -> bool {
        self.lost.contains_key(&vmid)
    }

    /// Returns a member whose time is over, once.
    pub(crate) fn next_lapsed(&mut self, now: u64) -> Option<u32> {
        let (vmid, _) = self.lost.iter().find(|(_, lost)| lost.until < now)?;
        let vmid = *vmid;
        let lost = self.lost.remove(&vmid)?;
        self.lapsed.insert(vmid, lost);
        Some(vmid)
    }

    /// Forgets the process, which ends, or has closed its streams.
    pub(crate) fn forget(&mut self, vmid: u32) {
        self.lost.remove(&vmid);
    }

    /// Records that the process has begun to end, so it may know nothing.
    pub(crate) fn record_end(&mut self, vmid: u32) {
        self.lost.remove(&vmid);
        self.lapsed.remove(&vmid);
    }

    /// Records that the library OS is notified that its process is cut off, and checks that this is its only
    /// notification. `may_be_cut_off`: the process is cut off, or a fault delays heartbeats.
    pub(crate) fn record_report(&mut self, vmid: u32, may_be_cut_off: bool) -> Result<(), String> {
        if !self.reported.insert(vmid) {
            return Err(format!("v{vmid} is notified twice that it is cut off"));
        }
        if may_be_cut_off {
            return Ok(());
        }
        Err(format!(
            "v{vmid} is notified that it is cut off, and is not"
        ))
    }

    /// Checks that each member whose time is over was notified.
    pub(crate) fn check_reports(&self, now: u64) -> Result<(), String> {
        let late = self.lapsed.iter().find(|(vmid, lost)| {
            let is_over = lost.until + nanoseconds(PROMPT_LIMIT) < now;
            lost.is_silent && is_over && !self.reported.contains(vmid)
        });
        match late {
            Some((vmid, _)) => Err(format!("v{vmid} is cut off, and is never notified")),
            None => Ok(()),
        }
    }

    /// Checks a call that has ended without an error.
    pub(crate) fn check_success(
        &self,
        call: &Call,
        now: u64,
        is_prompt: bool,
    ) -> Result<(), String> {
        let Call {
            name, vmid, began, ..
        } = *call;
        let is_over = |lost: &Lost| lost.until < began;
        if GRANTS.contains(&name) && self.lapsed.get(&vmid).is_some_and(is_over) {
            return Err(format!("v{vmid}'s {name} succeeds after its time is over"));
        }
        if is_prompt && LOOK_UPS.contains(&name) && now - began > nanoseconds(PROMPT_LIMIT) {
            let took = Duration::from_nanos(now - began);
            return Err(format!("v{vmid}'s {name} takes {took:?}"));
        }
        Ok(())
    }
}
