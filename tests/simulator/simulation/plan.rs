//! The plan of a seed: the faults of a run, its limits, and the steps of each process.

use std::time::Duration;

use fastrand::Rng;
use libos_ipc::{
    Admission, Adoption, Capacities, Config, Driving, Heirs, LeaseLimits, LockLimits, Quota, Vmid,
};

use super::faults::{Fault, Faults};

/// The greatest number of members in a run.
pub(crate) const MAX_MEMBERS: usize = 12;
/// The greatest number of steps of a thread.
const MAX_STEPS: usize = 24;
/// The time in which a process must join after its parent has died.
pub(crate) const START_LIMIT: Duration = Duration::from_mins(1);
/// How long a member uses what it has after the leader's last sign of life, on secure streams.
pub(crate) const SILENCE_LIMIT: Duration = Duration::from_secs(2);
/// How long a member waits for another leader.
pub(crate) const SUCCESSION_LIMIT: Duration = Duration::from_secs(5);
/// The process number of the hostile member's steps.
pub(crate) const HOSTILE: usize = 99;

/// The options of a run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    /// The greatest number of members; without it the seed determines the number.
    pub(crate) members: Option<usize>,
    pub(crate) faults: Faults,
    /// Only these steps are done.
    pub(crate) only: Option<Only>,
    /// The text of the trace is kept.
    pub(crate) keeps_lines: bool,
    /// The operations of the leader are recorded.
    pub(crate) records_ops: bool,
}

/// A step: the number of its process (in the order of their starts), of its thread, and its place in the thread.
pub(crate) type StepName = (usize, usize, usize);

/// Some steps of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Only(pub(crate) Vec<StepName>);

impl Only {
    /// Parses the output of `Display`: `process.thread.step`, separated by commas; `-` for none.
    pub(crate) fn parse(text: &str) -> Result<Only, String> {
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
        let step = |name: &str| {
            let mut parts = name.split('.');
            let step = (
                number(parts.next()),
                number(parts.next()),
                number(parts.next()),
            );
            match step {
                (Some(process), Some(thread), Some(step)) => Ok((process, thread, step)),
                _ => Err(format!("{name:?} is no step: process.thread.step")),
            }
        };
        if text == "-" {
            return Ok(Only::default());
        }
        text.split(',')
            .map(step)
            .collect::<Result<_, _>>()
            .map(Only)
    }
}

impl std::fmt::Display for Only {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("-");
        }
        let name = |(process, thread, step): &StepName| format!("{process}.{thread}.{step}");
        f.write_str(&self.0.iter().map(name).collect::<Vec<_>>().join(","))
    }
}

/// A step of a thread. Its details follow from its own seed and from the state of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) thread: usize,
    /// The place of the step in its thread, from 0 on.
    pub(crate) at: usize,
    pub(crate) seed: u64,
}

/// The plan of a seed.
pub(crate) struct Plan {
    options: Options,
    /// The faults of this run.
    pub(crate) faults: Faults,
    pub(crate) members: usize,
    pub(crate) config: Config,
    /// Whether a node has room for paths.
    pub(crate) has_paths: bool,
    seed: u64,
    pub(crate) network_seed: u64,
}

impl Plan {
    pub(crate) fn draw(options: Options) -> Plan {
        let mut rng = Rng::with_seed(options.seed);
        let faults = options.faults.draw(&mut rng);
        let members = rng.usize(2..=8);
        let has_paths = rng.u8(..) < 80;
        let network_seed = rng.u64(..);
        let seed = rng.u64(..);
        let mut config = config(faults, has_paths, &mut rng);
        let mut members = members;
        if faults.have_heirs() {
            // Drawn after all others, so that they do not depend on it.
            add_heirs(&mut config, &mut rng);
            members = members.max(rng.usize(3..=8));
            if faults.has(Fault::Stop) {
                config.stall_limit = Duration::from_millis([0, 10, 50, 200][rng.usize(..4)]);
            }
        }
        Plan {
            members: options.members.unwrap_or(members),
            faults,
            has_paths,
            config,
            seed,
            network_seed,
            options,
        }
    }

    /// Returns true if the nodes take their streams for secure.
    pub(crate) fn is_secure(&self) -> bool {
        self.config.silence_limit.is_some()
    }

    /// Returns the seed of a part of a process: 1 whether it has threads, 2 and 3 the steps of each thread, 7 its end, 8
    /// the use of all IDs, and 9 the deaths of leaders, or what the hostile member does.
    pub(crate) fn seed_of(&self, process: usize, part: u64) -> u64 {
        let mut rng = Rng::with_seed(self.seed ^ (process as u64) << 32 ^ part);
        rng.u64(..)
    }

    /// Returns true if a process has threads, and a worker besides.
    pub(crate) fn has_threads(&self, process: usize) -> bool {
        let drawn = self.seed_of(process, 1);
        if self.has_heirs() {
            // A process without a worker never leads.
            return !drawn.is_multiple_of(4);
        }
        drawn.is_multiple_of(3)
    }

