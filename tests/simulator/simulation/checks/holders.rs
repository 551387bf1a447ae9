//! The holders of each open file, as the simulator has passed it on.

use std::collections::{BTreeMap, BTreeSet};

/// The greatest number of open files of one file that a process opens itself.
const OPENED: usize = 2;

#[derive(Default)]
pub(crate) struct Holders {
    /// The members that hold each open file.
    had: BTreeMap<u64, BTreeSet<u32>>,
    /// Descriptors under way, with their receivers.
    sent: Vec<(u32, u64)>,
    /// Open files that a call is about at this moment.
    busy: BTreeSet<u64>,
    /// Open files that may have an unknown holder.
    unsure: BTreeSet<u64>,
    opened: u64,
}

/// Returns the file of an open file.
fn file_of(handle: u64) -> usize {
    usize::try_from(handle & 0xF).unwrap_or(0)
}

impl Holders {
    /// Returns an open file of the process that no other call uses: one that it holds, or a new
    /// one. [`Holders::release`] releases it.
    pub(crate) fn take(&mut self, vmid: u32, file: usize, choice: usize) -> Option<u64> {
        let mut all: Vec<u64> = self.of(vmid, file).collect();
        if all.len() < OPENED {
            self.opened += 1;
            let handle = u64::from(vmid) << 32 | self.opened << 4 | file as u64;
            self.had.entry(handle).or_default().insert(vmid);
            all.push(handle);
        }
        let handle = all.get(choice % all.len().max(1)).copied()?;
        self.busy.insert(handle).then_some(handle)
    }

    pub(crate) fn release(&mut self, handle: u64) {
        self.busy.remove(&handle);
    }

    /// Iterates over the open files of a file that the process holds.
    pub(crate) fn of(&self, vmid: u32, file: usize) -> impl Iterator<Item = u64> {
        let all = self.had.iter();
        all.filter(move |(handle, members)| file_of(**handle) == file && members.contains(&vmid))
            .map(|(handle, _)| *handle)
    }

    /// Returns true if a process holds the open file, or it is under way to one.
    pub(crate) fn is_held(&self, handle: u64) -> bool {
        let is_had = self.had.get(&handle).is_some_and(|had| !had.is_empty());
        is_had || self.sent.iter().any(|(_, sent)| *sent == handle)
    }

    /// Returns true if the open file has certainly no unknown holder.
    pub(crate) fn is_sure(&self, handle: u64) -> bool {
        !self.unsure.contains(&handle)
    }

    pub(crate) fn mark_unsure(&mut self, handle: u64) {
        self.unsure.insert(handle);
    }

    /// Records that the process holds the open file from now on.
    pub(crate) fn add_holder(&mut self, vmid: u32, handle: u64) {
        self.had.entry(handle).or_default().insert(vmid);
    }

    /// Records that the process is about to close the open file.
    pub(crate) fn remove_holder(&mut self, vmid: u32, handle: u64) {
        if let Some(had) = self.had.get_mut(&handle) {
            had.remove(&vmid);
        }
    }

    pub(crate) fn record_transfer(&mut self, to: u32, handle: u64) {
        self.sent.push((to, handle));
    }

    /// Returns a descriptor that is under way to the process and that no other call uses.
    pub(crate) fn next_transfer(&mut self, to: u32) -> Option<u64> {
        let (sent, busy) = (&mut self.sent, &mut self.busy);
        let at = sent
            .iter()
            .position(|(of, handle)| *of == to && !busy.contains(handle))?;
        let (_, handle) = sent.remove(at);
        busy.insert(handle);
        Some(handle)
    }

    /// Records that the descriptor could not be sent.
    pub(crate) fn withdraw_transfer(&mut self, to: u32, handle: u64) {
        let at = self.sent.iter().position(|sent| *sent == (to, handle));
        if let Some(at) = at {
            self.sent.remove(at);
        }
    }

    /// Forgets a process that has ended, or may have. Returns the open files that it held.
    pub(crate) fn forget(&mut self, vmid: u32) -> Vec<u64> {
        let mut lost = Vec::new();
        for (handle, had) in &mut self.had {
            if had.remove(&vmid) {
                lost.push(*handle);
            }
        }
        self.sent.retain(|(to, handle)| {
            if *to == vmid {
                lost.push(*handle);
            }
            *to != vmid
        });
        // The leader may not know of that for a while.
        self.unsure.extend(&lost);
        lost
    }
}
