//! Model check of a succession: every order of the frames of a leader, its heir and two members, which ask for IDs, a
//! lock and a value, with the death of the leader at every place.
//!
//! The machines are the real ones: the tables of the leader and those of the heir, which loads an image and applies the
//! log; the frames that the heir keeps; the IDs, the client of the value and the kept frames of each process. What a
//! node does between them is in `system.rs` and the files beside it. A planted bug in that must be found: [`Bug`].

mod checks;
mod file;
mod frames;
mod leading;
mod process;
mod state;
mod succeeding;
mod system;

use stateright::{Checker, Model, Property};

use state::{HEIR, HoldState, LEADER, Observed, PROCESSES, Process, Resource, Stage, State, Step};
use system::observed_after;

/// A planted bug of a node that the check has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// The leader writes answers before its log.
    AnswerBeforeLog,
    /// The leader writes a message that it has queued and not logged.
    MessageBeforeLog,
    /// The leader does not log what its own process does.
    OwnCallsNotLogged,
    /// A member sends all again that is not proven to have arrived.
    TakenIgnored,
    /// A member does not keep one of its frames.
    KeptFrameLost,
    /// A member does not state how many messages it has received.
    ReceivedForgotten,
    /// The new leader sends nothing again.
    NothingSentAgain,
    /// The new leader does not release what the old one had.
    DeadLeaderKept,
    /// The heir does not ask whether the leader is dead.
    NoProbe,
}

#[derive(Clone, Debug)]
struct Family {
    /// The number of requests of each process.
    requests: [usize; PROCESSES],
    resources: &'static [Resource],
    /// The heir begins with an image of the leader's tables, instead of the operations that led to them.
    has_image: bool,
    bug: Bug,
}

impl Family {
    fn process_steps(&self, observed: &Observed, process: usize, steps: &mut Vec<Step>) {
        let own = &observed.processes[process];
        let leader = observed.leader_of(process);
        // The tables are locked.
        let must_wait = own.stage == Stage::Leading && !observed.leads(leader);
        if own.stage == Stage::Dead || must_wait {
            return;
        }
        for &resource in self.resources {
            let may_ask =
                own.requests_left > 0 && (resource != Resource::Value || process != LEADER);
            match own.has(resource) {
                HoldState::No if may_ask => steps.push(Step::Acquire { process, resource }),
                HoldState::Held if own.requests_left > 0 || resource == Resource::Value => {
                    steps.push(Step::Release { process, resource });
                }
                _ => {}
            }
        }
    }

    fn stream_steps(&self, observed: &Observed, process: usize, steps: &mut Vec<Step>) {
        let own = &observed.processes[process];
        let leader = observed.leader_of(process);
        if !own.to_leader.is_empty() && observed.leads(leader) {
            steps.push(Step::Take { process });
        }
        let is_logged = leader == HEIR
            || (observed.log.is_empty() || self.bug == Bug::AnswerBeforeLog)
                && (!observed.is_logging || self.bug == Bug::MessageBeforeLog);
        if !own.queue.is_empty() && is_logged {
            steps.push(Step::WriteFrame { process });
        }
        if !own.from_leader.is_empty() {
            steps.push(Step::Receive { process });
        } else if leader == LEADER && process > HEIR && observed.has_taken_over {
            steps.push(Step::Rejoin { process });
        }
    }

    fn steps(&self, observed: &Observed, steps: &mut Vec<Step>) {
        if observed.violation.is_some() {
            return;
        }
        for process in 0..PROCESSES {
            self.process_steps(observed, process, steps);
            self.stream_steps(observed, process, steps);
        }
        if observed.is_logging {
            steps.push(Step::LogMessage);
        }
        if !observed.log.is_empty() {
            steps.push(Step::WriteLog);
        }
        if observed.is_old_alive && self.bug != Bug::NoProbe {
            steps.push(Step::Crash);
        }
        let is_dead = !observed.is_old_alive || self.bug == Bug::NoProbe;
        if is_dead && !observed.has_taken_over && observed.processes[HEIR].from_leader.is_empty() {
            steps.push(Step::TakeOver);
        }
    }

    fn observed_after(&self, steps: &[Step]) -> Observed {
        let observed = observed_after(self, steps, false);
        let mut next = Vec::new();
        self.steps(&observed, &mut next);
        if next.is_empty() && observed.violation.is_none() {
            return observed_after(self, steps, true);
        }
        observed
    }
}

