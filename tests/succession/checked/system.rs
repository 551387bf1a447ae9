//! The real machines, and the effect of a step on them: what a node does with their frames, in a few lines.

use std::collections::VecDeque;
use std::mem::MaybeUninit;

use libos_ipc::Vmid;
use libos_ipc::file_locks::LockLimits;
use libos_ipc::leader::{
    ImageCursor, Leader, LeaderCapacities, Op, SMALLEST_SLICE, SentFrames, SignalLimits,
};
use libos_ipc::member::{DelegatedFiles, KeptFrames, OwnIds};
use libos_ipc::shared_state::{Client, LeaseLimits};
use libos_ipc::store::Arena;
use libos_ipc::wire::{FileLock, LockFamily, LockKind};

use super::Family;
use super::frames::MAX_FRAME;
use super::state::{HEIR, LEADER, Observed, PROCESSES, Process, Resource, Stage, Step};

const CAPACITIES: LeaderCapacities = LeaderCapacities {
    ranges: 8,
    processes: 4,
    peers: 4,
    signals: SignalLimits {
        targets: 4,
        queued: 4,
    },
    locks: LockLimits {
        locks: 8,
        files: 2,
        waiting: 4,
        open_files: 0,
    },
    leases: LeaseLimits {
        handles: 1,
        clients: 4,
    },
    sync_data: 1,
    wrap_ids: true,
    roster: 4,
    ..LeaderCapacities::NONE
};

/// The number of locks without which no file is delegated.
const LOCKS_TO_DELEGATE: usize = 64;

fn capacities(family: &Family) -> LeaderCapacities {
    let mut capacities = CAPACITIES;
    if family.resources.contains(&Resource::File) {
        capacities.locks.locks = LOCKS_TO_DELEGATE;
    }
    capacities
}

/// The bytes of frames that the heir keeps for each member.
const KEPT_BYTES: usize = 1024;

/// The handle of the value.
pub(super) const HANDLE: u64 = 7;

/// Returns the VMID of the process at that place.
pub(super) fn vmid(process: usize) -> Vmid {
    Vmid::new(u32::try_from(process).unwrap() + 1).unwrap()
}

/// Returns the place of the process with that VMID.
pub(super) fn place(vmid: Vmid) -> usize {
    vmid.get() as usize - 1
}

/// Returns a lock on the file that the leader never delegates, or on the one that it may.
pub(super) fn lock(kind: LockKind, is_delegable: bool) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Posix,
        kind,
        start: 0,
        end: 9,
        pid: 1,
        handle: 0,
        wait: kind == LockKind::Write,
        path: if is_delegable { b"/b" } else { b"/a" },
    }
}

/// The machines of one process.
pub(super) struct Machines<'m> {
    pub(super) ids: OwnIds<'m>,
    pub(super) client: Client<'m>,
    pub(super) files: DelegatedFiles<'m>,
    pub(super) kept: KeptFrames<'m>,
}

/// The machines of all processes, and what was observed.
pub(super) struct System<'m, 'f> {
    pub(super) family: &'f Family,
    /// The tables of the old leader and those of its heir.
    pub(super) leaders: [Leader<'m>; 2],
    pub(super) sent: SentFrames<'m>,
    pub(super) machines: Vec<Machines<'m>>,
    pub(super) observed: Observed,
}

impl System<'_, '_> {
    /// Records the first violation.
    pub(super) fn fail(&mut self, what: &'static str) {
        self.observed.violation.get_or_insert(what);
    }

    pub(super) fn process(&mut self, process: usize) -> &mut Process {
        &mut self.observed.processes[process]
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Acquire { process, resource } => self.acquire(process, resource),
            Step::Release { process, resource } => self.release(process, resource),
            Step::Take { process } => {
                let frame = self.process(process).to_leader.pop_front().unwrap();
                self.take(process, &frame);
            }
            Step::LogMessage => {
                self.observed.is_logging = false;
                self.mark_transmitted(LEADER);
                self.send_output(LEADER);
            }
            Step::WriteLog => self.write_log(),
            Step::WriteFrame { process } => {
                let process = self.process(process);
                let frame = process.queue.pop_front().unwrap();
                process.from_leader.push_back(frame);
            }
            Step::Receive { process } => {
                let frame = self.process(process).from_leader.pop_front().unwrap();
                self.receive(process, &frame, true);
            }
            Step::Crash => self.crash(),
            Step::TakeOver => self.take_over(),
            Step::Rejoin { process } => self.ask_to_rejoin(process),
        }
    }
}

/// Loads the leader's state into the tables of its heir.
fn load_image(leader: &Leader<'_>, heir: &mut Leader<'_>) {
    let mut cursor = Some(ImageCursor::START);
    while let Some(at) = cursor {
        let mut slice = vec![0; 16 * SMALLEST_SLICE];
        let (length, next) = leader.save_slice(at, &mut slice).unwrap();
        heir.load_slice(&slice[..length]).unwrap();
        cursor = next;
    }
    heir.finish_load().unwrap();
}

/// Does the steps with new machines. Nothing more can happen after them if `is_last`.
pub(super) fn observed_after(family: &Family, steps: &[Step], is_last: bool) -> Observed {
    let capacities = capacities(family);
    let mut tables = [(); 2].map(|()| Box::new_uninit_slice(Leader::bytes(&capacities)));
    let mut frames = Box::new_uninit_slice(SentFrames::bytes(PROCESSES, KEPT_BYTES) + 64);
    let own = KeptFrames::bytes(MAX_FRAME, 8) + OwnIds::bytes(4) + DelegatedFiles::bytes(1) + 128;
    let mut memories = [(); PROCESSES].map(|()| vec![MaybeUninit::uninit(); own]);
    let mut data = [[0_u8; 1]; PROCESSES];
    let mut leaders = tables
        .each_mut()
        .map(|memory| Leader::new(&mut Arena::new(memory), &capacities).unwrap());
    for member in HEIR..PROCESSES {
        leaders[LEADER].apply(&Op::Connected(vmid(member)));
        if !family.has_image {
            leaders[HEIR].apply(&Op::Connected(vmid(member)));
        }
    }
    let [leader, heir] = &mut leaders;
    if family.has_image {
        load_image(leader, heir);
    }
    let mut sent = SentFrames::new(&mut Arena::new(&mut frames), PROCESSES, KEPT_BYTES);
    sent.begin(heir);
    let machines = memories.iter_mut().zip(&mut data).map(|(memory, data)| {
        let mut arena = Arena::new(memory);
        let mut client = Client::new(data);
        client.open(HANDLE, true);
        Machines {
            ids: OwnIds::new(&mut arena, 4).unwrap(),
            client,
            files: DelegatedFiles::new(&mut arena, 1).unwrap(),
            kept: KeptFrames::new(&mut arena, MAX_FRAME, 8),
        }
    });
    let processes = (0..PROCESSES).map(|process| {
        let stage = if process == LEADER {
            Stage::Leading
        } else {
            Stage::Following
        };
        Process::new(family.requests[process], stage)
    });
    let mut system = System {
        family,
        leaders,
        sent,
        machines: machines.collect(),
        observed: Observed {
            processes: processes.collect(),
            is_old_alive: true,
            has_taken_over: false,
            log: VecDeque::new(),
            is_logging: false,
            digests: [0; 2],
            applied: [[0; PROCESSES]; 2],
            value: 0,
            violation: None,
        },
    };
    for step in steps {
        system.step(*step);
    }
    system.observe();
    system.check();
    if is_last && let Some(violation) = system.final_violation() {
        system.fail(violation);
    }
    system.observed
}
