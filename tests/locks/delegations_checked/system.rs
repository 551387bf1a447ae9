//! The leader's table, the members' tables, and the effect of a step on them.

use std::collections::VecDeque;

use libos_ipc::file_locks::{LockLimits, LockTable, SetOutcome};
use libos_ipc::member::{Decision, DelegatedFiles, Fencing};
use libos_ipc::{Errno, Vmid};
use std::mem::MaybeUninit;

use libos_ipc::store::Arena;
use libos_ipc::wire::{Answer, DelegatedLock, DelegatedLockList, FileLock, LockKind};

use super::Family;
use super::state::{Activity, Answered, FromLeader, Observed, Step, ToLeader};
use crate::requests::write;

/// Room for one delegation, and for all locks that are requested without one.
const LIMITS: LockLimits = LockLimits {
    locks: 64,
    files: 2,
    waiting: 4,
    open_files: 0,
};

/// So many consecutive uses of a file by one member make the leader delegate it again.
const USES_TO_DELEGATE: usize = 40;

pub(super) fn vmid(member: usize) -> Vmid {
    Vmid::new(member as u32 + 2).unwrap()
}

pub(super) fn lock(kind: LockKind, wait: bool) -> FileLock<'static> {
    FileLock {
        kind,
        wait,
        ..write(1, 0, 0)
    }
}

fn kind(write: bool) -> LockKind {
    if write {
        LockKind::Write
    } else {
        LockKind::Read
    }
}

/// The real state machines, and the messages in transit between them.
pub(super) struct System<'m> {
    leader: LockTable<'m>,
    pub(super) members: Vec<DelegatedFiles<'m>>,
    pub(super) observed: Observed,
    /// The number of operations of the leader.
    ops: u64,
}

