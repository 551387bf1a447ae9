//! Every order in which clients and the server can hear of each other, and every moment at which a
//! client can die: nobody has what excludes another, no change is lost, nobody waits for ever.

mod state;
mod world;

use stateright::{Checker, Model, Property};

use state::{At, Seen, State, Step};
use world::seen_after;

struct Family {
    clients: usize,
    handles: usize,
    /// How often each client uses a handle.
    times: usize,
    /// Clients also give up waiting, and close their handles.
    can_leave: bool,
    /// The server is the one of the C implementation. Then no client dies, for that would end it.
    in_c: bool,
}

/// What has to happen sooner or later.
fn due(seen: &Seen, steps: &mut Vec<Step>) {
    for who in 0..seen.at.len() {
        if seen.at[who] == At::Dead {
            continue;
        }
        if !seen.up[who].is_empty() {
            steps.push(Step::Receive { who });
        }
        if seen.woken[who] {
            steps.push(Step::Wake { who });
        }
        if !seen.down[who].is_empty() {
            steps.push(Step::Deliver { who });
        }
        if matches!(seen.at[who], At::Uses { .. } | At::MustLetGo { .. }) {
            steps.push(Step::Give { who });
        }
    }
}

/// Whether everybody gets what it wants when all is heard and all let go.
fn all_are_served(family: &Family, state: &State) -> bool {
    let at_last = state.rest(due, |steps| seen_after(family, steps)).seen;
    let is_idle = |at: &At| matches!(at, At::Idle | At::Dead);
    at_last.wrong.is_none() && at_last.at.iter().all(is_idle)
}

impl Model for Family {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::start(|steps| seen_after(self, steps))]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        let seen = &state.seen;
        due(seen, actions);
        for who in 0..self.clients {
            match seen.at[who] {
                At::Dead => continue,
                At::Idle if seen.left[who] > 0 => {
                    for handle in 0..self.handles {
                        let (_, is_closed, _) = seen.has[who][handle];
                        if is_closed {
                            continue;
                        }
                        for write in [false, true] {
                            actions.push(Step::Acquire { who, handle, write });
                        }
                    }
                }
                At::Idle => {
                    for handle in 0..self.handles {
                        let (_, is_closed, _) = seen.has[who][handle];
                        if !is_closed && self.can_leave {
                            actions.push(Step::Close { who, handle });
                        }
                    }
                }
                At::Uses { write: false, .. } => actions.push(Step::Upgrade { who }),
                At::Wants { .. } | At::Upgrading { .. } if self.can_leave => {
                    actions.push(Step::GiveUp { who });
                }
                _ => {}
            }
            if !self.in_c {
                actions.push(Step::Die { who });
            }
        }
    }

    fn next_state(&self, state: &State, action: Step) -> Option<State> {
        Some(state.and(action, |steps| seen_after(self, steps)))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties: Vec<Property<Self>> = vec![
            Property::always("one changes, or many read", |family, state: &State| {
                (0..family.handles).all(|handle| {
                    let has = |wanted: i32| {
                        let count = state.seen.has.iter().filter(|of| of[handle].0 == wanted);
                        count.count()
                    };
                    let (readers, writers) = (has(2), has(3));
                    writers == 0 || writers == 1 && readers == 0
                })
            }),
            Property::always("nobody waits for ever", |family, state: &State| {
                all_are_served(family, state)
            }),
            Property::always("nothing is wrong", |_, state: &State| {
                state.seen.wrong.is_none()
            }),
            Property::sometimes("two have changed it", |_, state: &State| {
                state.seen.version[0] >= 2
            }),
        ];
        if self.in_c {
            properties.push(Property::sometimes(
                "one can't go on to change it",
                |_, state: &State| state.seen.was_unsupported,
            ));
        } else {
            properties.extend([
                Property::sometimes("one is told to let go", |_, state: &State| {
                    state.seen.was_told_to_let_go
                }),
                Property::sometimes("one hears of a death", |_, state: &State| {
                    state.seen.heard_of_death
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
fn two_clients_use_a_handle_twice() {
    check(Family {
        clients: 2,
        handles: 1,
        times: 2,
        can_leave: true,
        in_c: false,
    });
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sync clients -- --ignored"]
fn three_clients_use_a_handle_once() {
    check(Family {
        clients: 3,
        handles: 1,
        times: 1,
        can_leave: true,
        in_c: false,
    });
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sync clients -- --ignored"]
fn three_clients_use_two_handles_once() {
    check(Family {
        clients: 3,
        handles: 2,
        times: 1,
        can_leave: false,
        in_c: false,
    });
}

#[test]
fn two_clients_of_a_server_in_c_use_a_handle_twice() {
    check(Family {
        clients: 2,
        handles: 1,
        times: 2,
        can_leave: true,
        in_c: true,
    });
}

#[test]
fn three_clients_of_a_server_in_c_use_a_handle_once() {
    check(Family {
        clients: 3,
        handles: 1,
        times: 1,
        can_leave: false,
        in_c: true,
    });
}
