//! Model check of the lock table: every order in which a few processes can lock, unlock and die. No
//! two processes hold conflicting locks, no wait lasts for ever or is for a process that only
//! waits, the first waiter is served first, and no request is refused without reason.

use std::collections::{BTreeMap, VecDeque};

use libos_ipc::file_locks::{Completion, LockLimits, LockTable, Owner, SetOutcome};
use libos_ipc::store::Arena;
use libos_ipc::wire::{Answer, FileLock, LockKind};
use libos_ipc::{Errno, Vmid};
use stateright::{Checker, Model, Property};

use crate::model::{Model as LockModel, WantedLock};
use crate::requests::write;
use crate::walk::Walk;

const LIMITS: LockLimits = LockLimits {
    locks: 12,
    files: 4,
    waiting: 4,
    open_files: 0,
};

/// The greatest numbers of processes and files of a family.
const PROCESSES: usize = 4;
const FILES: usize = 3;

/// A family of processes, and the number of files that they lock.
struct Family {
    processes: usize,
    files: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Lock {
        process: usize,
        file: usize,
        write: bool,
    },
    Unlock {
        process: usize,
        file: usize,
    },
    Die {
        process: usize,
    },
}

/// The observable state of the table after some steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Observed {
    /// By process and file: whether the lock is a write lock.
    held: BTreeMap<(usize, usize), bool>,
    /// The waiting process, the file, and whether it wants a write lock, in order of arrival.
    waiting: Vec<(usize, usize, bool)>,
    /// A request was refused for a deadlock, and there was one.
    was_refused: bool,
    violation: Option<&'static str>,
}

type State = Walk<Step, Observed>;

fn vmid(process: usize) -> Vmid {
    Vmid::new(process as u32 + 2).unwrap()
}

fn wanted((process, file, write): (usize, usize, bool)) -> WantedLock {
    WantedLock {
        owner: Owner::Process {
            vmid: vmid(process),
            pid: 1,
        },
        file,
        start: 0,
        end: 1,
        write,
    }
}

/// Returns the waiting processes that no held lock blocks, and their files, in the order in which
/// they have to be served.
fn expected_service_order(observed: &Observed) -> VecDeque<(usize, usize)> {
    let mut held = observed.held.clone();
    let mut waiting = observed.waiting.clone();
    let mut served = VecDeque::new();
    loop {
        let is_free = |(process, file, write): &(usize, usize, bool)| {
            !held
                .iter()
                .any(|((other, of), theirs)| other != process && of == file && (*write || *theirs))
        };
        let Some(at) = waiting.iter().position(is_free) else {
            return served;
        };
        let (process, file, write) = waiting.remove(at);
        held.insert((process, file), write);
        served.push_back((process, file));
    }
}

/// Returns the message by which a process locks or unlocks a file.
fn message(kind: LockKind, file: usize) -> FileLock<'static> {
    FileLock {
        kind,
        wait: kind != LockKind::Unlock,
        path: [b"a", b"b", b"c"][file],
        ..write(1, 0, 0)
    }
}

/// Requests a lock, and checks that it is refused exactly for a deadlock.
fn request(
    locks: &mut LockTable<'_>,
    observed: &mut Observed,
    (process, file, write): (usize, usize, bool),
) {
    let mut model = LockModel::default();
    for ((process, file), write) in &observed.held {
        model.set(&wanted((*process, *file, *write)), Some(*write));
    }
    let waiting: Vec<WantedLock> = observed.waiting.iter().copied().map(wanted).collect();
    let is_cycle = model.is_deadlock(&wanted((process, file, write)), &waiting);
    let kind = if write {
        LockKind::Write
    } else {
        LockKind::Read
    };
    match locks.set(vmid(process), 1, &message(kind, file)) {
        Ok(SetOutcome::Done) => {
            observed.held.insert((process, file), write);
        }
        Ok(SetOutcome::Queued) => {
            observed.waiting.push((process, file, write));
            if is_cycle {
                observed.violation = Some("a cycle that was not refused");
            }
        }
        Err(Errno::EDEADLK) => {
            observed.was_refused = true;
            if !is_cycle {
                observed.violation = Some("refused for nothing");
            }
        }
        Ok(SetOutcome::Delegated(_)) | Err(_) => observed.violation = Some("something else"),
    }
}

/// Checks that the requests are granted that no lock blocks any more, in the order of their arrival.
fn check_completions(locks: &mut LockTable<'_>, observed: &mut Observed) {
    let mut expected = expected_service_order(observed);
    while let Some(completion) = locks.take_completion() {
        let process = completion.from.get() as usize - 2;
        let at = observed.waiting.iter().position(|(of, ..)| *of == process);
        let (_, file, write) = observed.waiting.remove(at.expect("it waits"));
        // Waiters of different files have no order.
        let next = expected.iter().position(|(_, of)| *of == file);
        if next.and_then(|next| expected.remove(next)) != Some((process, file)) {
            observed.violation = Some("another order than that of arrival");
        }
        if result_of(&completion).is_ok() {
            observed.held.insert((process, file), write);
        } else {
            observed.violation = Some("an error for one that waited");
        }
    }
    if !expected.is_empty() {
        observed.violation = Some("a wait for a lock that no process holds");
    }
}

