//! A whole family in simulated time: real nodes, whose streams, clock and threads follow from the
//! seed.
//!
//! [`run`] runs one seed. A [`Plan`] follows from the seed: limits, faults, and the steps of each process. [`tasks`] schedules the
//! threads, and [`network`] moves the bytes. [`process`] is a process, [`program`] its steps and [`end`] its end; [`hostile`] is the
//! hostile member; [`checks`] has the invariants that every run must keep.

mod checks;
mod end;
mod faults;
mod hostile;
mod network;
mod op_log;
mod os;
mod pal;
mod plan;
mod process;
mod program;
mod tasks;
mod trace;
mod world;

use fastrand::Rng;
use libos_ipc::Identity;

pub(crate) use faults::{Fault, Faults};
pub(crate) use op_log::replay;
use plan::{HOSTILE, Plan};
pub(crate) use plan::{MAX_MEMBERS, Only, Options, StepName};
use process::{NewProcess, THREADS};
pub(crate) use world::Violation;

/// The result of a run.
pub(crate) struct Outcome {
    /// The hash of the trace: the same for the same seed and options.
    pub(crate) hash: u64,
    /// The number of events.
    pub(crate) events: u64,
    /// The simulated time of the run in nanoseconds.
    pub(crate) time: u64,
    pub(crate) violation: Option<Violation>,
    /// The text of the trace, if the options asked for it.
    pub(crate) lines: Vec<String>,
    /// The operations of the leader as a file, if the options asked for it.
    pub(crate) ops: Option<Vec<u8>>,
}

/// Runs a family from its start to its end.
pub(crate) fn run(options: &Options) -> Outcome {
    let plan = Plan::draw(options.clone());
    let faults = plan.faults;
    let network = network::Network::new(faults, Rng::with_seed(plan.network_seed));
    world::begin(plan, network, options);
    world::with(|world| world.log(format_args!("faults: {faults}")));
    let first = NewProcess {
        identity: Identity::LEADER,
        number: 0,
        made_at: 0,
        started_at: 0,
    };
    tasks::run_all(first, faults.has(Fault::Hostile));
    let mut world = world::end().expect("begun above");
    Outcome {
        hash: world.trace.hash(),
        events: world.trace.events(),
        time: world.network.now,
        violation: world.violation.take(),
        lines: world.trace.take_lines(),
        ops: world.ops,
    }
}

/// Returns all steps that a run has, whether it reaches them or not.
pub(crate) fn steps(options: &Options) -> Vec<StepName> {
    let plan = Plan::draw(options.clone());
    let threads = |process| {
        let threads = if plan.has_threads(process) {
            THREADS
        } else {
            1
        };
        (0..threads).map(move |thread| (process, thread))
    };
    let processes = (0..plan.members).chain([HOSTILE]);
    processes
        .flat_map(threads)
        .flat_map(|(process, thread)| {
            let steps = plan.steps(process, thread).into_iter();
            steps.map(move |step| (process, thread, step.at))
        })
        .collect()
}
