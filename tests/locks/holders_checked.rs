//! Exhaustive test of every order in which a few processes can transfer an open file, close it and
//! die: its lock lives exactly as long as it has a holder.

use libos_ipc::Errno;
use libos_ipc::file_locks::{LockLimits, LockTable};

use crate::edges::{DONE, member, with_table};
use crate::requests::flock;

/// The steps of three processes with one open file that one of them has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The first process sends a descriptor to the second.
    Send(u32, u32),
    /// The first process takes back a descriptor that the second has not received.
    TakeBack(u32, u32),
    Arrive(u32),
    Close(u32),
    Die(u32),
    /// A process that has not joined inherits the open file, and joins.
    Inherit(u32),
    Join,
}

/// The process that starts; the others are 2 and 3.
const CHILD: u32 = 4;

/// The descriptors, counted as the kernel counts them.
#[derive(Clone, Default)]
struct Descriptors {
    /// By process: whether it has a descriptor.
    has_descriptor: [bool; 5],
    /// By receiver and sender: the number of descriptors in transit.
    sent: [[u8; 5]; 5],
    is_dead: [bool; 5],
    has_joined: bool,
}

impl Descriptors {
    fn is_open(&self) -> bool {
        self.has_descriptor.contains(&true) || self.sent.iter().flatten().any(|count| *count > 0)
    }

    /// Returns the possible next steps.
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let is_alive =
            |process: u32| !self.is_dead[process as usize] && (process != CHILD || self.has_joined);
        let has_descriptor = |process: u32| self.has_descriptor[process as usize];
        for process in [2, 3, CHILD] {
            if process != CHILD
                && has_descriptor(process)
                && is_alive(process)
                && !self.has_joined
                && !self.is_dead[4]
            {
                steps.push(Step::Inherit(process));
            }
            if !is_alive(process) {
                continue;
            }
            steps.push(Step::Die(process));
            if has_descriptor(process) {
                steps.push(Step::Close(process));
            }
            if self.sent[process as usize].iter().any(|count| *count > 0) {
                steps.push(Step::Arrive(process));
            }
            for to in [2, 3, CHILD] {
                if to != process && is_alive(to) {
                    let under_way = self.sent[to as usize][process as usize];
                    if has_descriptor(process) && under_way < 2 {
                        steps.push(Step::Send(process, to));
                    }
                    if under_way > 0 {
                        steps.push(Step::TakeBack(process, to));
                    }
                }
            }
        }
        if !self.has_joined && !self.is_dead[4] {
            steps.push(Step::Join);
            steps.push(Step::Die(CHILD));
        }
        steps
    }

    /// Does the step as the kernel does.
    fn apply(&mut self, step: Step) {
        match step {
            Step::Send(from, to) => self.sent[to as usize][from as usize] += 1,
            Step::TakeBack(from, to) => self.sent[to as usize][from as usize] -= 1,
            Step::Arrive(to) => {
                let mut sent = self.sent[to as usize].iter_mut();
                *sent.find(|count| **count > 0).unwrap() -= 1;
                self.has_descriptor[to as usize] = true;
            }
            Step::Close(process) => self.has_descriptor[process as usize] = false,
            Step::Die(process) => {
                self.has_descriptor[process as usize] = false;
                self.sent[process as usize] = [0; 5];
                self.is_dead[process as usize] = true;
            }
            Step::Inherit(_) => self.has_descriptor[CHILD as usize] = true,
            Step::Join => self.has_joined = true,
        }
    }
}

/// Does the step on the lock table.
fn apply(locks: &mut LockTable<'_>, step: Step) {
    match step {
        Step::Send(from, to) => assert!(locks.send_open_file(member(from), member(to), 7)),
        Step::TakeBack(from, to) => locks.retract_open_file(member(from), member(to), 7),
        Step::Arrive(to) => assert!(locks.accept_open_file(member(to), 7)),
        Step::Close(process) => locks.close_open_file(member(process), 7),
        Step::Die(process) => {
            locks.reclaim(member(process));
            locks.on_left(member(process));
        }
        Step::Inherit(from) => assert!(locks.inherit_open_file(member(from), member(CHILD), 7)),
        Step::Join => assert_eq!(locks.confirm_portion(member(CHILD), u64::MAX, false), 0),
    }
}

/// Explores every continuation, and returns their number.
fn explore(before: &mut Vec<Step>, descriptors: &Descriptors, depth: usize) -> usize {
    with_table(
        LockLimits {
            locks: 2,
            files: 1,
            waiting: 0,
            open_files: 16,
        },
        |locks| {
            assert_eq!(locks.set(member(2), 0, &flock(7)), DONE);
            for step in before.iter() {
                apply(locks, *step);
            }
            let asked = locks.set(member(9), 0, &flock(9));
            let expected = if descriptors.is_open() {
                Err(Errno::EAGAIN)
            } else {
                DONE
            };
            assert_eq!(asked, expected, "{before:?}");
        },
    );
    let mut orders = 1;
    if depth > 0 {
        for step in descriptors.steps() {
            let mut after = descriptors.clone();
            after.apply(step);
            before.push(step);
            orders += explore(before, &after, depth - 1);
            before.pop();
        }
    }
    orders
}

#[test]
fn lock_lives_exactly_as_long_as_a_holder_in_every_order_of_six_steps() {
    let mut descriptors = Descriptors::default();
    descriptors.has_descriptor[2] = true;
    let orders = explore(&mut Vec::new(), &descriptors, 6);
    println!("{orders} orders");
    assert!(orders > 30_000, "{orders}");
}