impl Model for Family {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::start(|steps| self.observed_after(steps))]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        self.steps(&state.observed, actions);
    }

    fn next_state(&self, state: &State, action: Step) -> Option<State> {
        Some(state.then(action, |steps| self.observed_after(steps)))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("no check fails", |_, state: &State| {
                state.observed.violation.is_none()
            }),
            Property::sometimes("all follow the heir", |_, state: &State| {
                let follows = |process: usize| state.observed.processes[process].epoch == 2;
                (HEIR..PROCESSES).all(follows)
            }),
        ];
        if self.resources.contains(&Resource::File) {
            properties.push(Property::sometimes(
                "a delegation outlives the leader",
                |_, state: &State| {
                    let has_one = |own: &Process| own.delegation.is_some() && own.epoch == 2;
                    state.observed.processes.iter().any(has_one)
                },
            ));
        }
        properties
    }
}

/// Checks all states, and prints how many there are.
fn check(family: &Family) {
    let Family {
        requests,
        resources,
        ..
    } = *family;
    let start = std::time::Instant::now();
    let checker = family.clone().checker().threads(2).spawn_bfs().join();
    println!(
        "{requests:?} requests for {resources:?}: {} states in {:?}",
        checker.unique_state_count(),
        start.elapsed()
    );
    if let Some(path) = checker.discovery("no check fails") {
        let last = path.last_state();
        panic!("{:?} after {:#?}", last.observed.violation, last.steps);
    }
    checker.assert_properties();
}

/// Returns the family whose processes make so many requests: the leader, the heir, and two members.
const fn family(requests: [usize; PROCESSES], resources: &'static [Resource]) -> Family {
    Family {
        requests,
        resources,
        has_image: false,
        bug: Bug::None,
    }
}

#[test]
fn lock_that_two_members_request_has_one_holder_under_both_leaders() {
    check(&family([0, 0, 2, 2], &[Resource::Lock]));
}

#[test]
fn delegated_file_that_two_members_lock_has_one_holder_under_both_leaders() {
    check(&family([0, 0, 2, 2], &[Resource::File]));
}

#[test]
fn ids_of_two_members_differ_under_both_leaders() {
    check(&family([0, 0, 2, 2], &[Resource::Id]));
}

#[test]
fn value_of_two_members_has_one_owner_and_loses_nothing_under_both_leaders() {
    check(&family([0, 0, 2, 2], &[Resource::Value]));
}

#[test]
fn resources_of_the_dead_leader_are_free_and_those_of_its_heir_stay() {
    check(&family([1, 1, 1, 0], &[Resource::Id, Resource::Lock]));
}

#[test]
fn heir_that_has_loaded_an_image_leads_as_one_that_has_applied_all() {
    let family = family([0, 1, 1, 0], &[Resource::Lock]);
    check(&Family {
        has_image: true,
        ..family
    });
}

#[test]
#[ignore = "takes a minute: cargo test --release --test succession checked -- --ignored"]
fn all_resources_of_two_members_stay_theirs_under_both_leaders() {
    check(&family(
        [0, 0, 2, 2],
        &[Resource::Id, Resource::Lock, Resource::Value],
    ));
}

#[test]
#[ignore = "takes a minute: cargo test --release --test succession checked -- --ignored"]
fn resources_of_all_processes_stay_theirs_under_both_leaders() {
    check(&family(
        [1, 1, 1, 1],
        &[Resource::Id, Resource::Lock, Resource::Value],
    ));
}

/// Each planted bug is found in a small family, which is right without it.
#[test]
fn each_planted_bug_of_a_node_is_found() {
    const CASES: [(Bug, [usize; PROCESSES], Resource); 9] = [
        (Bug::AnswerBeforeLog, [0, 0, 1, 0], Resource::Id),
        (Bug::MessageBeforeLog, [0, 0, 1, 1], Resource::Value),
        (Bug::OwnCallsNotLogged, [1, 0, 1, 0], Resource::Lock),
        (Bug::TakenIgnored, [0, 0, 1, 0], Resource::Id),
        (Bug::KeptFrameLost, [0, 0, 1, 0], Resource::Id),
        (Bug::ReceivedForgotten, [0, 0, 1, 1], Resource::Value),
        (Bug::NothingSentAgain, [0, 0, 1, 0], Resource::Lock),
        (Bug::DeadLeaderKept, [1, 0, 1, 0], Resource::Lock),
        (Bug::NoProbe, [0, 1, 1, 0], Resource::Lock),
    ];
    for (bug, requests, resource) in &CASES {
        let family = Family {
            bug: *bug,
            ..family(*requests, std::slice::from_ref(resource))
        };
        let checker = family.clone().checker().spawn_bfs().join();
        let found = checker.discovery("no check fails");
        let found = found.and_then(|path| path.last_state().observed.violation);
        println!(
            "{bug:?}: {found:?}, in {} states",
            checker.unique_state_count()
        );
        assert!(found.is_some(), "{bug:?} is not found");
        let right = Family {
            bug: Bug::None,
            ..family
        };
        let checker = right.checker().spawn_bfs().join();
        assert!(checker.discovery("no check fails").is_none());
    }
}
