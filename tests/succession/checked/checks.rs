//! The observations of the machines, and the properties that every state has.

use libos_ipc::wire::{LockKind, SyncState};

use super::frames::proven;
use super::state::{HEIR, Has, LEADER, PROCESSES, Resource, Stage};
use super::world::{HANDLE, World, lock, vmid};

impl World<'_, '_> {
    pub(super) fn observe(&mut self) {
        self.seen.digests = [0; 2];
        if self.seen.is_old_alive {
            self.seen.digests[LEADER] = self.leaders[LEADER].digest();
        }
        self.seen.digests[HEIR] = self.leaders[HEIR].digest();
        for (process, own) in self.seen.processes.iter_mut().enumerate() {
            if own.stage == Stage::Dead {
                continue;
            }
            let machines = &mut self.machines[process];
            own.lease = machines.client.current().number();
            own.value = machines.client.data().first().copied().unwrap_or(0);
            own.proven = proven(&machines.kept);
            own.kept_for.clear();
            self.sent.for_each_after(vmid(process), 0, 0, |frame| {
                own.kept_for.push(frame.to_vec());
                true
            });
        }
    }

    /// Checks what holds in every state.
    pub(super) fn check(&mut self) {
        let [leader, heir] = self.seen.digests;
        let has_all = self.seen.log.is_empty() && !self.seen.has_taken_over;
        if self.seen.is_old_alive && has_all && leader != heir {
            self.wrong("the heir's state differs from the leader's");
        }
        for process in HEIR..PROCESSES {
            self.check_process(process);
        }
        let ids = self.seen.processes.iter().filter_map(|own| own.id);
        let mut ids: Vec<u32> = ids.collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            self.wrong("two processes have one ID");
        }
        if self.seen.holders(Resource::Lock) > 1 || self.seen.holders(Resource::File) > 1 {
            self.wrong("two processes hold a lock");
        }
        let exclusive = SyncState::Exclusive.number();
        let owners = self.seen.processes.iter();
        if owners.filter(|own| own.lease == exclusive).count() > 1 {
            self.wrong("two processes own the value");
        }
    }

    /// Checks that the leader, or if that dies now, the heir has what the process knows.
    fn check_process(&mut self, process: usize) {
        let (member, own) = (vmid(process), &self.seen.processes[process]);
        let tables = &mut self.leaders[HEIR];
        let mut wrong = None;
        if own.answered > self.seen.applied[HEIR][process] {
            wrong = Some("the heir does not know a request that was answered");
        }
        if own.stage == Stage::Led
            && tables
                .given(member)
                .is_some_and(|given| given < own.received)
        {
            wrong = Some("the heir does not know a message that was received");
        }
        if own.id.is_some_and(|id| tables.owner_of(id) != Some(member)) {
            wrong = Some("the heir does not know the owner of an ID");
        }
        let locks = tables.locks();
        let has_lock =
            |is_delegable| locks.has_write_lock(member, &lock(LockKind::Write, is_delegable));
        let has_file = has_lock(true)
            || own
                .delegation
                .is_some_and(|number| locks.has_delegation(member, number));
        if own.has(Resource::Lock) == Has::Held && !has_lock(false)
            || own.has(Resource::File) == Has::Held && !has_file
        {
            wrong = Some("the heir does not know the holder of a lock");
        }
        if own.lease == SyncState::Exclusive.number()
            && !tables.leases().has_exclusive(member, HANDLE)
        {
            wrong = Some("the heir does not know the owner of the value");
        }
        if let Some(wrong) = wrong {
            self.wrong(wrong);
        }
    }

    /// Returns the state when nothing more can happen.
    pub(super) fn at_last(&mut self) -> Option<&'static str> {
        let leader = usize::from(self.seen.has_taken_over);
        for (process, own) in self.seen.processes.iter().enumerate() {
            if own.stage == Stage::Dead {
                continue;
            }
            if self.seen.applied[leader][process] != own.frames.len() {
                return Some("a frame is never applied");
            }
            if own.stage == Stage::Led
                && self.leaders[leader].given(vmid(process)) != Some(own.received)
            {
                return Some("a message never arrives");
            }
            // One that has made all its requests keeps its lock.
            for (resource, has) in &own.has {
                let waits = matches!(has, Has::Wanted | Has::Releasing);
                let is_lock =
                    matches!(resource, Resource::Lock | Resource::File) && *has == Has::Wanted;
                if waits && !(is_lock && self.seen.holders(*resource) > 0) {
                    return Some("a process waits for ever");
                }
            }
        }
        (!self.leaders[leader].check_invariants()).then_some("an invariant of the tables is broken")
    }
}
