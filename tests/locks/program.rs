//! Random programs of several processes, run on the table and on the host's kernel, step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use libos_ipc::file_locks::{LockLimits, LockTable};
use libos_ipc::store::Arena;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tempfile::TempDir;

use crate::kernel::{FILES, Found, HANDLES, Operation, Order, Outcome, Process};
use crate::model::{Model, WantedLock};
use crate::table::{FIRST_PID, PROCESSES, Table};

const EINTR: i32 = 4;
const EDEADLK: i32 = 35;

pub(crate) const LIMITS: LockLimits = LockLimits {
    locks: 256,
    files: 4,
    waiting: 16,
    open_files: 64,
};

#[derive(Clone, Debug)]
enum Step {
    /// A process locks, unlocks or queries.
    Lock(usize, Order),
    /// The wait of a process is interrupted.
    Interrupt(usize),
    /// A process is killed.
    Die(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        14 => Just(Operation::Posix),
        5 => Just(Operation::Ofd),
        5 => Just(Operation::Flock),
        3 => Just(Operation::PosixGet),
        2 => Just(Operation::OfdGet),
        1 => Just(Operation::Close),
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

/// Returns a program of processes that contend for a few bytes of one file: several wait, and the holders take further
/// locks, also through other open files, release parts of their locks, or downgrade them.
fn contention() -> impl Strategy<Value = Vec<Step>> {
    let families = prop_oneof![
        2 => Just([Operation::Posix; 2]),
        2 => Just([Operation::Ofd; 2]),
        2 => Just([Operation::Flock; 2]),
        1 => Just([Operation::Posix, Operation::Ofd]),
    ];
    let lock = (
        0..PROCESSES,
        0..2_usize,
        0..HANDLES as u8,
        prop_oneof![4 => Just(0_u8), 3 => Just(1), 6 => Just(2)],
        prop_oneof![2 => (0..4_u8, 0..4_u8), 1 => Just((0, 0))],
        prop::bool::weighted(0.95),
    );
    let rare = prop_oneof![
        2 => (0..PROCESSES).prop_map(Step::Interrupt),
        1 => (0..PROCESSES).prop_map(Step::Die),
    ];
    (
        families,
        prop::collection::vec((lock, prop::option::weighted(0.05, rare)), 1..60),
    )
        .prop_map(|(families, locks)| {
            let step = |((process, family, handle, kind, (start, length), wait), rare)| {
                let what: Operation = families[family];
                let lock = Order {
                    what,
                    file: 0,
                    handle,
                    kind,
                    wait: wait && kind != 2,
                    start,
                    length,
                };
                Option::unwrap_or(rare, Step::Lock(process, lock))
            };
            locks.into_iter().map(step).collect()
        })
}

/// The kernel's processes, which are reused from one program to the next.
pub(crate) struct Kernel {
    directory: TempDir,
    pub(crate) processes: Vec<Process>,
    /// The processes that wait for a lock.
    pub(crate) waiting: BTreeSet<usize>,
}

impl Kernel {
    pub(crate) fn new() -> Kernel {
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

    /// Returns the processes whose wait has ended, and the results.
    pub(crate) fn served(&mut self) -> BTreeMap<usize, i32> {
        let mut served = BTreeMap::new();
        loop {
            let before = self.run_times();
            for process in self.waiting.clone() {
                if let Some(outcome) = self.processes[process].outcome() {
                    self.waiting.remove(&process);
                    served.insert(process, outcome.errno);
                }
            }
            // A process that only retried may have unblocked another that was found asleep just
            // before.
            if self.run_times() == before {
                return served;
            }
        }
    }

    fn run_times(&mut self) -> Vec<String> {
        let waiting = &self.waiting;
        let processes = self.processes.iter_mut().enumerate();
        processes
            .filter(|(number, _)| waiting.contains(number))
            .map(|(_, process)| process.run_time())
            .collect()
    }

    /// Ends a wait in the kernel that the table has refused as a deadlock.
    fn end_kernel_wait(
        &mut self,
        process: usize,
        statistics: &mut Statistics,
    ) -> Result<Flow, String> {
        statistics.only_table += 1;
        self.processes[process].interrupt();
        let ended = loop {
            if let Some(outcome) = self.processes[process].outcome() {
                break outcome.errno;
            }
        };
        self.waiting.remove(&process);
        if ended == EINTR {
            Ok(Flow::Continue)
        } else {
            Err(format!("{ended} where the table refused"))
        }
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

    pub(crate) fn die(&mut self, process: usize) {
        let new = Process::start(self.directory.path());
        std::mem::replace(&mut self.processes[process], new).kill();
        self.waiting.remove(&process);
    }
}

const RESET: Order = Order {
    what: Operation::Reset,
    file: 0,
    handle: 0,
    kind: 0,
    wait: false,
    start: 0,
    length: 0,
};

/// Statistics of the programs.
#[derive(Default)]
struct Statistics {
    programs: u64,
    steps: u64,
    waits: u64,
    deadlocks: u64,
    /// Waits that ended with the lock.
    served: u64,
    /// Steps after which three or more processes waited.
    contended: u64,
    /// Deadlocks that the kernel does not detect, because it follows one lock at a time, so that
    /// the wait is ended; and waits that only the kernel takes for a deadlock.
    only_table: u64,
    only_kernel: u64,
    /// Programs that were abandoned because the kernel and the table served waiters in different
    /// orders, both of them correct.
    stopped: u64,
}

/// How a program continues.
enum Flow {
    Continue,
    /// The kernel and the table served different waiters, both correctly: the rest can't be
    /// compared.
    Stop,
}

/// Runs a program on both. An error describes the first difference.
fn run(program: &[Step], kernel: &mut Kernel, statistics: &mut Statistics) -> Result<(), String> {
    let mut memory = Box::new_uninit_slice(LockTable::bytes(&LIMITS));
    let locks = LockTable::new(&mut Arena::new(&mut memory), &LIMITS).unwrap();
    let mut table = Table::new(locks);
    kernel.reset();
    statistics.programs += 1;
    for (at, step) in program.iter().enumerate() {
        statistics.steps += 1;
        table.model.now = statistics.steps;
        let flow = match step {
            Step::Lock(process, order) => {
                // A process that waits can't act: the next one that does not wait acts instead.
                let processes = (*process..PROCESSES).chain(0..*process);
                let mut able = processes.filter(|process| !table.waiting.contains_key(process));
                let Some(process) = able.next() else { continue };
                lock(process, order, &mut table, kernel, statistics)
            }
            Step::Interrupt(process) => {
                if table.waiting.contains_key(process) {
                    table.interrupt(*process);
                    kernel.processes[*process].interrupt();
                }
                Ok(Flow::Continue)
            }
            Step::Die(process) => {
                table.die(*process);
                kernel.die(*process);
                Ok(Flow::Continue)
            }
        };
        let flow = flow.and_then(|flow| match flow {
            Flow::Continue => compare_served(&mut table, kernel, statistics),
            Flow::Stop => Ok(Flow::Stop),
        });
        match flow.map_err(|what| format!("step {at}: {what}"))? {
            Flow::Continue => {}
            Flow::Stop => {
                statistics.stopped += 1;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Runs a lock operation of a process on both.
fn lock(
    process: usize,
    order: &Order,
    table: &mut Table<'_>,
    kernel: &mut Kernel,
    statistics: &mut Statistics,
) -> Result<Flow, String> {
    let message = table.message(process, order, b"");
    let wanted = Table::wanted(process, order, &message);
    let waiting: Vec<WantedLock> = table.waiting.values().copied().collect();
    let is_deadlock = table.model.is_deadlock(&wanted, &waiting);
    let ours = table.execute(process, order);
    kernel.processes[process].order(*order);
    let theirs = kernel.processes[process].outcome();
    if theirs.is_none() {
        kernel.waiting.insert(process);
    }
    statistics.waits += u64::from(ours.is_none());
    let reports_deadlock =
        |outcome: Option<Outcome>| outcome.is_some_and(|outcome| outcome.errno == EDEADLK);
    if reports_deadlock(ours) {
        statistics.deadlocks += 1;
        if !is_deadlock {
            return Err("EDEADLK, and it is none".to_owned());
        }
        if theirs.is_none() {
            return kernel.end_kernel_wait(process, statistics);
        }
    } else if ours.is_none() && is_deadlock && order.what == Operation::Posix {
        return Err("a wait for ever".to_owned());
    }
    if ours.is_none() && reports_deadlock(theirs) {
        statistics.only_kernel += 1;
        table.interrupt(process);
        let ended = table.served();
        let expected = BTreeMap::from([(process, EINTR)]);
        return if ended == expected {
            Ok(Flow::Continue)
        } else {
            Err(format!("{ended:?} where the table refused"))
        };
    }
    let same = match (order.what, ours, theirs) {
        (Operation::PosixGet | Operation::OfdGet, Some(ours), Some(theirs)) if order.kind < 2 => {
            let theirs = with_table_pids(theirs, kernel);
            ours.errno == theirs.errno && is_right_lock(ours.lock, theirs.lock, &wanted, table)
        }
        (Operation::OfdGet, Some(ours), Some(theirs)) => {
            let first = ours.lock.map(|found| usize::from(found.start));
            ours == with_table_pids(theirs, kernel) && first == table.model.first_own(&wanted)
        }
        (_, ours, theirs) => ours == theirs.map(|theirs| with_table_pids(theirs, kernel)),
    };
    if same {
        Ok(Flow::Continue)
    } else {
        Err(format!("{ours:?}, the kernel: {theirs:?}"))
    }
}

/// Returns the kernel's answer, with the pid that the table uses.
fn with_table_pids(mut theirs: Outcome, kernel: &Kernel) -> Outcome {
    if let Some(found) = &mut theirs.lock
        && let Some(at) = (FIRST_PID..)
            .zip(&kernel.processes)
            .find_map(|(pid, process)| (process.pid() == found.pid).then_some(pid))
    {
        found.pid = at.cast_signed();
    }
    theirs
}

/// Returns true if `F_GETLK` returned a correct lock: the kernel's, where the conflicting locks
/// have one owner or the first lock of each owner starts at the same byte; else one with the lowest
/// start. If two owners were served in one step, their order is unknown.
fn is_right_lock(
    ours: Option<Found>,
    theirs: Option<Found>,
    wanted: &WantedLock,
    table: &Table<'_>,
) -> bool {
    let lowest = table.model.lowest_conflicts(wanted);
    let Some(first) = lowest.iter().map(|lock| lock.start).min() else {
        return ours.is_none() && theirs.is_none();
    };
    let owners: BTreeSet<u64> = lowest.iter().map(|lock| lock.since).collect();
    let is_same_start = lowest.iter().all(|lock| lock.start == first);
    if is_same_start && owners.len() == lowest.len() {
        return ours == theirs;
    }
    let starts_at = |found: Found| {
        let start = usize::from(found.start);
        lowest.iter().any(|lock| lock.start == start)
    };
    ours.is_some_and(|ours| usize::from(ours.start) == first) && theirs.is_some_and(starts_at)
}

/// Compares the processes whose wait has ended. The same waiters have to be served if no two
/// waiters conflict with each other. Else the kernel's order depends on the lock on which each
/// waiter slept, and the table's is the order of arrival; but every process that still waits, on
/// either side, has to conflict with a held lock.
fn compare_served(
    table: &mut Table<'_>,
    kernel: &mut Kernel,
    statistics: &mut Statistics,
) -> Result<Flow, String> {
    let before = (table.model.clone(), table.waiting.clone());
    let (ours, theirs) = (table.served(), kernel.served());
    statistics.served += ours.values().filter(|errno| **errno == 0).count() as u64;
    statistics.contended += u64::from(table.waiting.len() > 2);
    if !table.locks.check_invariants() {
        return Err("an invariant of the table is broken".to_owned());
    }
    all_left_conflict(&table.model, &table.waiting).map_err(|what| format!("the table: {what}"))?;
    if ours == theirs {
        return Ok(Flow::Continue);
    }
    let different = || format!("served were {ours:?}, by the kernel {theirs:?}");
    let (mut held, mut waiting) = before;
    let is_contested = waiting
        .values()
        .any(|one| waiting.values().any(|other| one.conflicts_with(other)));
    if !is_contested {
        return Err(different());
    }
    for (process, errno) in &theirs {
        let wanted = waiting.remove(process).ok_or_else(different)?;
        if *errno == 0 {
            held.set(&wanted, Some(wanted.write));
        }
    }
    all_left_conflict(&held, &waiting).map_err(|what| format!("the kernel: {what}"))?;
    Ok(Flow::Stop)
}

fn all_left_conflict(held: &Model, waiting: &BTreeMap<usize, WantedLock>) -> Result<(), String> {
    match waiting
        .iter()
        .find(|(_, wanted)| held.conflicting_owners(wanted).is_empty())
    {
        Some((process, wanted)) => Err(format!("process {process} waits for nobody: {wanted:?}")),
        None => Ok(()),
    }
}

#[test]
fn random_programs_have_the_outcome_of_the_kernel() {
    let programs: u32 = std::env::var("LOCK_PROGRAMS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2_000);
    let kernel = Mutex::new((Kernel::new(), Statistics::default()));
    let config = Config {
        cases: programs,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..Config::default()
    };
    let program = prop_oneof![prop::collection::vec(any_step(), 1..60), contention()];
    let outcome = TestRunner::new(config).run(&program, |program| {
        let (kernel, statistics) = &mut *kernel.lock().unwrap();
        run(&program, kernel, statistics).map_err(TestCaseError::fail)
    });
    let (_, statistics) = kernel.into_inner().unwrap();
    let Statistics {
        programs,
        steps,
        waits,
        deadlocks,
        served,
        contended,
        only_table,
        only_kernel,
        stopped,
    } = statistics;
    println!("{programs} programs, {steps} steps, {waits} waits, {deadlocks} deadlocks");
    println!("{served} were served, {contended} times three or more waited");
    println!("deadlocks only of the table: {only_table}, only of the kernel: {only_kernel}");
    println!("stopped before their end, for another order of the waiters: {stopped}");
    if let Err(error) = outcome {
        panic!("{error}");
    }
    assert!(
        contended > programs,
        "too few waited to compare who is served"
    );
    assert!(
        stopped * 20 < programs,
        "too many were stopped to mean anything"
    );
}