impl System<'_> {
    fn send(&mut self, member: usize, message: ToLeader) {
        self.observed.to_leader[member].push_back(message);
    }

    /// As a node does it: recalled files are returned before the next request.
    fn return_files(&mut self, member: usize) {
        let mut list = DelegatedLockList::new();
        while let Some(number) = self.members[member].poll_transmit(&mut list) {
            let delegated = |lock: DelegatedLock| (lock.start, lock.end, lock.write);
            let locks = list.locks().iter().map(delegated).collect();
            self.send(member, ToLeader::Return { number, locks });
            self.members[member].mark_sent(number);
            list.clear();
        }
        if self.members[member].usage().0 == 0 {
            self.observed.delegations[member] = None;
        }
    }

    fn lock(&mut self, member: usize, write: bool, wait: bool) {
        let mut requested = None;
        match self.members[member].set(vmid(member), &lock(kind(write), wait)) {
            Decision::Done(result) => {
                return self.finish_lock(member, result.is_ok().then_some(write));
            }
            Decision::Request(number) => {
                requested = Some(number);
                self.send(
                    member,
                    ToLeader::Delegate {
                        number,
                        write,
                        wait,
                    },
                );
            }
            Decision::Forward => {
                self.return_files(member);
                self.send(member, ToLeader::Set { write, wait });
            }
        }
        self.observed.activities[member] = Activity::Locking {
            write,
            wait,
            requested,
        };
    }

    fn finish_lock(&mut self, member: usize, held: Option<bool>) {
        let has_number = false;
        self.observed.activities[member] = held.map_or(Activity::Idle, |write| Activity::Holding {
            write,
            has_number,
        });
    }

    /// Asks for a fencing number for the write lock that the member holds.
    fn number(&mut self, member: usize) {
        match self.members[member].fencing_number(vmid(member), &lock(LockKind::Write, false)) {
            Fencing::Done(Ok(number)) => {
                self.observed.last_numbers[member] = number;
                self.record_number(member, number);
            }
            Fencing::Done(Err(_)) => self.observed.violation = Some("a holder gets no number"),
            Fencing::Forward => {
                self.send(member, ToLeader::Number);
                self.observed.activities[member] = Activity::Numbering { delegation: None };
            }
            Fencing::Request(number) => {
                self.send(member, ToLeader::Block(number));
                let delegation = Some(number);
                self.observed.activities[member] = Activity::Numbering { delegation };
            }
        }
    }

    fn record_number(&mut self, member: usize, number: u64) {
        if number <= self.observed.highest {
            self.observed.violation = Some("a number that an earlier holder may have had");
        }
        self.observed.highest = number;
        self.observed.activities[member] = Activity::Holding {
            write: true,
            has_number: true,
        };
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Lock {
                member,
                write,
                wait,
            } => {
                self.observed.requests_left[member] -= 1;
                self.lock(member, write, wait);
            }
            Step::Unlock { member } => {
                let done = self.members[member].set(vmid(member), &lock(LockKind::Unlock, false));
                self.observed.activities[member] = if done == Decision::Done(Ok(())) {
                    Activity::Idle
                } else {
                    self.send(member, ToLeader::Unlock);
                    Activity::Unlocking
                };
            }
            Step::Number { member } => self.number(member),
            Step::Deliver { member } => self.deliver(member),
            Step::Receive { member } => {
                match self.observed.from_leader[member].pop_front().unwrap() {
                    FromLeader::Recall(number) => {
                        self.observed.has_recall_crossed |=
                            self.observed.delegations[member].is_none();
                        self.members[member].recall(number);
                        self.return_files(member);
                    }
                    FromLeader::Answer(answered) => {
                        self.observed.undelivered[member] = Some(answered);
                    }
                }
            }
            Step::Wake { member } => match self.observed.undelivered[member].take().unwrap() {
                Answered::Lock(result) => self.receive_answer(member, result),
                Answered::Numbers(first) => self.receive_numbers(member, first),
            },
            Step::UseAlone { member } => {
                for kind in [LockKind::Write, LockKind::Unlock].repeat(USES_TO_DELEGATE) {
                    self.ops += 1;
                    let set = self.leader.set(vmid(member), 1, &lock(kind, false));
                    assert_eq!(set, Ok(SetOutcome::Done));
                }
                self.observed.sole_user = Some(member);
                self.observed.requesters.clear();
            }
            Step::Return { member } => {
                self.members[member].recall(self.observed.delegations[member].unwrap());
                self.return_files(member);
            }
            Step::Die { member } => {
                self.leader.reclaim(vmid(member));
                self.observed.activities[member] = Activity::Dead;
                self.observed.to_leader[member].clear();
                self.observed.from_leader[member].clear();
                self.observed.delegations[member] = None;
                self.observed.undelivered[member] = None;
            }
        }
        while let Some(completion) = self.leader.take_completion() {
            let Answer::Status(result) = completion.answer else {
                panic!("only locks are requested");
            };
            self.observed.from_leader[completion.from.get() as usize - 2].push_back(answer(result));
        }
        while let Some((to, number)) = self.leader.next_recall() {
            self.observed.from_leader[to.get() as usize - 2].push_back(FromLeader::Recall(number));
            self.leader.mark_recall_sent(to, number);
        }
        self.observed.delegated = self.leader.delegation_usage().0;
        if !self.leader.check_invariants() {
            self.observed.violation = Some("an invariant of the table is broken");
        }
    }

    fn deliver(&mut self, member: usize) {
        let from = vmid(member);
        self.ops += 1;
        let set = match self.observed.to_leader[member].pop_front().unwrap() {
            ToLeader::Delegate {
                number,
                write,
                wait,
            } => {
                self.observed.requesters.push(member);
                self.leader
                    .set_or_delegate(from, 1, &lock(kind(write), wait), number)
            }
            ToLeader::Set { write, wait } => {
                self.observed.requesters.push(member);
                self.leader.set(from, 1, &lock(kind(write), wait))
            }
            ToLeader::Unlock => self.leader.set(from, 1, &lock(LockKind::Unlock, false)),
            ToLeader::Number => {
                let lock = lock(LockKind::Write, false);
                return self.give_numbers(member, self.leader.has_write_lock(from, &lock));
            }
            ToLeader::Block(number) => {
                return self.give_numbers(member, self.leader.has_delegation(from, number));
            }
            ToLeader::Return { number, locks } => {
                let mut list = DelegatedLockList::new();
                for (start, end, write) in locks {
                    list.push(DelegatedLock {
                        start,
                        end,
                        pid: 1,
                        write,
                    });
                }
                if !self.leader.return_delegation(from, number, list.locks()) {
                    self.observed.violation = Some("the leader refuses a returned delegation");
                }
                return;
            }
        };
        let result = match set {
            Ok(SetOutcome::Queued) => return,
            Ok(SetOutcome::Done) => Ok(0),
            Ok(SetOutcome::Delegated(limit)) => Ok(u32::try_from(limit).unwrap()),
            Err(errno) => Err(errno),
        };
        self.observed.from_leader[member].push_back(answer(result));
    }

    /// As the leader does it: the numbers of an operation begin with its own number, times the size of a block.
    fn give_numbers(&mut self, member: usize, is_held: bool) {
        let first = is_held.then_some(self.ops << 20).ok_or(Errno::EPERM);
        let answered = Answered::Numbers(first);
        self.observed.from_leader[member].push_back(FromLeader::Answer(answered));
    }

    fn receive_numbers(&mut self, member: usize, first: Result<u64, Errno>) {
        let Activity::Numbering { delegation } = self.observed.activities[member] else {
            panic!(
                "numbers for one that is {:?}",
                self.observed.activities[member]
            );
        };
        match (delegation, first) {
            (None, Ok(number)) => self.record_number(member, number),
            (None, Err(_)) => self.observed.violation = Some("a holder gets no number"),
            (Some(delegation), first) => {
                // After an error the delegation was returned, and the leader decides.
                if let Ok(first) = first {
                    self.members[member].add_fencing_block(delegation, first);
                }
                self.number(member);
            }
        }
    }

    /// Returns the number that the member would take next for a lock that it grants itself.
    fn next_number(&mut self, member: usize) -> Option<u64> {
        let (table, write) = (&mut self.members[member], lock(LockKind::Write, false));
        let is_granted = table.set(vmid(member), &write) == Decision::Done(Ok(()));
        match table.fencing_number(vmid(member), &write) {
            Fencing::Done(Ok(number)) if is_granted => Some(number),
            _ => None,
        }
    }

    /// Returns all that is visible at the end. It changes the machines.
    pub(super) fn observe(&mut self) -> Observed {
        for member in 0..self.members.len() {
            if self.observed.activities[member] != Activity::Dead {
                self.observed.next_numbers[member] = self.next_number(member);
            }
        }
        self.observed.rank_numbers();
        self.observed.clone()
    }

    fn receive_answer(&mut self, member: usize, result: Result<u32, Errno>) {
        match self.observed.activities[member] {
            Activity::Unlocking => {
                assert_eq!(result, Ok(0));
                self.observed.activities[member] = Activity::Idle;
            }
            Activity::Locking {
                write,
                wait,
                requested,
            } => {
                if let Some(number) = requested {
                    let limit = result.ok().filter(|limit| *limit > 0);
                    let limit = limit.map(|limit| limit as usize);
                    self.members[member].handle_answer(number, limit);
                    self.observed.delegations[member] = limit.map(|_| number);
                    self.return_files(member);
                    if limit.is_some() {
                        return self.lock(member, write, wait);
                    }
                }
                if wait && result.is_err() {
                    self.observed.violation = Some("refused for nothing");
                }
                self.finish_lock(member, result.is_ok().then_some(write));
            }
            at => panic!("an answer for one that is {at:?}"),
        }
    }
}

