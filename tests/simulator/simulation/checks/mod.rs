//! One small check for each promise. A check knows the requests and the answers, but not how they
//! came about. It leaves out what is uncertain, for instance about a process that is cut off.

mod calls;
mod exits;
mod false_disconnects;
mod family;
mod files;
mod heartbeats;
mod holders;
mod ids;
mod lineage;
mod metadata;
mod mirror;
mod order;
mod pools;
mod primitives;
mod signals;
mod succession;
mod values;
mod vmids;

use libos_ipc::Id;

pub(crate) use calls::{Call, LONG};
pub(crate) use family::{SIGPWR, State};
pub(crate) use files::{BYTES, Claim, Owner, Space};
pub(crate) use lineage::Lineage;
pub(crate) use metadata::{credentials, path, path_of, user_of};
pub(crate) use mirror::{Mirror, MirrorMemory};
pub(crate) use pools::{bounds, left_over};
pub(crate) use primitives::PLACES;
pub(crate) use signals::{FOREIGN, group_signal_of, signal_of};
pub(crate) use values::{HANDLES, Stamp};

use super::faults::Faults;

/// The state of the checks of a run.
pub(crate) struct Checks {
    pub(crate) family: family::Family,
    pub(crate) vmids: vmids::Vmids,
    pub(crate) ids: ids::Ids,
    pub(crate) exits: exits::Exits,
    pub(crate) signals: signals::Signals,
    pub(crate) files: files::Files,
    pub(crate) values: values::Values,
    pub(crate) heartbeats: heartbeats::Heartbeats,
    pub(crate) primitives: primitives::Primitives,
    pub(crate) false_disconnects: false_disconnects::FalseDisconnects,
    pub(crate) calls: calls::Calls,
    pub(crate) succession: succession::Succession,
    /// A clock of the checks, which advances with each certain fact.
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
            heartbeats: heartbeats::Heartbeats::default(),
            primitives: primitives::Primitives::default(),
            false_disconnects: false_disconnects::FalseDisconnects::new(faults),
            calls: calls::Calls::new(faults),
            succession: succession::Succession::default(),
            clock: 0,
        }
    }

    /// Returns a moment later than all before.
    pub(crate) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Drops all certain facts about what the process held.
    pub(crate) fn forget(&mut self, vmid: u32, pid: Id, had_given_back: bool) {
        let now = self.tick();
        self.ids.forget_all_of(vmid);
        self.files.forget(vmid, now);
        // A child that it is starting may be abandoned with it.
        let starting: Vec<u32> = self
            .family
            .all()
            .filter(|process| process.parent == vmid && process.state == State::Starting)
            .map(|process| process.vmid)
            .collect();
        for child in starting {
            self.files.forget(child, now);
        }
        if !had_given_back {
            self.primitives.died();
            self.values.died(pid, self.family.is_marked_dead(vmid));
        }
    }
}
