//! The model checker stateright tries all orders of messages between clients and the server, and
//! all moments at which a client can die. It checks that no leases exclude each other, that no
//! change is lost, and that no client waits for ever.

mod state;
mod system;

use stateright::{Checker, Model, Property};

use state::{Activity, Observed, State, Step};
use system::observed_after;

struct Family {
    clients: usize,
    handles: usize,
    /// The number of times that each client uses a handle.
    times: usize,
    /// Clients also cancel their waits, and close their handles.
    can_leave: bool,
    /// Writers also ask for fencing numbers, and readers do not upgrade.
    has_numbers: bool,
    /// The server is the model of the C implementation. No client dies then, because that would end
    /// such a server.
    in_c: bool,
}

/// Adds the steps that happen sooner or later.
fn pending_steps(observed: &Observed, steps: &mut Vec<Step>) {
    for process in 0..observed.activity.len() {
        if observed.activity[process] == Activity::Dead {
            continue;
        }
        if !observed.to_server[process].is_empty() {
            steps.push(Step::Receive { process });
        }
        if observed.is_woken[process] {
            steps.push(Step::Wake { process });
        }
        if !observed.from_server[process].is_empty() {
            steps.push(Step::Deliver { process });
        }
        if matches!(
            observed.activity[process],
            Activity::Uses { .. } | Activity::MustRelease { .. }
        ) {
            steps.push(Step::Release { process });
        }
    }
}

/// Returns true if every request is granted once all messages are delivered and all clients release
/// their handles.
fn all_are_served(family: &Family, state: &State) -> bool {
    let at_last = state
        .finish(pending_steps, |steps| observed_after(family, steps))
        .observed;
    let is_idle = |at: &Activity| matches!(at, Activity::Idle | Activity::Dead);
    at_last.violation.is_none() && at_last.activity.iter().all(is_idle)
}

impl Model for Family {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::start(|steps| observed_after(self, steps))]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        let observed = &state.observed;
        pending_steps(observed, actions);
        for process in 0..self.clients {
            match observed.activity[process] {
                Activity::Dead => continue,
                Activity::Idle if observed.uses_left[process] > 0 => {
                    for handle in 0..self.handles {
                        let (_, is_closed, _) = observed.leases[process][handle];
                        if is_closed {
                            continue;
                        }
                        for write in [false, true] {
                            actions.push(Step::Acquire {
                                process,
                                handle,
                                write,
                            });
                        }
                    }
                }
                Activity::Idle => {
                    for handle in 0..self.handles {
                        let (_, is_closed, _) = observed.leases[process][handle];
                        if !is_closed && self.can_leave {
                            actions.push(Step::Close { process, handle });
                        }
                    }
                }
                Activity::Uses { write: false, .. } if !self.has_numbers => {
                    actions.push(Step::Upgrade { process });
                }
                Activity::Uses { write: true, .. }
                    if self.has_numbers && !observed.has_number[process] =>
                {
                    actions.push(Step::Number { process });
                }
                Activity::Wants { .. } | Activity::Upgrading { .. } if self.can_leave => {
                    actions.push(Step::GiveUp { process });
                }
                _ => {}
            }
            if !self.in_c {
                actions.push(Step::Die { process });
            }
        }
    }

    fn next_state(&self, state: &State, action: Step) -> Option<State> {
        Some(state.then(action, |steps| observed_after(self, steps)))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties: Vec<Property<Self>> = vec![
            Property::always(
                "one client changes the value, or several read it",
                |family, state: &State| {
                    (0..family.handles).all(|handle| {
                        let has = |wanted: i32| {
                            let count = state
                                .observed
                                .leases
                                .iter()
                                .filter(|of| of[handle].0 == wanted);
                            count.count()
                        };
                        let (readers, writers) = (has(2), has(3));
                        writers == 0 || writers == 1 && readers == 0
                    })
                },
            ),
            Property::always("no client waits for ever", |family, state: &State| {
                all_are_served(family, state)
            }),
            Property::always("no check fails", |_, state: &State| {
                state.observed.violation.is_none()
            }),
            Property::sometimes("two have changed it", |_, state: &State| {
                state.observed.version[0] >= 2
            }),
        ];
        if self.in_c {
            properties.push(Property::sometimes(
                "an upgrade is impossible",
                |_, state: &State| state.observed.was_unsupported,
            ));
        } else if self.has_numbers {
            properties.push(Property::sometimes(
                "the last use has a number",
                |_, state: &State| {
                    let is_last = state.observed.uses_left.iter().all(|left| *left == 0);
                    is_last && state.observed.has_number.contains(&true)
                },
            ));
        } else {
            properties.extend([
                Property::sometimes("an upgrade is refused", |_, state: &State| {
                    state.observed.upgrade_was_refused
                }),
                Property::sometimes("a death is reported", |_, state: &State| {
                    state.observed.death_was_reported
                }),
            ]);
        }
        properties
    }
}

fn check(family: Family) {
    let Family {
        clients,
        handles,
        times,
        ..
    } = family;
    let checker = family.checker().threads(2).spawn_bfs().join();
    println!(
        "{clients} clients, {handles} handles, {times} uses each: {} states",
        checker.unique_state_count()
    );
    checker.assert_properties();
}

#[test]
fn two_clients_that_use_a_handle_twice_exclude_each_other_and_end() {
    check(Family {
        clients: 2,
        handles: 1,
        times: 2,
        can_leave: true,
        has_numbers: false,
        in_c: false,
    });
}

#[test]
fn fencing_numbers_of_two_clients_that_use_a_handle_twice_rise() {
    check(Family {
        clients: 2,
        handles: 1,
        times: 2,
        can_leave: false,
        has_numbers: true,
        in_c: false,
    });
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sync clients -- --ignored"]
fn three_clients_that_use_a_handle_once_exclude_each_other_and_end() {
    check(Family {
        clients: 3,
        handles: 1,
        times: 1,
        can_leave: true,
        has_numbers: false,
        in_c: false,
    });
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sync clients -- --ignored"]
fn three_clients_that_use_two_handles_once_exclude_each_other_and_end() {
    check(Family {
        clients: 3,
        handles: 2,
        times: 1,
        can_leave: false,
        has_numbers: false,
        in_c: false,
    });
}

#[test]
fn two_clients_of_a_c_server_that_use_a_handle_twice_exclude_each_other_and_end() {
    check(Family {
        clients: 2,
        handles: 1,
        times: 2,
        can_leave: true,
        has_numbers: false,
        in_c: true,
    });
}

#[test]
fn three_clients_of_a_c_server_that_use_a_handle_once_exclude_each_other_and_end() {
    check(Family {
        clients: 3,
        handles: 1,
        times: 1,
        can_leave: false,
        has_numbers: false,
        in_c: true,
    });
}
