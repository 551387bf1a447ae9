//! Random programs of several processes, run on the table and on the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use libos_ipc::locks::{LockLimits, Locks};
use libos_ipc::store::Arena;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tempfile::TempDir;

use crate::kernel::{Do, FILES, Found, HANDLES, Order, Outcome, Process};
use crate::model::Wish;
use crate::table::{FIRST_PID, PROCESSES, Table};

const EDEADLK: i32 = 35;

pub(crate) const LIMITS: LockLimits = LockLimits {
    locks: 256,
    files: 4,
    waiting: 16,
    handles: 64,
};

#[derive(Clone, Debug)]
enum Step {
    /// A process locks or unlocks something, or asks.
    Lock(usize, Order),
    /// A process's wait is ended.
    Interrupt(usize),
    /// A process is killed.
    Die(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        14 => Just(Do::Posix),
        5 => Just(Do::Ofd),
        5 => Just(Do::Flock),
        3 => Just(Do::PosixGet),
        2 => Just(Do::OfdGet),
        1 => Just(Do::Close),
    ];
    let kind = prop_oneof![3 => Just(0_u8), 5 => Just(1), 3 => Just(2)];
    let place = (0..FILES as u8, 0..HANDLES as u8);
    let range = (0..10_u8, 0..5_u8);
    let lock = (
        0..PROCESSES,
        what,
        kind,
        place,
        range,
        prop::bool::weighted(0.75),
    )
        .prop_map(
            |(process, what, kind, (file, handle), (start, length), wait)| {
                let order = Order {
                    what,
                    file,
                    handle,
                    kind,
                    wait: wait && kind != 2,
                    start,
                    length,
                };
                Step::Lock(process, order)
            },
        );
    prop_oneof![
        30 => lock,
        2 => (0..PROCESSES).prop_map(Step::Interrupt),
        1 => (0..PROCESSES).prop_map(Step::Die),
    ]
}

/// The kernel's processes, kept from one program to the next.
struct Kernel {
    directory: TempDir,
    processes: Vec<Process>,
    /// Who waits for a lock.
    waiting: BTreeSet<usize>,
}

impl Kernel {
    fn new() -> Kernel {
        let directory = tempfile::tempdir().unwrap();
        let processes = (0..PROCESSES)
            .map(|_| Process::start(directory.path()))
            .collect();
        Kernel {
            directory,
            processes,
            waiting: BTreeSet::new(),
        }
    }

    /// Those who waited and do no more, and what came of it.
    fn served(&mut self) -> BTreeMap<usize, i32> {
        let mut served = BTreeMap::new();
        loop {
            let before = self.have_run();
            for process in self.waiting.clone() {
                if let Some(outcome) = self.processes[process].outcome() {
                    self.waiting.remove(&process);
                    served.insert(process, outcome.errno);
                }
            }
            // One that only tries again may let another go on, which was found asleep just before.
            if self.have_run() == before {
                return served;
            }
        }
    }

    fn have_run(&mut self) -> Vec<String> {
        let waiting = &self.waiting;
        let processes = self.processes.iter_mut().enumerate();
        processes
            .filter(|(number, _)| waiting.contains(number))
            .map(|(_, process)| process.has_run())
            .collect()
    }

    fn reset(&mut self) {
        while !self.waiting.is_empty() {
            for process in &self.waiting {
                self.processes[*process].interrupt();
            }
            self.served();
        }
        for process in &mut self.processes {
            process.order(RESET);
            while process.outcome().is_none() {}
        }
    }

    fn die(&mut self, process: usize) {
        let new = Process::start(self.directory.path());
        std::mem::replace(&mut self.processes[process], new).kill();
        self.waiting.remove(&process);
    }
}

const RESET: Order = Order {
    what: Do::Reset,
    file: 0,
    handle: 0,
    kind: 0,
    wait: false,
    start: 0,
    length: 0,
};

/// How the programs went.
#[derive(Default)]
struct Tally {
    programs: u64,
    steps: u64,
    waits: u64,
    deadlocks: u64,
    /// Programs that were left because the kernel and the table did different things that are
    /// both right.
    left: BTreeMap<&'static str, u64>,
}

