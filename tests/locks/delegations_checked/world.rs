//! The leader's table, the members' tables, and the effect of a step on them.

use std::collections::VecDeque;

use libos_ipc::file_locks::{LockLimits, LockTable, SetOutcome};
use libos_ipc::member::{Decision, DelegatedFiles, Fencing};
use libos_ipc::{Errno, Vmid};
use std::mem::MaybeUninit;

use libos_ipc::store::Arena;
use libos_ipc::wire::{Answer, DelegatedLock, DelegatedLockList, FileLock, LockKind};

use super::Family;
use super::state::{Answered, At, Down, Seen, Step, Up};
use crate::requests::write;

/// Room for one delegation, and for all locks that are requested without one.
const LIMITS: LockLimits = LockLimits {
    locks: 64,
    files: 2,
    waiting: 4,
    open_files: 0,
};

/// So many consecutive uses of a file by one member make the leader delegate it again.
const USES_ALONE: usize = 40;

pub(super) fn vmid(who: usize) -> Vmid {
    Vmid::new(who as u32 + 2).unwrap()
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
pub(super) struct World<'m> {
    leader: LockTable<'m>,
    pub(super) members: Vec<DelegatedFiles<'m>>,
    pub(super) seen: Seen,
    /// The number of operations of the leader.
    ops: u64,
}

