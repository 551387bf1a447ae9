//! Who has which open file, as far as the simulator made it so.

use std::collections::{BTreeMap, BTreeSet};

/// Open files of one process for each file, at most as many as it opens itself.
const OPENED: usize = 2;

#[derive(Default)]
pub(crate) struct Holders {
    /// Which members have an open file.
    had: BTreeMap<u64, BTreeSet<u32>>,
    /// Descriptors under way, and to whom.
    sent: Vec<(u32, u64)>,
    /// Open files about which somebody says something just now.
    busy: BTreeSet<u64>,
    /// Open files that somebody may have whom nobody knows of.
    unsure: BTreeSet<u64>,
    opened: u64,
}

/// The file that an open file is of.
fn file_of(handle: u64) -> usize {
    usize::try_from(handle & 0xF).unwrap_or(0)
}

impl Holders {
    /// An open file of the process for which nobody else does anything: one of its own, or a new one.
    /// To be [let go of](Holders::done).
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

    pub(crate) fn done(&mut self, handle: u64) {
        self.busy.remove(&handle);
    }

    /// What the process has of a file.
    pub(crate) fn of(&self, vmid: u32, file: usize) -> impl Iterator<Item = u64> {
        let all = self.had.iter();
        all.filter(move |(handle, members)| file_of(**handle) == file && members.contains(&vmid))
            .map(|(handle, _)| *handle)
    }

    /// Whether anybody has the open file, or it is under way to somebody.
    pub(crate) fn is_held(&self, handle: u64) -> bool {
        let is_had = self.had.get(&handle).is_some_and(|had| !had.is_empty());
        is_had || self.sent.iter().any(|(_, sent)| *sent == handle)
    }

    /// Whether it is certain that nobody has it when nobody is known to.
    pub(crate) fn is_sure(&self, handle: u64) -> bool {
        !self.unsure.contains(&handle)
    }

    pub(crate) fn is_unsure(&mut self, handle: u64) {
        self.unsure.insert(handle);
    }

    /// The process has it from now on.
    pub(crate) fn has(&mut self, vmid: u32, handle: u64) {
        self.had.entry(handle).or_default().insert(vmid);
    }

    /// The process is about to close it.
    pub(crate) fn closes(&mut self, vmid: u32, handle: u64) {
        if let Some(had) = self.had.get_mut(&handle) {
            had.remove(&vmid);
        }
    }

    pub(crate) fn sends(&mut self, to: u32, handle: u64) {
        self.sent.push((to, handle));
    }

    /// A descriptor that is under way to the process, which nobody else does anything with.
    pub(crate) fn next_sent(&mut self, to: u32) -> Option<u64> {
        let (sent, busy) = (&mut self.sent, &mut self.busy);
        let at = sent
            .iter()
            .position(|(of, handle)| *of == to && !busy.contains(handle))?;
        let (_, handle) = sent.remove(at);
        busy.insert(handle);
        Some(handle)
    }

    /// It could not be sent.
    pub(crate) fn takes_back(&mut self, to: u32, handle: u64) {
        let at = self.sent.iter().position(|sent| *sent == (to, handle));
        if let Some(at) = at {
            self.sent.remove(at);
        }
    }

    /// The process is gone, or may be. Returns what it had.
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
        // The leader may not know that for a while.
        self.unsure.extend(&lost);
        lost
    }
}