/// How a program goes on.
enum Flow {
    On,
    /// The kernel and the table did different things that are both right: what follows can't be
    /// compared.
    Leave(&'static str),
}

/// Runs a program on both. An error says where they differ.
fn run(program: &[Step], kernel: &mut Kernel, tally: &mut Tally) -> Result<(), String> {
    let mut memory = Box::new_uninit_slice(Locks::bytes(&LIMITS));
    let locks = Locks::new(&mut Arena::new(&mut memory), &LIMITS).unwrap();
    let mut table = Table::new(locks);
    kernel.reset();
    tally.programs += 1;
    for (at, step) in program.iter().enumerate() {
        tally.steps += 1;
        let flow = match step {
            Step::Lock(process, _) if table.waiting.contains_key(process) => continue,
            Step::Lock(process, order) => lock(*process, order, &mut table, kernel, tally),
            Step::Interrupt(process) => {
                if table.waiting.contains_key(process) {
                    table.interrupt(*process);
                    kernel.processes[*process].interrupt();
                }
                Ok(Flow::On)
            }
            Step::Die(process) => {
                table.die(*process);
                kernel.die(*process);
                Ok(Flow::On)
            }
        };
        let flow = flow.and_then(|flow| match flow {
            Flow::On => compare_served(&mut table, kernel),
            leave @ Flow::Leave(_) => Ok(leave),
        });
        match flow.map_err(|what| format!("step {at}: {what}"))? {
            Flow::On => {}
            Flow::Leave(why) => {
                *tally.left.entry(why).or_default() += 1;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Has a process do something on both.
fn lock(
    process: usize,
    order: &Order,
    table: &mut Table<'_>,
    kernel: &mut Kernel,
    tally: &mut Tally,
) -> Result<Flow, String> {
    let message = table.message(process, order, b"");
    let wish = Table::wish(process, order, &message);
    let waiting: Vec<Wish> = table.waiting.values().copied().collect();
    let is_deadlock = table.model.is_deadlock(&wish, &waiting);
    let ours = table.obey(process, order);
    kernel.processes[process].order(*order);
    let theirs = kernel.processes[process].outcome();
    if theirs.is_none() {
        kernel.waiting.insert(process);
    }
    tally.waits += u64::from(ours.is_none());
    let is_told =
        |outcome: Option<Outcome>| outcome.is_some_and(|outcome| outcome.errno == EDEADLK);
    if is_told(ours) {
        tally.deadlocks += 1;
        if !is_deadlock {
            return Err("EDEADLK, and it is none".to_owned());
        }
        if theirs.is_none() {
            return Ok(Flow::Leave("a deadlock the kernel does not see"));
        }
    } else if ours.is_none() && is_deadlock && order.what == Do::Posix {
        return Err("a wait for ever".to_owned());
    }
    if ours.is_none() && is_told(theirs) {
        return Ok(Flow::Leave("a deadlock only the kernel sees"));
    }
    let same = match (order.what, ours, theirs) {
        (Do::PosixGet | Do::OfdGet, Some(ours), Some(theirs)) if order.kind < 2 => {
            let theirs = named_as_ours(theirs, kernel);
            ours.errno == theirs.errno && is_right_lock(ours.lock, theirs.lock, &wish, table)
        }
        (Do::OfdGet, Some(ours), Some(theirs)) => {
            let first = ours.lock.map(|found| usize::from(found.start));
            ours == named_as_ours(theirs, kernel) && first == table.model.first_own(&wish)
        }
        (_, ours, theirs) => ours == theirs.map(|theirs| named_as_ours(theirs, kernel)),
    };
    if same {
        Ok(Flow::On)
    } else {
        Err(format!("{ours:?}, the kernel: {theirs:?}"))
    }
}

/// The kernel's answer with the process that it names as the table calls it.
fn named_as_ours(mut theirs: Outcome, kernel: &Kernel) -> Outcome {
    if let Some(found) = &mut theirs.lock
        && let Some(at) = (FIRST_PID..)
            .zip(&kernel.processes)
            .find_map(|(pid, process)| (process.pid() == found.pid).then_some(pid))
    {
        found.pid = at.cast_signed();
    }
    theirs
}

/// Whether `F_GETLK` names the right one of the locks in the way: the kernel's where these have one
/// owner or each owner's first starts at the same byte; else one that starts lowest.
fn is_right_lock(
    ours: Option<Found>,
    theirs: Option<Found>,
    wish: &Wish,
    table: &Table<'_>,
) -> bool {
    let lowest = table.model.lowest_in_the_way(wish);
    let Some(first) = lowest.iter().min() else {
        return ours.is_none() && theirs.is_none();
    };
    if lowest.iter().all(|start| start == first) {
        return ours == theirs;
    }
    ours.is_some_and(|ours| usize::from(ours.start) == *first)
        && theirs.is_some_and(|theirs| lowest.contains(&usize::from(theirs.start)))
}

/// Compares whose wait has ended.
fn compare_served(table: &mut Table<'_>, kernel: &mut Kernel) -> Result<Flow, String> {
    let (ours, theirs) = (table.served(), kernel.served());
    if !table.locks.is_sound() {
        return Err("the table is not sound".to_owned());
    }
    if ours == theirs {
        return Ok(Flow::On);
    }
    // Who is first of those who are in each other's way is not always the same: the kernel has
    // them try again as they run. Nobody may be left who could be served.
    let forgotten = table.waiting.iter().find(|(_, wish)| {
        let others = table.waiting.values();
        table.model.in_the_way(wish).is_empty()
            && !others.into_iter().any(|other| {
                other.owner != wish.owner
                    && other.file == wish.file
                    && (other.write || wish.write)
                    && other.start < wish.end
                    && other.end > wish.start
            })
    });
    let contested = table.waiting.len() + ours.len() > 1 || theirs.len() > 1;
    match forgotten {
        Some((process, _)) => Err(format!(
            "process {process} waits for nothing; served were {ours:?}, by the kernel {theirs:?}"
        )),
        None if contested => Ok(Flow::Leave("another order of those who wait")),
        None => Err(format!("{ours:?} were served, by the kernel {theirs:?}")),
    }
}

#[test]
fn the_kernel_does_the_same() {
    let programs: u32 = std::env::var("LOCK_PROGRAMS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2_000);
    let kernel = Mutex::new((Kernel::new(), Tally::default()));
    let config = Config {
        cases: programs,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&prop::collection::vec(step(), 1..60), |program| {
        let (kernel, tally) = &mut *kernel.lock().unwrap();
        run(&program, kernel, tally).map_err(TestCaseError::fail)
    });
    let (_, tally) = kernel.into_inner().unwrap();
    let Tally {
        programs,
        steps,
        waits,
        deadlocks,
        left,
    } = tally;
    println!("{programs} programs, {steps} steps, {waits} waits, {deadlocks} deadlocks");
    println!("left before their end: {left:?}");
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let left: u64 = left.values().sum();
    assert!(left * 4 < programs, "too many were left to mean anything");
}
