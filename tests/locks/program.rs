//! Random programs of several processes, run on the table and on the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use libos_ipc::Vmid;
use libos_ipc::leader::locks::{LockLimits, Locks, Owner, Set};
use libos_ipc::store::Arena;
use libos_ipc::wire::{FileLock, LockFamily, LockKind};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tempfile::TempDir;

use crate::kernel::{Do, FILES, HANDLES, Order, Outcome, Process};
use crate::model::{BYTES, Model, Wish};

const PROCESSES: usize = 4;
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
        2 => Just(Do::PosixGet),
        1 => Just(Do::OfdGet),
        1 => Just(Do::Close),
    ];
    let kind = prop_oneof![3 => Just(0_u8), 5 => Just(1), 3 => Just(2)];
    let place = (0..FILES as u8, 0..HANDLES as u8);
    let range = (0..10_u8, 0..5_u8);
    let lock = (0..PROCESSES, what, kind, place, range, prop::bool::weighted(0.75)).prop_map(
        |(process, what, kind, (file, handle), (start, length), wait)| {
            let order = Order {
                what,
                file,
                handle,
                kind: if matches!(what, Do::PosixGet | Do::OfdGet) {
                    kind.min(1)
                } else {
                    kind
                },
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
            let before = served.len();
            for process in self.waiting.clone() {
                if let Some(outcome) = self.processes[process].outcome() {
                    self.waiting.remove(&process);
                    served.insert(process, outcome.errno);
                }
            }
            // One that was served may have let another go on.
            if served.len() == before {
                return served;
            }
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

/// The table under test.
struct Table<'m> {
    locks: Locks<'m>,
    model: Model,
    /// By process: what it waits for.
    waiting: BTreeMap<usize, Wish>,
    /// How often each open file was opened anew.
    opened: BTreeMap<(usize, u8, u8), u64>,
    lives: [u32; PROCESSES],
    seq: u64,
}

fn vmid(process: usize) -> Vmid {
    Vmid::new(process as u32 + 2).unwrap()
}

impl Table<'_> {
    fn handle(&self, process: usize, order: &Order) -> u64 {
        let opened = self.opened.get(&(process, order.file, order.handle));
        (opened.copied().unwrap_or(0) << 32)
            | (u64::from(self.lives[process]) << 24)
            | (process as u64) << 16
            | u64::from(order.file) << 8
            | u64::from(order.handle)
    }

    fn message<'a>(&self, process: usize, order: &Order, path: &'a [u8]) -> FileLock<'a> {
        let start = u64::from(order.start);
        FileLock {
            family: match order.what {
                Do::Ofd | Do::OfdGet => LockFamily::Ofd,
                Do::Flock => LockFamily::Flock,
                _ => LockFamily::Posix,
            },
            kind: LockKind::ALL[usize::from(order.kind)],
            start,
            end: match order.length {
                0 => u64::MAX,
                length => start + u64::from(length) - 1,
            },
            pid: 100 + process as u32,
            handle: self.handle(process, order),
            wait: order.wait,
            path,
        }
    }

    fn wish(process: usize, order: &Order, lock: &FileLock<'_>) -> Wish {
        let whole = order.what == Do::Flock;
        let start = usize::from(order.start);
        let end = match usize::from(order.length) {
            0 => BYTES,
            length => start + length,
        };
        Wish {
            owner: Owner::of(vmid(process), lock),
            file: order.file.into(),
            start: if whole { 0 } else { start },
            end: if whole { BYTES } else { end },
            write: order.kind == 1,
        }
    }

    /// What the table makes of it; `None` if it waits.
    fn obey(&mut self, process: usize, order: &Order) -> Option<Outcome> {
        let path = [b'f', order.file];
        let lock = self.message(process, order, &path);
        let from = vmid(process);
        let mut outcome = Outcome {
            errno: 0,
            lock: None,
        };
        match order.what {
            Do::PosixGet | Do::OfdGet => {
                let found = self.locks.get(from, &lock).unwrap();
                outcome.lock = found.map(|held| {
                    let length = match held.end {
                        u64::MAX => 0,
                        end => u8::try_from(end - held.start + 1).unwrap(),
                    };
                    let start = u8::try_from(held.start).unwrap();
                    (u8::from(held.write), start, length)
                });
            }
            Do::Close => {
                // The process's own locks go when it closes any of the file's descriptors.
                let all = FileLock {
                    family: LockFamily::Posix,
                    kind: LockKind::Unlock,
                    start: 0,
                    end: u64::MAX,
                    ..lock
                };
                assert_eq!(self.locks.set(from, 0, &all), Ok(Set::Done));
                self.locks.close_handle(from, lock.handle);
                let own = Owner::of(from, &all);
                self.model.forget(|file, owner| {
                    let is_handles = matches!(owner, Owner::Open(handle) | Owner::Flock(handle)
                        if handle == lock.handle);
                    is_handles || owner == own && file == usize::from(order.file)
                });
                let key = (process, order.file, order.handle);
                *self.opened.entry(key).or_default() += 1;
            }
            _ => {
                self.seq += 1;
                let wish = Table::wish(process, order, &lock);
                let set = self.locks.set(from, self.seq, &lock);
                // A flock that is changed is dropped first, whatever comes of it; else it stays.
                let kind = (order.kind < 2).then_some(wish.write);
                match set {
                    Ok(Set::Done) => self.model.set(&wish, kind),
                    _ if order.what == Do::Flock => self.model.set(&wish, None),
                    _ => {}
                }
                match set {
                    Ok(Set::Done) => {}
                    Ok(Set::Waits) => {
                        self.waiting.insert(process, wish);
                        return None;
                    }
                    Err(errno) => outcome.errno = errno,
                }
            }
        }
        Some(outcome)
    }

    fn served(&mut self) -> BTreeMap<usize, i32> {
        let mut served = BTreeMap::new();
        while let Some(decided) = self.locks.next_decided() {
            let process = decided.from.get() as usize - 2;
            let wish = self.waiting.remove(&process).expect("it waited");
            if decided.status == 0 {
                assert!(self.model.in_the_way(&wish).is_empty(), "{wish:?}");
                self.model.set(&wish, Some(wish.write));
            }
            served.insert(process, -decided.status);
        }
        served
    }

    fn die(&mut self, process: usize) {
        self.locks.left(vmid(process));
        self.waiting.remove(&process);
        let life = self.lives[process];
        self.lives[process] += 1;
        self.model.forget(|_, owner| match owner {
            Owner::Process { vmid: of, .. } => of == vmid(process),
            Owner::Open(handle) | Owner::Flock(handle) => {
                handle >> 16 & 0xFF == process as u64 && handle >> 24 & 0xFF == u64::from(life)
            }
        });
    }
}

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

