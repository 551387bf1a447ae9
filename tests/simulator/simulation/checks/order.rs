//! The order in which signals are sent and delivered.

use std::collections::{BTreeMap, BTreeSet};

use libos_ipc::Id;

/// The signals that a thread of a process has sent, in their order: to one member, or to any of
/// several.
type Sent = Vec<(Option<u32>, i32)>;

#[derive(Default)]
pub(super) struct Order {
    sent: BTreeMap<(Id, usize), Sent>,
    /// The number of sent signals up to the last one that was delivered: by sender, thread and
    /// receiver.
    delivered: BTreeMap<(Id, usize, u32), usize>,
    /// Threads with a signal whose result is unknown.
    cut_short: BTreeSet<(Id, usize)>,
}

impl Order {
    /// Records that a thread sends a signal, to any of several members if none is named.
    pub(super) fn record_send(&mut self, sender: Id, thread: usize, to: Option<u32>, signal: i32) {
        self.sent
            .entry((sender, thread))
            .or_default()
            .push((to, signal));
    }

    /// Records that the result of a signal of the thread is unknown.
    pub(super) fn record_unknown_result(&mut self, sender: Id, thread: usize) {
        self.cut_short.insert((sender, thread));
    }

    /// Records a delivered signal, and checks its order. Signals may be missing where equal ones were merged or some were discarded; a signal that is
    /// delivered was sent after those that were delivered before. The number of a signal identifies
    /// its thread, unless it was sent once only.
    pub(super) fn record_delivery(
        &mut self,
        vmid: u32,
        sender: Id,
        signal: i32,
    ) -> Result<(), String> {
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
            let delivered = self.delivered.entry((sender, thread, vmid)).or_default();
            let Some(next) = sent.iter().skip(*delivered).position(fits) else {
                return Err(format!(
                    "v{vmid} gets signal {signal} of process {sender} after one sent later"
                ));
            };
            *delivered += next + 1;
        }
        Ok(())
    }
}
