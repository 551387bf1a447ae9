//! One small check for each promise. They know what was asked and answered, and nothing of how it
//! came about. What is not certain (of a process that is cut off, say) they leave out.

mod calls;
mod exits;
mod family;
mod files;
mod holders;
mod ids;
mod innocents;
mod metadata;
mod order;
mod pools;
mod signals;
mod values;
mod vmids;

use libos_ipc::Id;

pub(crate) use calls::{Call, LONG};
pub(crate) use family::State;
pub(crate) use files::{BYTES, Claim, Owner, Space};
pub(crate) use metadata::{credentials, path, path_of, user_of};
pub(crate) use pools::{bounds, left_over};
pub(crate) use signals::{FOREIGN, group_signal_of, signal_of};
pub(crate) use values::{HANDLES, Stamp};

use super::faults::Faults;

/// What the checks of a run know.
pub(crate) struct Checks {
    pub(crate) family: family::Family,
    pub(crate) vmids: vmids::Vmids,
    pub(crate) ids: ids::Ids,
    pub(crate) exits: exits::Exits,
    pub(crate) signals: signals::Signals,
    pub(crate) files: files::Files,
    pub(crate) values: values::Values,
    pub(crate) innocents: innocents::Innocents,
    pub(crate) calls: calls::Calls,
    /// Rises with everything that becomes certain.
    clock: u64,
}

impl Checks {
    pub(crate) fn new(faults: Faults) -> Checks {
        Checks {
            family: family::Family::default(),
            vmids: vmids::Vmids::default(),
            ids: ids::Ids::default(),
            exits: exits::Exits::default(),
            signals: signals::Signals::default(),
            files: files::Files::default(),
            values: values::Values::new(faults),
            innocents: innocents::Innocents::new(faults),
            calls: calls::Calls::new(faults),
            clock: 0,
        }
    }

    /// A moment, later than all before.
    pub(crate) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// From now on nothing is certain of what the process had.
    pub(crate) fn forget(&mut self, vmid: u32, pid: Id, had_given_back: bool) {
        let now = self.tick();
        self.ids.forget_all_of(vmid);
        self.files.forget(vmid, now);
        // A child that it starts may be given up with it.
        let starting: Vec<u32> = self
            .family
            .all()
            .filter(|kin| kin.parent == vmid && kin.state == State::Starting)
            .map(|kin| kin.vmid)
            .collect();
        for child in starting {
            self.files.forget(child, now);
        }
        if !had_given_back {
            self.values.died(pid, self.family.is_doomed(vmid));
        }
    }
}