impl World<'_> {
    fn send(&mut self, who: usize, message: Up) {
        self.seen.up[who].push_back(message);
    }

    /// As a node does it: recalled files are returned before the next request.
    fn return_files(&mut self, who: usize) {
        let mut list = DelegatedLockList::new();
        while let Some(number) = self.members[who].poll_transmit(&mut list) {
            let delegated = |lock: DelegatedLock| (lock.start, lock.end, lock.write);
            let locks = list.locks().iter().map(delegated).collect();
            self.send(who, Up::Return { number, locks });
            self.members[who].mark_sent(number);
            list.clear();
        }
        if self.members[who].usage().0 == 0 {
            self.seen.here[who] = None;
        }
    }

    fn lock(&mut self, who: usize, write: bool, wait: bool) {
        let mut requested = None;
        match self.members[who].set(vmid(who), &lock(kind(write), wait)) {
            Decision::Done(result) => return self.ended(who, result.is_ok().then_some(write)),
            Decision::Request(number) => {
                requested = Some(number);
                self.send(
                    who,
                    Up::Delegate {
                        number,
                        write,
                        wait,
                    },
                );
            }
            Decision::Forward => {
                self.return_files(who);
                self.send(who, Up::Set { write, wait });
            }
        }
        self.seen.at[who] = At::Locking {
            write,
            wait,
            requested,
        };
    }

    fn ended(&mut self, who: usize, held: Option<bool>) {
        let has_number = false;
        self.seen.at[who] = held.map_or(At::Idle, |write| At::Holding { write, has_number });
    }

    /// Asks for a fencing number for the write lock that the member holds.
    fn number(&mut self, who: usize) {
        match self.members[who].fencing_number(vmid(who), &lock(LockKind::Write, false)) {
            Fencing::Done(Ok(number)) => {
                self.seen.last_numbers[who] = number;
                self.numbered(who, number);
            }
            Fencing::Done(Err(_)) => self.seen.wrong = Some("a holder gets no number"),
            Fencing::Forward => {
                self.send(who, Up::Number);
                self.seen.at[who] = At::Numbering { delegation: None };
            }
            Fencing::Request(number) => {
                self.send(who, Up::Block(number));
                let delegation = Some(number);
                self.seen.at[who] = At::Numbering { delegation };
            }
        }
    }

    fn numbered(&mut self, who: usize, number: u64) {
        if number <= self.seen.highest {
            self.seen.wrong = Some("a number that an earlier holder may have had");
        }
        self.seen.highest = number;
        self.seen.at[who] = At::Holding {
            write: true,
            has_number: true,
        };
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Lock { who, write, wait } => {
                self.seen.left[who] -= 1;
                self.lock(who, write, wait);
            }
            Step::Unlock { who } => {
                let done = self.members[who].set(vmid(who), &lock(LockKind::Unlock, false));
                self.seen.at[who] = if done == Decision::Done(Ok(())) {
                    At::Idle
                } else {
                    self.send(who, Up::Unlock);
                    At::Unlocking
                };
            }
            Step::Number { who } => self.number(who),
            Step::Deliver { who } => self.deliver(who),
            Step::Receive { who } => match self.seen.down[who].pop_front().unwrap() {
                Down::Recall(number) => {
                    self.seen.crossed |= self.seen.here[who].is_none();
                    self.members[who].recall(number);
                    self.return_files(who);
                }
                Down::Answer(answered) => self.seen.unseen[who] = Some(answered),
            },
            Step::Wake { who } => match self.seen.unseen[who].take().unwrap() {
                Answered::Lock(result) => self.answered(who, result),
                Answered::Numbers(first) => self.numbers_came(who, first),
            },
            Step::UseAlone { who } => {
                for kind in [LockKind::Write, LockKind::Unlock].repeat(USES_ALONE) {
                    self.ops += 1;
                    let set = self.leader.set(vmid(who), 1, &lock(kind, false));
                    assert_eq!(set, Ok(SetOutcome::Done));
                }
                self.seen.alone = Some(who);
                self.seen.asked.clear();
            }
            Step::Return { who } => {
                self.members[who].recall(self.seen.here[who].unwrap());
                self.return_files(who);
            }
            Step::Die { who } => {
                self.leader.reclaim(vmid(who));
                self.seen.at[who] = At::Dead;
                self.seen.up[who].clear();
                self.seen.down[who].clear();
                self.seen.here[who] = None;
                self.seen.unseen[who] = None;
            }
        }
        while let Some(completion) = self.leader.take_completion() {
            let Answer::Status(result) = completion.answer else {
                panic!("nobody asks");
            };
            self.seen.down[completion.from.get() as usize - 2].push_back(answer(result));
        }
        while let Some((to, number)) = self.leader.next_recall() {
            self.seen.down[to.get() as usize - 2].push_back(Down::Recall(number));
            self.leader.mark_recall_sent(to, number);
        }
        self.seen.delegated = self.leader.delegation_usage().0;
        if !self.leader.check_invariants() {
            self.seen.wrong = Some("an invariant of the table is broken");
        }
    }

    fn deliver(&mut self, who: usize) {
        let from = vmid(who);
        self.ops += 1;
        let set = match self.seen.up[who].pop_front().unwrap() {
            Up::Delegate {
                number,
                write,
                wait,
            } => {
                self.seen.asked.push(who);
                self.leader
                    .set_or_delegate(from, 1, &lock(kind(write), wait), number)
            }
            Up::Set { write, wait } => {
                self.seen.asked.push(who);
                self.leader.set(from, 1, &lock(kind(write), wait))
            }
            Up::Unlock => self.leader.set(from, 1, &lock(LockKind::Unlock, false)),
            Up::Number => {
                let lock = lock(LockKind::Write, false);
                return self.give_numbers(who, self.leader.has_write_lock(from, &lock));
            }
            Up::Block(number) => {
                return self.give_numbers(who, self.leader.has_delegation(from, number));
            }
            Up::Return { number, locks } => {
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
                    self.seen.wrong = Some("what came back was not taken");
                }
                return;
            }
        };
        let result = match set {
            Ok(SetOutcome::Queued) => return,
            Ok(SetOutcome::Done) => Ok(0),
            Ok(SetOutcome::Delegated(most)) => Ok(u32::try_from(most).unwrap()),
            Err(errno) => Err(errno),
        };
        self.seen.down[who].push_back(answer(result));
    }

    /// As the leader does it: the numbers of an operation begin with its own number, times the size of a block.
    fn give_numbers(&mut self, who: usize, is_held: bool) {
        let first = is_held.then_some(self.ops << 20).ok_or(Errno::EPERM);
        let answered = Answered::Numbers(first);
        self.seen.down[who].push_back(Down::Answer(answered));
    }

    fn numbers_came(&mut self, who: usize, first: Result<u64, Errno>) {
        let At::Numbering { delegation } = self.seen.at[who] else {
            panic!("numbers for one that is {:?}", self.seen.at[who]);
        };
        match (delegation, first) {
            (None, Ok(number)) => self.numbered(who, number),
            (None, Err(_)) => self.seen.wrong = Some("a holder gets no number"),
            (Some(delegation), first) => {
                // After an error the delegation was returned, and the leader decides.
                if let Ok(first) = first {
                    self.members[who].add_fencing_block(delegation, first);
                }
                self.number(who);
            }
        }
    }

    /// Returns the number that the member would take next for a lock that it grants itself.
    fn next_number(&mut self, who: usize) -> Option<u64> {
        let (member, write) = (&mut self.members[who], lock(LockKind::Write, false));
        let is_granted = member.set(vmid(who), &write) == Decision::Done(Ok(()));
        match member.fencing_number(vmid(who), &write) {
            Fencing::Done(Ok(number)) if is_granted => Some(number),
            _ => None,
        }
    }

    /// Returns all that is visible at the end. It changes the machines.
    pub(super) fn observe(&mut self) -> Seen {
        for who in 0..self.members.len() {
            if self.seen.at[who] != At::Dead {
                self.seen.next_numbers[who] = self.next_number(who);
            }
        }
        self.seen.rank_numbers();
        self.seen.clone()
    }

    fn answered(&mut self, who: usize, result: Result<u32, Errno>) {
        match self.seen.at[who] {
            At::Unlocking => {
                assert_eq!(result, Ok(0));
                self.seen.at[who] = At::Idle;
            }
            At::Locking {
                write,
                wait,
                requested,
            } => {
                if let Some(number) = requested {
                    let most = result.ok().filter(|most| *most > 0);
                    let most = most.map(|most| most as usize);
                    self.members[who].handle_answer(number, most);
                    self.seen.here[who] = most.map(|_| number);
                    self.return_files(who);
                    if most.is_some() {
                        return self.lock(who, write, wait);
                    }
                }
                if wait && result.is_err() {
                    self.seen.wrong = Some("refused for nothing");
                }
                self.ended(who, result.is_ok().then_some(write));
            }
            at => panic!("an answer for one that is {at:?}"),
        }
    }
}

