//! Exhaustive test of every order in which a few processes can transfer an open file, close it and
//! die: its lock lives exactly as long as it has a holder.

use libos_ipc::Errno;
use libos_ipc::file_locks::{LockLimits, LockTable};

use crate::edges::{DONE, member, with_table};
use crate::requests::flock;

/// The steps of three processes with one open file that one of them has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Send(u32, u32),
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
    had: [bool; 5],
    /// By receiver and sender: the number of descriptors in transit.
    sent: [[u8; 5]; 5],
    is_dead: [bool; 5],
    has_joined: bool,
}

impl Descriptors {
    fn is_open(&self) -> bool {
        self.had.contains(&true) || self.sent.iter().flatten().any(|count| *count > 0)
    }

    /// Returns the possible next steps.
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let lives = |who: u32| !self.is_dead[who as usize] && (who != CHILD || self.has_joined);
        let has = |who: u32| self.had[who as usize];
        for who in [2, 3, CHILD] {
            if who != CHILD && has(who) && lives(who) && !self.has_joined && !self.is_dead[4] {
                steps.push(Step::Inherit(who));
            }
            if !lives(who) {
                continue;
            }
            steps.push(Step::Die(who));
            if has(who) {
                steps.push(Step::Close(who));
            }
            if self.sent[who as usize].iter().any(|count| *count > 0) {
                steps.push(Step::Arrive(who));
            }
            for to in [2, 3, CHILD] {
                if to != who && lives(to) {
                    let under_way = self.sent[to as usize][who as usize];
                    if has(who) && under_way < 2 {
                        steps.push(Step::Send(who, to));
                    }
                    if under_way > 0 {
                        steps.push(Step::TakeBack(who, to));
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

    fn take(&mut self, step: Step) {
        match step {
            Step::Send(from, to) => self.sent[to as usize][from as usize] += 1,
            Step::TakeBack(from, to) => self.sent[to as usize][from as usize] -= 1,
            Step::Arrive(to) => {
                let mut sent = self.sent[to as usize].iter_mut();
                *sent.find(|count| **count > 0).unwrap() -= 1;
                self.had[to as usize] = true;
            }
            Step::Close(who) => self.had[who as usize] = false,
            Step::Die(who) => {
                self.had[who as usize] = false;
                self.sent[who as usize] = [0; 5];
                self.is_dead[who as usize] = true;
            }
            Step::Inherit(_) => self.had[CHILD as usize] = true,
            Step::Join => self.has_joined = true,
        }
    }
}

fn take(locks: &mut LockTable<'_>, step: Step) {
    match step {
        Step::Send(from, to) => assert!(locks.send_open_file(member(from), member(to), 7)),
        Step::TakeBack(from, to) => locks.retract_open_file(member(from), member(to), 7),
        Step::Arrive(to) => assert!(locks.accept_open_file(member(to), 7)),
        Step::Close(who) => locks.close_open_file(member(who), 7),
        Step::Die(who) => {
            locks.reclaim(member(who));
            locks.on_left(member(who));
        }
        Step::Inherit(from) => assert!(locks.inherit_open_file(member(from), member(CHILD), 7)),
        Step::Join => assert_eq!(locks.confirm_portion(member(CHILD), u64::MAX, false), 0),
    }
}

/// Explores every continuation, and returns their number.
fn walk(before: &mut Vec<Step>, descriptors: &Descriptors, depth: usize) -> usize {
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
                take(locks, *step);
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
    let mut ways = 1;
    if depth > 0 {
        for step in descriptors.steps() {
            let mut after = descriptors.clone();
            after.take(step);
            before.push(step);
            ways += walk(before, &after, depth - 1);
            before.pop();
        }
    }
    ways
}

#[test]
fn lock_lives_exactly_as_long_as_a_holder_in_every_order_of_six_steps() {
    let mut descriptors = Descriptors::default();
    descriptors.had[2] = true;
    let ways = walk(&mut Vec::new(), &descriptors, 6);
    println!("{ways} orders");
    assert!(ways > 30_000, "{ways}");
}
