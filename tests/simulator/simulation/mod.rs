//! A whole family in simulated time: real nodes, whose streams, clock and threads are the seed's.
//!
//! [`run`] is one run. A [`Plan`] follows from the seed: limits, faults, what each process is to do.
//! [`tasks`] says who runs when, [`network`] what becomes of bytes, [`process`], [`program`]
//! and [`end`] are the processes, [`hostile`] the one that means harm, [`checks`] what must be so
//! whatever happens.

mod account;
mod checks;
mod end;
mod faults;
mod hostile;
mod network;
mod os;
mod pal;
mod plan;
mod process;
mod program;
mod tasks;
mod world;

use fastrand::Rng;
use libos_ipc::Identity;

pub(crate) use faults::{Fault, Faults};
use plan::{HOSTILE, Plan};
pub(crate) use plan::{MOST_MEMBERS, Only, Options, StepName};
use process::{Birth, THREADS};
pub(crate) use world::Violation;

/// What became of a run.
pub(crate) struct Outcome {
    /// The same for the same seed and options.
    pub(crate) hash: u64,
    /// How many things happened.
    pub(crate) events: u64,
    /// How long it took in the simulation, in nanoseconds.
    pub(crate) time: u64,
    pub(crate) violation: Option<Violation>,
    /// The account, if it was asked for.
    pub(crate) lines: Vec<String>,
}

/// Runs a family from its beginning to its end.
pub(crate) fn run(options: &Options) -> Outcome {
    let plan = Plan::draw(options.clone());
    let faults = plan.faults;
    let network = network::Network::new(faults, Rng::with_seed(plan.network_seed));
    world::begin(plan, network, options.tells);
    world::with(|world| world.tell(format_args!("faults: {faults}")));
    let first = Birth {
        identity: Identity::FIRST,
        number: 0,
        born: 0,
    };
    tasks::run_all(first, faults.has(Fault::Hostile));
    let mut world = world::end().expect("begun above");
    Outcome {
        hash: world.account.hash(),
        events: world.account.events(),
        time: world.network.now,
        violation: world.violation.take(),
        lines: world.account.take_lines(),
    }
}

/// All steps that a run has, whether they are come to or not.
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
