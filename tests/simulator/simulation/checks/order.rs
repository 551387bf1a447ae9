//! In which order signals were sent, and arrive.

use std::collections::{BTreeMap, BTreeSet};

use libos_ipc::Id;

/// What a thread of a process has sent, in that order: to one member, or to any that may be meant.
type Sent = Vec<(Option<u32>, i32)>;

#[derive(Default)]
pub(super) struct Order {
    sent: BTreeMap<(Id, usize), Sent>,
    /// How much of it has come before what came last: by sender, thread and receiver.
    come: BTreeMap<(Id, usize, u32), usize>,
    /// Threads that don't know what became of a signal.
    cut_short: BTreeSet<(Id, usize)>,
}

impl Order {
    pub(super) fn sends(&mut self, sender: Id, thread: usize, to: Option<u32>, signal: i32) {
        self.sent
            .entry((sender, thread))
            .or_default()
            .push((to, signal));
    }

    pub(super) fn cut_short(&mut self, sender: Id, thread: usize) {
        self.cut_short.insert((sender, thread));
    }

    /// Signals may be missing, where equal ones became one or some were discarded; what comes was sent
    /// after what came before. That of which thread it is, its number says, or else it was sent once.
    pub(super) fn delivered(&mut self, vmid: u32, sender: Id, signal: i32) -> Result<(), String> {
        for thread in 0..2 {
            let Some(sent) = self.sent.get(&(sender, thread)) else {
                continue;
            };
            let fits = |(to, number): &(Option<u32>, i32)| {
                *number == signal && to.is_none_or(|to| to == vmid)
            };
            if !sent.iter().any(fits) || self.cut_short.contains(&(sender, thread)) {
                continue;
            }
            let come = self.come.entry((sender, thread, vmid)).or_default();
            let Some(next) = sent.iter().skip(*come).position(fits) else {
                return Err(format!(
                    "v{vmid} gets signal {signal} of process {sender} after one sent later"
                ));
            };
            *come += next + 1;
        }
        Ok(())
    }
}