/// Checks that each holder of a write lock would get a fencing number of this step, and no other process: so each number
/// is higher than those of the holders before.
fn check_fencing_numbers(locks: &LockTable<'_>, observed: &mut Observed) {
    for (process, file) in
        (0..PROCESSES).flat_map(|process| (0..FILES).map(move |file| (process, file)))
    {
        let holds = observed.held.get(&(process, file)) == Some(&true);
        if locks.has_write_lock(vmid(process), &message(LockKind::Write, file)) != holds {
            observed.violation = Some(
                "a fencing number for one that does not hold the lock, or none for one that does",
            );
        }
    }
}

/// Does a step on the table, and records the result.
fn step(locks: &mut LockTable<'_>, observed: &mut Observed, step: Step) {
    match step {
        Step::Lock {
            process,
            file,
            write,
        } => request(locks, observed, (process, file, write)),
        Step::Unlock { process, file } => {
            let unlocked = locks.set(vmid(process), 0, &message(LockKind::Unlock, file));
            assert_eq!(unlocked, Ok(SetOutcome::Done));
            observed.held.remove(&(process, file));
        }
        Step::Die { process } => {
            locks.reclaim(vmid(process));
            observed.held.retain(|(of, _), _| *of != process);
            observed.waiting.retain(|(of, ..)| *of != process);
        }
    }
    check_completions(locks, observed);
    check_fencing_numbers(locks, observed);
    if !locks.check_invariants() {
        observed.violation = Some("an invariant of the table is broken");
    }
}

/// Replays the steps on a new table, and calls `then` with it.
fn replay<T>(steps: &[Step], then: impl FnOnce(&mut LockTable<'_>, Observed) -> T) -> T {
    let mut memory = Box::new_uninit_slice(LockTable::bytes(&LIMITS));
    let mut locks = LockTable::new(&mut Arena::new(&mut memory), &LIMITS).unwrap();
    let mut observed = Observed::default();
    for one in steps {
        observed.was_refused = false;
        step(&mut locks, &mut observed, *one);
    }
    then(&mut locks, observed)
}

fn observed_after(steps: &[Step]) -> Observed {
    replay(steps, |_, observed| observed)
}

/// Returns true if every waiter is served when the others release all their locks, again and again.
fn all_are_served(state: &State) -> bool {
    replay(&state.steps, |locks, mut observed| {
        while !observed.waiting.is_empty() {
            let free: Vec<(usize, usize)> = observed
                .held
                .keys()
                .copied()
                .filter(|(process, _)| !observed.waiting.iter().any(|(of, ..)| of == process))
                .collect();
            if free.is_empty() {
                return false;
            }
            for (process, file) in free {
                step(locks, &mut observed, Step::Unlock { process, file });
            }
        }
        observed.violation.is_none()
    })
}

impl Model for Family {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::start(observed_after)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        for process in 0..self.processes {
            actions.push(Step::Die { process });
            if state.observed.waiting.iter().any(|(of, ..)| *of == process) {
                continue;
            }
            for file in 0..self.files {
                let held = state.observed.held.get(&(process, file));
                for write in [false, true] {
                    if held != Some(&write) {
                        actions.push(Step::Lock {
                            process,
                            file,
                            write,
                        });
                    }
                }
                if held.is_some() {
                    actions.push(Step::Unlock { process, file });
                }
            }
        }
    }

    fn next_state(&self, state: &State, action: Step) -> Option<State> {
        Some(state.then(action, observed_after))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no two hold conflicting locks", |_, state: &State| {
                state.observed.held.iter().all(|((process, file), write)| {
                    !state.observed.held.iter().any(|((other, of), theirs)| {
                        other != process && of == file && (*write || *theirs)
                    })
                })
            }),
            Property::always("no request waits for ever", |_, state: &State| {
                all_are_served(state)
            }),
            Property::always("all answers are right", |_, state: &State| {
                state.observed.violation.is_none()
            }),
            Property::sometimes("a cycle is refused", |_, state: &State| {
                state.observed.was_refused
            }),
            Property::sometimes("all but one wait", |family: &Family, state: &State| {
                state.observed.waiting.len() + 1 == family.processes
            }),
        ]
    }
}

fn check(family: Family) {
    let (processes, files) = (family.processes, family.files);
    let checker = family.checker().threads(2).spawn_bfs().join();
    println!(
        "{processes} processes, {files} files: {} states",
        checker.unique_state_count()
    );
    checker.assert_properties();
}

#[test]
fn locks_of_three_processes_on_two_files_are_right_in_every_order() {
    check(Family {
        processes: 3,
        files: 2,
    });
}

#[test]
fn locks_of_four_processes_on_one_file_are_right_in_every_order() {
    check(Family {
        processes: 4,
        files: 1,
    });
}

#[test]
#[ignore = "takes a minute: cargo test --release --test locks three_files -- --ignored"]
fn locks_of_three_processes_on_three_files_are_right_in_every_order() {
    check(Family {
        processes: 3,
        files: 3,
    });
}

fn result_of(completion: &Completion) -> Result<u32, Errno> {
    match completion.answer {
        Answer::Status(result) => result,
        other => panic!("{other:?}"),
    }
}
