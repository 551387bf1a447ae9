//! Model check of delegations: every order in which a file can be delegated, used, recalled,
//! returned and abandoned, with the leader's table, the members' tables and the messages in transit
//! between them.

mod state;
mod world;

use libos_ipc::member::Decision;
use libos_ipc::wire::LockKind;
use stateright::{Checker, Model, Property};

use state::{At, Seen, State, Step};
use world::{World, lock, replay, vmid};

struct Family {
    members: usize,
    /// The number of locks that each member requests.
    times: usize,
    /// The members ask for fencing numbers. They use the file in turn then: they wait for write locks, and none dies.
    has_numbers: bool,
}

fn steps_of(seen: &Seen, steps: &mut Vec<Step>) {
    for who in 0..seen.at.len() {
        if seen.at[who] == At::Dead {
            continue;
        }
        if !seen.up[who].is_empty() {
            steps.push(Step::Deliver { who });
        }
        if !seen.down[who].is_empty() {
            steps.push(Step::Receive { who });
        }
        if seen.unseen[who].is_some() {
            steps.push(Step::Wake { who });
        }
        if matches!(seen.at[who], At::Holding { .. }) {
            steps.push(Step::Unlock { who });
        }
    }
}

/// Returns true if each member could get the delegation again, or holds it.
fn no_slot_is_lost(mut world: World<'_>) -> bool {
    world
        .members
        .iter_mut()
        .enumerate()
        .filter(|(who, _)| world.seen.at[*who] != At::Dead)
        .all(|(who, member)| {
            let decision = member.set(vmid(who), &lock(LockKind::Read, false));
            decision != Decision::Forward
        })
}

/// Returns true if every request is granted once all messages are delivered and all locks are
/// released.
fn all_are_served(family: &Family, state: &State) -> bool {
    let at_last = state.rest(steps_of, |steps| seen_after(family, steps));
    let is_idle = |at: &At| matches!(at, At::Idle | At::Dead);
    let is_quiet = at_last.seen.wrong.is_none() && at_last.seen.at.iter().all(is_idle);
    is_quiet && replay(family, &at_last.steps, no_slot_is_lost)
}

fn seen_after(family: &Family, steps: &[Step]) -> Seen {
    replay(family, steps, |mut world| world.observe())
}

impl Model for Family {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::start(|steps| seen_after(self, steps))]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        let seen = &state.seen;
        steps_of(seen, actions);
        for who in 0..self.members {
            if seen.at[who] != At::Dead && !self.has_numbers {
                actions.push(Step::Die { who });
            }
            if seen.here[who].is_some() {
                actions.push(Step::Return { who });
            }
            let without_number = At::Holding {
                write: true,
                has_number: false,
            };
            if seen.at[who] == without_number && self.has_numbers {
                actions.push(Step::Number { who });
            }
            if seen.at[who] == At::Idle && seen.left[who] > 0 {
                // The members are alike, so it is enough for one of them.
                if self.has_numbers && who == 0 && seen.alone.is_none() && seen.is_quiet() {
                    actions.push(Step::UseAlone { who });
                }
                let locks = [(true, true), (false, true), (true, false)];
                let count = if self.has_numbers { 1 } else { locks.len() };
                for (write, wait) in locks.into_iter().take(count) {
                    actions.push(Step::Lock { who, write, wait });
                }
            }
        }
    }

    fn next_state(&self, state: &State, action: Step) -> Option<State> {
        Some(state.and(action, |steps| seen_after(self, steps)))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nobody has what another has", |_, state: &State| {
                let held: Vec<bool> = state
                    .seen
                    .at
                    .iter()
                    .filter_map(|at| match at {
                        At::Holding { write, .. } => Some(*write),
                        At::Numbering { .. } => Some(true),
                        _ => None,
                    })
                    .collect();
                held.len() < 2 || held.iter().all(|write| !write)
            }),
            Property::always("nobody waits for ever", |family, state: &State| {
                all_are_served(family, state)
            }),
            Property::always("nothing is wrong", |_, state: &State| {
                state.seen.wrong.is_none()
            }),
            Property::sometimes("a file is delegated and locked", |_, state: &State| {
                let is_held = |at: &At| matches!(at, At::Holding { .. });
                state.seen.delegated == 1 && state.seen.at.iter().any(is_held)
            }),
            Property::sometimes(
                "a file is delegated again, if the members ask for numbers",
                |family: &Family, state: &State| {
                    let is_again = state.seen.alone.is_some() && state.seen.delegated == 1;
                    !family.has_numbers || is_again
                },
            ),
            Property::sometimes("a recall finds nothing there", |_, state: &State| {
                state.seen.crossed
            }),
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