fn answer(result: Result<u32, Errno>) -> FromLeader {
    FromLeader::Answer(Answered::Lock(result))
}

/// Does the steps with new machines, and calls `then` with them.
pub(super) fn replay<T>(family: &Family, steps: &[Step], then: impl FnOnce(System<'_>) -> T) -> T {
    let mut memory = Box::new_uninit_slice(LockTable::bytes(&LIMITS));
    let mut memories = vec![vec![MaybeUninit::uninit(); DelegatedFiles::bytes(1)]; family.members];
    let members = memories
        .iter_mut()
        .map(|memory| DelegatedFiles::new(&mut Arena::new(memory), 1).unwrap())
        .collect();
    let mut system = System {
        leader: LockTable::new(&mut Arena::new(&mut memory), &LIMITS).unwrap(),
        members,
        observed: Observed {
            activities: vec![Activity::Idle; family.members],
            requests_left: vec![family.times; family.members],
            to_leader: vec![VecDeque::new(); family.members],
            from_leader: vec![VecDeque::new(); family.members],
            delegations: vec![None; family.members],
            undelivered: vec![None; family.members],
            highest: 0,
            last_numbers: vec![0; family.members],
            next_numbers: vec![None; family.members],
            sole_user: None,
            requesters: Vec::new(),
            delegated: 0,
            violation: None,
            has_recall_crossed: false,
        },
        ops: 0,
    };
    for step in steps {
        system.step(*step);
    }
    then(system)
}
