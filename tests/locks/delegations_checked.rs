//! Model check of delegations: every order in which a file can be delegated, used, recalled,
//! returned and abandoned, with the leader's table, the members' tables and the messages in transit
//! between them.

mod state;
mod system;

use libos_ipc::member::Decision;
use libos_ipc::wire::LockKind;
use stateright::{Checker, Model, Property};

use state::{Activity, Observed, State, Step};
use system::{System, lock, replay, vmid};

struct Family {
    members: usize,
    /// The number of locks that each member requests.
    times: usize,
    /// The members ask for fencing numbers. They use the file in turn then: they wait for write locks, and none dies.
    has_numbers: bool,
}

fn steps_of(observed: &Observed, steps: &mut Vec<Step>) {
    for member in 0..observed.activities.len() {
        if observed.activities[member] == Activity::Dead {
            continue;
        }
        if !observed.to_leader[member].is_empty() {
            steps.push(Step::Deliver { member });
        }
        if !observed.from_leader[member].is_empty() {
            steps.push(Step::Receive { member });
        }
        if observed.undelivered[member].is_some() {
            steps.push(Step::Wake { member });
        }
        if matches!(observed.activities[member], Activity::Holding { .. }) {
            steps.push(Step::Unlock { member });
        }
    }
}

/// Returns true if each member could get the delegation again, or holds it.
fn no_slot_is_lost(mut system: System<'_>) -> bool {
    system
        .members
        .iter_mut()
        .enumerate()
        .filter(|(member, _)| system.observed.activities[*member] != Activity::Dead)
        .all(|(member, table)| {
            let decision = table.set(vmid(member), &lock(LockKind::Read, false));
            decision != Decision::Forward
        })
}

/// Returns true if every request is granted once all messages are delivered and all locks are
/// released.
fn all_are_served(family: &Family, state: &State) -> bool {
    let at_last = state.finish(steps_of, |steps| observed_after(family, steps));
    let is_idle = |at: &Activity| matches!(at, Activity::Idle | Activity::Dead);
    let is_quiet =
        at_last.observed.violation.is_none() && at_last.observed.activities.iter().all(is_idle);
    is_quiet && replay(family, &at_last.steps, no_slot_is_lost)
}

fn observed_after(family: &Family, steps: &[Step]) -> Observed {
    replay(family, steps, |mut system| system.observe())
}

impl Model for Family {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::start(|steps| observed_after(self, steps))]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        let observed = &state.observed;
        steps_of(observed, actions);
        for member in 0..self.members {
            if observed.activities[member] != Activity::Dead && !self.has_numbers {
                actions.push(Step::Die { member });
            }
            if observed.delegations[member].is_some() {
                actions.push(Step::Return { member });
            }
            let without_number = Activity::Holding {
                write: true,
                has_number: false,
            };
            if observed.activities[member] == without_number && self.has_numbers {
                actions.push(Step::Number { member });
            }
            if observed.activities[member] == Activity::Idle && observed.requests_left[member] > 0 {
                // The members are alike, so it is enough for one of them.
                if self.has_numbers
                    && member == 0
                    && observed.sole_user.is_none()
                    && observed.is_quiet()
                {
                    actions.push(Step::UseAlone { member });
                }
                let locks = [(true, true), (false, true), (true, false)];
                let count = if self.has_numbers { 1 } else { locks.len() };
                for (write, wait) in locks.into_iter().take(count) {
                    actions.push(Step::Lock {
                        member,
                        write,
                        wait,
                    });
                }
            }
        }
    }

    fn next_state(&self, state: &State, action: Step) -> Option<State> {
        Some(state.then(action, |steps| observed_after(self, steps)))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no two hold conflicting locks", |_, state: &State| {
                let held: Vec<bool> = state
                    .observed
                    .activities
                    .iter()
                    .filter_map(|at| match at {
                        Activity::Holding { write, .. } => Some(*write),
                        Activity::Numbering { .. } => Some(true),
                        _ => None,
                    })
                    .collect();
                held.len() < 2 || held.iter().all(|write| !write)
            }),
            Property::always("no request waits for ever", |family, state: &State| {
                all_are_served(family, state)
            }),
            Property::always("no check fails", |_, state: &State| {
                state.observed.violation.is_none()
            }),
            Property::sometimes("a file is delegated and locked", |_, state: &State| {
                let is_held = |at: &Activity| matches!(at, Activity::Holding { .. });
                state.observed.delegated == 1 && state.observed.activities.iter().any(is_held)
            }),
            Property::sometimes(
                "a file is delegated again, if the members ask for numbers",
                |family: &Family, state: &State| {
                    let is_again =
                        state.observed.sole_user.is_some() && state.observed.delegated == 1;
                    !family.has_numbers || is_again
                },
            ),
            Property::sometimes(
                "a recall crosses the return of the file",
                |_, state: &State| state.observed.has_recall_crossed,
            ),
        ]
    }
}

fn check(family: Family) {
    let (members, times) = (family.members, family.times);
    let checker = family.checker().threads(2).spawn_bfs().join();
    println!(
        "{members} members, {times} locks each: {} states",
        checker.unique_state_count()
    );
    checker.assert_properties();
}

#[test]
fn files_that_two_members_lock_twice_are_delegated_right_in_every_order() {
    check(Family {
        members: 2,
        times: 2,
        has_numbers: false,
    });
}

#[test]
fn fencing_numbers_of_two_members_rise_also_with_a_delegation_and_after_it() {
    check(Family {
        members: 2,
        times: 2,
        has_numbers: true,
    });
}

#[test]
#[ignore = "takes minutes: cargo test --release --test locks three_members -- --ignored"]
fn files_that_three_members_lock_once_are_delegated_right_in_every_order() {
    check(Family {
        members: 3,
        times: 1,
        has_numbers: false,
    });
}
