//! The observations of the machines, and the properties that every state has.

use libos_ipc::wire::{LockKind, SyncState};

use super::frames::proven;
use super::state::{HEIR, HoldState, LEADER, PROCESSES, Resource, Stage};
use super::system::{HANDLE, System, lock, vmid};

impl System<'_, '_> {
    /// Records what the machines show.
    pub(super) fn observe(&mut self) {
        self.observed.digests = [0; 2];
        if self.observed.is_old_alive {
            self.observed.digests[LEADER] = self.leaders[LEADER].digest();
        }
        self.observed.digests[HEIR] = self.leaders[HEIR].digest();
        for (process, own) in self.observed.processes.iter_mut().enumerate() {
            if own.stage == Stage::Dead {
                continue;
            }
            let machines = &mut self.machines[process];
            own.lease = machines.client.current().number();
            own.value = machines.client.data().first().copied().unwrap_or(0);
            own.proven = proven(&machines.kept);
            own.kept_by_heir.clear();
            self.sent.for_each_after(vmid(process), 0, 0, |frame| {
                own.kept_by_heir.push(frame.to_vec());
                true
            });
        }
    }

    /// Checks what holds in every state.
    pub(super) fn check(&mut self) {
        let [leader, heir] = self.observed.digests;
        let has_all = self.observed.log.is_empty() && !self.observed.has_taken_over;
        if self.observed.is_old_alive && has_all && leader != heir {
            self.fail("the heir's state differs from the leader's");
        }
        for process in HEIR..PROCESSES {
            self.check_process(process);
        }
        let ids = self.observed.processes.iter().filter_map(|own| own.id);
        let mut ids: Vec<u32> = ids.collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            self.fail("two processes have one ID");
        }
        if self.observed.holders(Resource::Lock) > 1 || self.observed.holders(Resource::File) > 1 {
            self.fail("two processes hold a lock");
        }
        let exclusive = SyncState::Exclusive.number();
        let owners = self.observed.processes.iter();
        if owners.filter(|own| own.lease == exclusive).count() > 1 {
            self.fail("two processes own the value");
        }
    }

    /// Checks that the leader, or if that dies now, the heir has what the process knows.
    fn check_process(&mut self, process: usize) {
        let (member, own) = (vmid(process), &self.observed.processes[process]);
        let tables = &mut self.leaders[HEIR];
        let mut violation = None;
        if own.answered > self.observed.applied[HEIR][process] {
            violation = Some("the heir does not know a request that was answered");
        }
        if own.stage == Stage::Following
            && tables
                .given(member)
                .is_some_and(|given| given < own.received)
        {
            violation = Some("the heir does not know a message that was received");
        }
        if own.id.is_some_and(|id| tables.owner_of(id) != Some(member)) {
            violation = Some("the heir does not know the owner of an ID");
        }
        let locks = tables.locks();
        let has_lock =
            |is_delegable| locks.has_write_lock(member, &lock(LockKind::Write, is_delegable));
        let has_file = has_lock(true)
            || own
                .delegation
                .is_some_and(|number| locks.has_delegation(member, number));
        if own.has(Resource::Lock) == HoldState::Held && !has_lock(false)
            || own.has(Resource::File) == HoldState::Held && !has_file
        {
            violation = Some("the heir does not know the holder of a lock");
        }
        if own.lease == SyncState::Exclusive.number()
            && !tables.leases().has_exclusive(member, HANDLE)
        {
            violation = Some("the heir does not know the owner of the value");
        }
        if let Some(violation) = violation {
            self.fail(violation);
        }
    }

    /// Returns the violation of the state when nothing more can happen, if there is one.
    pub(super) fn final_violation(&mut self) -> Option<&'static str> {
        let leader = usize::from(self.observed.has_taken_over);
        for (process, own) in self.observed.processes.iter().enumerate() {
            if own.stage == Stage::Dead {
                continue;
            }
            if self.observed.applied[leader][process] != own.frames.len() {
                return Some("a frame is never applied");
            }
            if own.stage == Stage::Following
                && self.leaders[leader].given(vmid(process)) != Some(own.received)
            {
                return Some("a message never arrives");
            }
            // One that has made all its requests keeps its lock.
            for (resource, has) in &own.has {
                let waits = matches!(has, HoldState::Wanted | HoldState::Releasing);
                let is_lock = matches!(resource, Resource::Lock | Resource::File)
                    && *has == HoldState::Wanted;
                if waits && !(is_lock && self.observed.holders(*resource) > 0) {
                    return Some("a process waits for ever");
                }
            }
        }
        (!self.leaders[leader].check_invariants()).then_some("an invariant of the tables is broken")
    }
}
