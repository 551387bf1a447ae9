//! Model check of the lock table: every order in which a few processes can lock, unlock and die. No
//! two processes hold conflicting locks, no wait lasts for ever or is for a process that only
//! waits, the first waiter is served first, and no request is refused without reason.

use std::collections::{BTreeMap, VecDeque};

use libos_ipc::file_locks::{Completion, LockLimits, LockTable, Owner, SetOutcome};
use libos_ipc::store::Arena;
use libos_ipc::wire::{Answer, FileLock, LockKind};
use libos_ipc::{Errno, Vmid};
use stateright::{Checker, Model, Property};

use crate::model::{Model as Field, Wish};
use crate::requests::write;
use crate::walk::Walk;

const LIMITS: LockLimits = LockLimits {
    locks: 12,
    files: 4,
    waiting: 4,
    open_files: 0,
};

/// The most processes and files of a family.
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
struct Seen {
    /// By process and file: whether the lock is a write lock.
    held: BTreeMap<(usize, usize), bool>,
    /// The waiting process, the file, and whether it wants a write lock, in order of arrival.
    waiting: Vec<(usize, usize, bool)>,
    /// A request was refused for a deadlock, and there was one.
    refused: bool,
    wrong: Option<&'static str>,
}

type State = Walk<Step, Seen>;

fn vmid(process: usize) -> Vmid {
    Vmid::new(process as u32 + 2).unwrap()
}

fn wish((process, file, write): (usize, usize, bool)) -> Wish {
    Wish {
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
fn expected_service_order(seen: &Seen) -> VecDeque<(usize, usize)> {
    let mut held = seen.held.clone();
    let mut waiting = seen.waiting.clone();
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

/// Does a step on the table, and records the result.
fn step(locks: &mut LockTable<'_>, seen: &mut Seen, step: Step) {
    let message = |kind, file: usize| FileLock {
        kind,
        wait: kind != LockKind::Unlock,
        path: [b"a", b"b", b"c"][file],
        ..write(1, 0, 0)
    };
    match step {
        Step::Lock {
            process,
            file,
            write,
        } => {
            let mut field = Field::default();
            for ((process, file), write) in &seen.held {
                field.set(&wish((*process, *file, *write)), Some(*write));
            }
            let waiting: Vec<Wish> = seen.waiting.iter().copied().map(wish).collect();
            let is_circle = field.is_deadlock(&wish((process, file, write)), &waiting);
            let kind = if write {
                LockKind::Write
            } else {
                LockKind::Read
            };
            match locks.set(vmid(process), 1, &message(kind, file)) {
                Ok(SetOutcome::Done) => {
                    seen.held.insert((process, file), write);
                }
                Ok(SetOutcome::Queued) => {
                    seen.waiting.push((process, file, write));
                    if is_circle {
                        seen.wrong = Some("a circle that was not refused");
                    }
                }
                Err(Errno::EDEADLK) => {
                    seen.refused = true;
                    if !is_circle {
                        seen.wrong = Some("refused for nothing");
                    }
                }
                Ok(SetOutcome::Delegated(_)) | Err(_) => seen.wrong = Some("something else"),
            }
        }
        Step::Unlock { process, file } => {
            let unlocked = locks.set(vmid(process), 0, &message(LockKind::Unlock, file));
            assert_eq!(unlocked, Ok(SetOutcome::Done));
            seen.held.remove(&(process, file));
        }
        Step::Die { process } => {
            locks.reclaim(vmid(process));
            seen.held.retain(|(of, _), _| *of != process);
            seen.waiting.retain(|(of, ..)| *of != process);
        }
    }
    let mut expected = expected_service_order(seen);
    while let Some(completion) = locks.take_completion() {
        let process = completion.from.get() as usize - 2;
        let at = seen.waiting.iter().position(|(of, ..)| *of == process);
        let (_, file, write) = seen.waiting.remove(at.expect("it waits"));
        // Waiters of different files have no order.
        let next = expected.iter().position(|(_, of)| *of == file);
        if next.and_then(|next| expected.remove(next)) != Some((process, file)) {
            seen.wrong = Some("another order than that of arrival");
        }
        if result_of(&completion).is_ok() {
            seen.held.insert((process, file), write);
        } else {
            seen.wrong = Some("an error for one that waited");
        }
    }
    if !expected.is_empty() {
        seen.wrong = Some("a wait for nobody");
    }
    // Each holder of a write lock gets a fencing number of this step, and nobody else does: so each is higher than those of
    // the holders before.
    for (process, file) in
        (0..PROCESSES).flat_map(|process| (0..FILES).map(move |file| (process, file)))
    {
        let holds = seen.held.get(&(process, file)) == Some(&true);
        if locks.has_write_lock(vmid(process), &message(LockKind::Write, file)) != holds {
            seen.wrong = Some(
                "a fencing number for one that does not hold the lock, or none for one that does",
            );
        }
    }
    if !locks.check_invariants() {
        seen.wrong = Some("an invariant of the table is broken");
    }
}

/// Replays the steps on a new table, and calls `then` with it.
fn replay<T>(steps: &[Step], then: impl FnOnce(&mut LockTable<'_>, Seen) -> T) -> T {
    let mut memory = Box::new_uninit_slice(LockTable::bytes(&LIMITS));
    let mut locks = LockTable::new(&mut Arena::new(&mut memory), &LIMITS).unwrap();
    let mut seen = Seen::default();
    for one in steps {
        seen.refused = false;
        step(&mut locks, &mut seen, *one);
    }
    then(&mut locks, seen)
}

fn seen_after(steps: &[Step]) -> Seen {
    replay(steps, |_, seen| seen)
}

/// Returns true if every waiter is served when the others release all their locks, again and again.
fn all_are_served(state: &State) -> bool {
    replay(&state.steps, |locks, mut seen| {
        while !seen.waiting.is_empty() {
            let free: Vec<(usize, usize)> = seen
                .held
                .keys()
                .copied()
                .filter(|(process, _)| !seen.waiting.iter().any(|(of, ..)| of == process))
                .collect();
            if free.is_empty() {
                return false;
            }
            for (process, file) in free {
                step(locks, &mut seen, Step::Unlock { process, file });
            }
        }
        seen.wrong.is_none()
    })
}

impl Model for Family {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::start(seen_after)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        for process in 0..self.processes {
            actions.push(Step::Die { process });
            if state.seen.waiting.iter().any(|(of, ..)| *of == process) {
                continue;
            }
            for file in 0..self.files {
                let held = state.seen.held.get(&(process, file));
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
        Some(state.and(action, seen_after))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nobody has what another has", |_, state: &State| {
                state.seen.held.iter().all(|((process, file), write)| {
                    !state.seen.held.iter().any(|((other, of), theirs)| {
                        other != process && of == file && (*write || *theirs)
                    })
                })
            }),
            Property::always("nobody waits for ever", |_, state: &State| {
                all_are_served(state)
            }),
            Property::always("all answers are right", |_, state: &State| {
                state.seen.wrong.is_none()
            }),
            Property::sometimes("a circle is refused", |_, state: &State| state.seen.refused),
            Property::sometimes("all but one wait", |family: &Family, state: &State| {
                state.seen.waiting.len() + 1 == family.processes
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