    /// Returns true if the family may outlive its leader.
    pub(crate) fn has_heirs(&self) -> bool {
        self.config.heirs != Heirs::None
    }

    /// Returns the step of the first process before which the IDs are used up: released IDs are
    /// given again from then on.
    pub(crate) fn ids_end_at(&self) -> Option<usize> {
        let mut rng = Rng::with_seed(self.seed_of(0, 8));
        // The use of all IDs takes thousands of calls, each of which waits for room in the log of an heir
        // that is stopped.
        let has_time = !self.faults.has(Fault::Stop) && !self.faults.has(Fault::MemberStop);
        let is_one = self.config.wrap_ids && rng.u8(..) < 8 && has_time;
        is_one.then(|| rng.usize(..MAX_STEPS))
    }

    /// Returns the steps of a thread of a process.
    pub(crate) fn steps(&self, process: usize, thread: usize) -> Vec<Step> {
        let mut rng = Rng::with_seed(self.seed_of(process, 2 + thread as u64));
        let count = rng.usize(1..=MAX_STEPS);
        (0..count)
            .map(|at| Step {
                thread,
                at,
                seed: rng.u64(..),
            })
            .filter(|step| self.is_wanted((process, thread, step.at)))
            .collect()
    }

    fn is_wanted(&self, step: StepName) -> bool {
        let only = self.options.only.as_ref();
        only.is_none_or(|only| only.0.contains(&step))
    }
}

fn config(faults: Faults, has_paths: bool, rng: &mut Rng) -> Config {
    let is_tight = faults.has(Fault::Capacity);
    // A limit is random where tables are to get full, and otherwise enough for all that a run does.
    let mut limit = |tight: std::ops::Range<usize>, ample| {
        let drawn = rng.usize(tight);
        if is_tight { drawn } else { ample }
    };
    let locks = LockLimits {
        // A table of 64 locks has room for a delegation, and quotas give it only to a larger one.
        locks: limit(8..200, 160),
        files: limit(1..5, 6),
        waiting: limit(1..8, 40),
        open_files: limit(1..24, 400),
    };
    let leases = LeaseLimits {
        handles: limit(2..4, 100),
        clients: limit(2..16, 160),
    };
    // The lengths hold a returned delegation, or otherwise a path.
    let (frame_length, queue) = if has_paths { (4352, 4600) } else { (809, 940) };
    let capacities = Capacities {
        peers: limit(6..16, 20),
        unidentified: limit(1..5, 8),
        waiters: limit(2..8, 12),
        frame_length,
        send_queue: 2 * (queue + limit(0..300, 600)),
        ranges: limit(12..60, 600),
        own_ranges: limit(3..10, 64),
        processes: limit(4..20, 40),
        queued_signals: limit(0..6, 32),
        children: limit(1..10, 20),
        reply_buffers: usize::from(has_paths),
        locks,
        delegated_files: limit(0..3, 2),
        sync_handles: limit(2..6, 8),
        sync_data: 32,
        events: 0,
        leases,
    };
    Config {
        capacities,
        driving: Driving::Caller,
        spin: Duration::ZERO,
        wrap_ids: rng.bool(),
        // With quotas a table that is large enough for all may still refuse a member.
        admission: [Admission::Any, Admission::Known][rng.usize(..2)],
        quota: if is_tight { Quota::Fair } else { Quota::Off },
        keep_ranges_of_dead: false,
        require_secure: false,
        connect_limit: Duration::from_secs(5),
        recall_limit: Duration::from_secs(5),
        lease_limit: Some(Duration::from_secs(5)),
        start_limit: START_LIMIT,
        silence_limit: faults.has(Fault::Cut).then_some(SILENCE_LIMIT),
        heirs: Heirs::None,
        adoption: libos_ipc::Adoption::None,
        heir_patience: Duration::ZERO,
        stall_limit: Duration::ZERO,
        succession_limit: Duration::ZERO,
    }
}

/// Configures heirs, so that the family may outlive its leader.
fn add_heirs(config: &mut Config, rng: &mut Rng) {
    let mut listed = [None; 4];
    let mut vmids: Vec<u32> = (2..9).collect();
    rng.shuffle(&mut vmids);
    let count = rng.usize(1..=4);
    for (place, vmid) in listed[..count].iter_mut().zip(vmids) {
        *place = Vmid::new(vmid);
    }
    config.heirs = match rng.u8(..4) {
        0 => Heirs::Listed(listed),
        _ => Heirs::Any,
    };
    config.adoption = [Adoption::None, Adoption::NewLeader][rng.usize(..2)];
    config.heir_patience = Duration::from_millis([2, 20, 100][rng.usize(..3)]);
    config.succession_limit = SUCCESSION_LIMIT;
}
