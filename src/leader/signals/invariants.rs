//! The consistency of the tables.

use super::Signals;
use crate::invariant::Count;

impl Signals<'_> {
    /// Returns true if the counts agree with the lists. It is slow, and meant for tests.
    pub(in crate::leader) fn check_invariants(&self) -> bool {
        let targets = || {
            let slots = self.targets.iter().enumerate();
            slots.filter(|(slot, target)| {
                let found = self.by_vmid.get(target.vmid);
                found.is_some_and(|found| found as usize == *slot)
            })
        };
        let lists = || targets().flat_map(|(_, target)| [target.first, target.sent]);
        let of_targets = || lists().flat_map(|first| self.list(first));
        let kept = of_targets().filter(|(_, queued)| queued.requester.is_none());
        let asked = of_targets().filter(|(_, queued)| queued.requester.is_some());
        let answers = self.list(self.answers).count();
        let kept = kept.count();
        let is_ordered = targets().all(|(_, target)| {
            let mut stamps = self.list(target.first).map(|(_, queued)| queued.stamp);
            let mut last = 0;
            stamps.all(|stamp| core::mem::replace(&mut last, stamp) < stamp)
        });
        let are_counted = targets()
            .all(|(_, target)| self.list(target.sent).count() as u64 == target.sent_count.into());
        are_counted
            && kept == self.queued_count
            && kept <= self.limit
            && asked.count().plus(answers) == self.awaited_count
            && self.free.in_use() == self.queued_count.plus(self.awaited_count)
            && targets().count() == self.free_targets.in_use()
            && is_ordered
            && self.outbox.check_invariants(|slot| {
                let target = self.targets.get(slot as usize);
                target.is_some_and(|target| {
                    target.is_ready() && self.by_vmid.get(target.vmid) == Some(slot)
                })
            })
    }
}