fn answer(result: Result<u32, Errno>) -> Down {
    Down::Answer(Answered::Lock(result))
}

/// Returns the world after these steps.
pub(super) fn replay<T>(family: &Family, steps: &[Step], then: impl FnOnce(World<'_>) -> T) -> T {
    let mut memory = Box::new_uninit_slice(LockTable::bytes(&LIMITS));
    let mut memories = vec![vec![MaybeUninit::uninit(); DelegatedFiles::bytes(1)]; family.members];
    let members = memories
        .iter_mut()
        .map(|memory| DelegatedFiles::new(&mut Arena::new(memory), 1).unwrap())
        .collect();
    let mut world = World {
        leader: LockTable::new(&mut Arena::new(&mut memory), &LIMITS).unwrap(),
        members,
        seen: Seen {
            at: vec![At::Idle; family.members],
            left: vec![family.times; family.members],
            up: vec![VecDeque::new(); family.members],
            down: vec![VecDeque::new(); family.members],
            here: vec![None; family.members],
            unseen: vec![None; family.members],
            highest: 0,
            last_numbers: vec![0; family.members],
            next_numbers: vec![None; family.members],
            alone: None,
            asked: Vec::new(),
            delegated: 0,
            wrong: None,
            crossed: false,
        },
        ops: 0,
    };
    for step in steps {
        world.step(*step);
    }
    then(world)
}