/// Runs a program on both. An error says where they differ.
fn run(program: &[Step], kernel: &mut Kernel, tally: &mut Tally) -> Result<(), String> {
    let mut memory = vec![0; Locks::bytes(&LIMITS)];
    let locks = Locks::new(&mut Arena::new(&mut memory), &LIMITS).unwrap();
    let mut table = Table {
        locks,
        model: Model::default(),
        waiting: BTreeMap::new(),
        opened: BTreeMap::new(),
        lives: [0; PROCESSES],
        seq: 0,
    };
    kernel.reset();
    tally.programs += 1;
    for (at, step) in program.iter().enumerate() {
        let mut ours_first = None;
        let mut theirs_first = None;
        match step {
            Step::Lock(process, order) => {
                if table.waiting.contains_key(process) {
                    continue;
                }
                let lock = table.message(*process, order, b"");
                let wish = Table::wish(*process, order, &lock);
                let waiting: Vec<Wish> = table.waiting.values().copied().collect();
                let deadlock = table.model.is_deadlock(&wish, &waiting);
                let in_the_way = table.model.in_the_way(&wish);
                let ours = table.obey(*process, order);
                kernel.processes[*process].order(*order);
                let theirs = kernel.processes[*process].outcome();
                if theirs.is_none() {
                    kernel.waiting.insert(*process);
                }
                tally.waits += u64::from(ours.is_none());
                let is = |outcome: Option<Outcome>, errno| {
                    outcome.is_some_and(|outcome| outcome.errno == errno)
                };
                if is(ours, EDEADLK) {
                    tally.deadlocks += 1;
                    if !deadlock {
                        return Err(format!("step {at}: EDEADLK, and it is none"));
                    }
                    if theirs.is_none() {
                        *tally.left.entry("a deadlock the kernel does not see").or_default() += 1;
                        return Ok(());
                    }
                } else if ours.is_none() && deadlock && order.what == Do::Posix {
                    return Err(format!("step {at}: a wait for ever"));
                }
                if ours.is_none() && is(theirs, EDEADLK) {
                    *tally.left.entry("a deadlock only the kernel sees").or_default() += 1;
                    return Ok(());
                }
                let asks = matches!(order.what, Do::PosixGet | Do::OfdGet);
                let same = if asks {
                    // Any lock that is in the way will do.
                    let one_of_them = |found: (u8, u8, u8)| {
                        let end = match found.2 {
                            0 => BYTES,
                            length => usize::from(found.1) + usize::from(length),
                        };
                        !in_the_way.is_empty()
                            && usize::from(found.1) < wish.end
                            && end > wish.start
                            && (found.0 == 1 || wish.write)
                    };
                    let ours = ours.unwrap().lock;
                    ours.is_some() == theirs.unwrap().lock.is_some()
                        && ours.is_none_or(one_of_them)
                } else {
                    ours == theirs
                };
                if !same {
                    return Err(format!("step {at}: {ours:?}, the kernel: {theirs:?}"));
                }
                ours_first = ours;
                theirs_first = theirs;
            }
            Step::Interrupt(process) => {
                if table.waiting.contains_key(process) {
                    let seq = table.seq;
                    // Its own wait's number, found by trying: cancelling another's does nothing.
                    for seq in 1..=seq {
                        table.locks.cancel(vmid(*process), seq);
                    }
                    kernel.processes[*process].interrupt();
                }
            }
            Step::Die(process) => {
                table.die(*process);
                kernel.die(*process);
            }
        }
        let _ = (ours_first, theirs_first);
        tally.steps += 1;
        let (ours, theirs) = (table.served(), kernel.served());
        if !table.locks.is_sound() {
            return Err(format!("step {at}: the table is not sound"));
        }
        if ours != theirs {
            // Who is first of those who are in each other's way is not always the same: the kernel
            // has them try again as they run. Nobody may be left who could be served.
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
            if let Some((process, _)) = forgotten {
                return Err(format!(
                    "step {at}: process {process} waits for nothing; served were {ours:?}, by the kernel {theirs:?}"
                ));
            }
            let contested = table.waiting.len() + ours.len() > 1 || theirs.len() > 1;
            if !contested {
                return Err(format!("step {at}: {ours:?} were served, by the kernel {theirs:?}"));
            }
            *tally.left.entry("another order of those who wait").or_default() += 1;
            return Ok(());
        }
    }
    Ok(())
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
