//! **vmids**: no VMID is given twice, and VMIDs rise.

use std::collections::BTreeSet;

#[derive(Default)]
pub(crate) struct Vmids(BTreeSet<u32>);

impl Vmids {
    /// Returns the highest VMID so far. A VMID that is requested from now on is higher.
    pub(crate) fn highest(&self) -> u32 {
        self.0.last().copied().unwrap_or(1)
    }

    /// Records that the leader has given this VMID, after a request at which `floor` was the highest one.
    pub(crate) fn record_vmid(&mut self, vmid: u32, floor: u32) -> Result<(), String> {
        if !self.0.insert(vmid) {
            return Err(format!("VMID {vmid} is given twice"));
        }
        if vmid <= floor {
            return Err(format!("VMID {vmid} is given after {floor}"));
        }
        Ok(())
    }
}
