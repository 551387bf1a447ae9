//! One small check for each guarantee. A check knows the requests and the answers, but not how they
//! came about. A method `record_…` records an event, and checks that it may have happened if it returns a result;
//! `begin_…` records that a call begins that may have an effect, and `check_…` checks only. Their times are ticks of
//! [`Checks::tick`], if the simulated time is not named. It leaves out what is uncertain, for instance about a process that is cut off.

mod calls;
mod exits;
mod false_disconnects;
mod family;
mod files;
mod heartbeats;
mod holders;
mod ids;
mod metadata;
mod mirror;
mod order;
mod pools;
mod primitives;
mod signals;
mod succession;
mod table_observer;
mod values;
mod vmids;

use libos_ipc::Id;

pub(crate) use calls::{Call, LONG};
pub(crate) use family::{SIGPWR, State};
pub(crate) use files::{BYTES, Claim, Owner, Space};
pub(crate) use metadata::{check_credentials, check_path, path_of, uid_of};
pub(crate) use mirror::{Mirror, MirrorMemory};
pub(crate) use pools::{check_bounds, check_left_over};
pub(crate) use primitives::PLACES;
pub(crate) use signals::{FOREIGN, group_signal_of, signal_of};
pub(crate) use table_observer::TableObserver;
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

    /// Returns a time of the clock of the checks that is later than all before.
    pub(crate) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Drops all certain facts about what the process held.
    pub(crate) fn forget(&mut self, vmid: u32, pid: Id, has_released_all: bool) {
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
        if !has_released_all {
            self.primitives.record_death();
            self.values
                .record_death(pid, self.family.is_marked_dead(vmid));
        }
    }
}
