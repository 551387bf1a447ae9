//! A state of the family: what each process has and waits for, the bytes on each way between two processes, and the
//! steps that led there.

use std::collections::{BTreeMap, VecDeque};

use crate::walk::Walk;

/// The number of processes: the first leader, its heir, and two members. Each is named by its place.
pub(super) const PROCESSES: usize = 4;
pub(super) const LEADER: usize = 0;
pub(super) const HEIR: usize = 1;

/// A resource that one process has at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Resource {
    Id,
    /// The lock of a file that is never delegated.
    Lock,
    /// The lock of a file that may be delegated.
    File,
    Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A process asks for the resource.
    Acquire { process: usize, resource: Resource },
    /// A process gives it back.
    Release { process: usize, resource: Resource },
    /// The leader of the process takes its next frame, and queues the answer.
    Take { process: usize },
    /// The old leader logs the message that it has just queued.
    LogMessage,
    /// The old leader writes the next record of its log, and the heir applies it. Nothing but the take-over depends on
    /// the time at which the heir does so.
    WriteLog,
    /// The leader of the process writes the next frame of its queue.
    WriteFrame { process: usize },
    /// The process receives the next frame of its leader.
    Receive { process: usize },
    /// The old leader dies.
    Crash,
    /// The heir has seen the end of its stream and leads.
    TakeOver,
    /// A member has seen the end of its stream and asks the new leader to go on.
    Rejoin { process: usize },
}

/// Whether a process has a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum HoldState {
    No,
    Wanted,
    Held,
    Releasing,
}

/// A request of a process that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Call {
    Range,
    Lock(Resource),
    Unlock(Resource),
    /// The lock of a file, which may be delegated with that number.
    Delegate(u64),
    Rejoin,
}

/// The connection of a process with its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// The process has a stream to its leader.
    Following,
    /// The process has asked the new leader what the old one has taken.
    Rejoining,
    Leading,
    Dead,
}

/// The observations of one process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) stage: Stage,
    /// The number of the leader that it follows.
    pub(super) epoch: u32,
    pub(super) has: BTreeMap<Resource, HoldState>,
    /// The number of requests that it may still make.
    pub(super) requests_left: usize,
    pub(super) id: Option<u32>,
    /// The last delegation of the file that it has got.
    pub(super) delegation: Option<u64>,
    /// Its lease of the value, and the value that it knows.
    pub(super) lease: i32,
    pub(super) value: u8,
    /// The last sequence number.
    pub(super) seq: u64,
    /// The calls that wait, and the number of the frame of each.
    pub(super) calls: BTreeMap<u64, (Call, usize)>,
    /// The counted frames that it has sent, by number.
    pub(super) frames: Vec<Vec<u8>>,
    /// The number of those that are proven to have arrived.
    pub(super) proven: u64,
    /// The number of messages that it has received.
    pub(super) received: u64,
    /// The number of the last frame to which it has got an answer.
    pub(super) answered: usize,
    /// Its frames that the leader has not taken.
    pub(super) to_leader: VecDeque<Vec<u8>>,
    /// The frames in the leader's queue for it, which end with the leader.
    pub(super) queue: VecDeque<Vec<u8>>,
    /// The frames on the stream to it, which outlive the leader.
    pub(super) from_leader: VecDeque<Vec<u8>>,
    /// The new leader keeps what it has for this member.
    pub(super) awaits_rejoin: bool,
    /// The frames that the heir keeps for it.
    pub(super) kept_by_heir: Vec<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Observed {
    pub(super) processes: Vec<Process>,
    pub(super) is_old_alive: bool,
    pub(super) has_taken_over: bool,
    /// The records that are not written.
    pub(super) log: VecDeque<Vec<u8>>,
    /// The old leader has queued a message and not logged that.
    pub(super) is_logging: bool,
    /// The digests of the old leader and of the heir.
    pub(super) digests: [u64; 2],
    /// By leader and process: the number of counted frames that were applied.
    pub(super) applied: [[usize; PROCESSES]; 2],
    /// The value that was last released.
    pub(super) value: u8,
    pub(super) violation: Option<&'static str>,
}

pub(super) type State = Walk<Step, Observed>;

impl Process {
    pub(super) fn new(requests: usize, stage: Stage) -> Process {
        Process {
            stage,
            epoch: 1,
            has: [
                Resource::Id,
                Resource::Lock,
                Resource::File,
                Resource::Value,
            ]
            .map(|resource| (resource, HoldState::No))
            .into(),
            requests_left: requests,
            id: None,
            delegation: None,
            lease: 1,
            value: 0,
            seq: 0,
            calls: BTreeMap::new(),
            frames: Vec::new(),
            proven: 0,
            received: 0,
            answered: 0,
            to_leader: VecDeque::new(),
            queue: VecDeque::new(),
            from_leader: VecDeque::new(),
            awaits_rejoin: false,
            kept_by_heir: Vec::new(),
        }
    }

    pub(super) fn has(&self, resource: Resource) -> HoldState {
        self.has[&resource]
    }
}

impl Observed {
    /// Returns the leader whose tables hold for the process: 0 for the old one.
    pub(super) fn leader_of(&self, process: usize) -> usize {
        let process = &self.processes[process];
        let follows_heir = process.epoch > 1 || process.stage == Stage::Rejoining;
        usize::from(follows_heir)
    }

    /// Returns true if that leader takes frames at present.
    pub(super) fn leads(&self, leader: usize) -> bool {
        match leader {
            LEADER => self.is_old_alive && !self.is_logging,
            _ => self.has_taken_over,
        }
    }

    /// Returns the processes that hold the resource, as far as they know.
    pub(super) fn holders(&self, resource: Resource) -> usize {
        let held = |process: &&Process| process.has(resource) == HoldState::Held;
        self.processes.iter().filter(held).count()
    }
}
