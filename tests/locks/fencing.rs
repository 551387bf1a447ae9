//! Fencing numbers: for any history of grants, the number of a holder is higher than all numbers of the
//! conflicting holders before it.

use std::collections::VecDeque;

use fastrand::Rng;
use libos_ipc::Errno;
use libos_ipc::LeaseLimits;
use libos_ipc::LockLimits;
use libos_ipc::leader::{Content, Leader, LeaderCapacities, Op, Outcome, Presence};
use libos_ipc::member::{Decision, DelegatedFiles, Fencing};
use libos_ipc::store::Arena;
use libos_ipc::wire::{
    Answer, DelegatedLockList, FileLock, Holding, LockFamily, LockKind, Message, Sync, SyncCode,
    SyncState,
};

use super::edges::member as vmid;

const FILES: [&[u8]; 3] = [b"a", b"b", b"c"];
const BYTES: u64 = 4;
const MEMBERS: usize = 3;
const CAPACITIES: LeaderCapacities = LeaderCapacities {
    locks: LockLimits {
        locks: 256,
        files: 16,
        waiting: 0,
        open_files: 8,
    },
    leases: LeaseLimits {
        handles: 4,
        clients: 8,
    },
    sync_data: 8,
    ..LeaderCapacities::NONE
};

/// A request of a member that is under way to the leader.
enum Request {
    Lock(FileLock<'static>),
    Delegate(u64, FileLock<'static>),
    Return(u64, Box<DelegatedLockList>),
    Number(FileLock<'static>),
    Block(u64),
    Left,
}

/// A message that is under way from the leader to a member.
enum Reply {
    Delegated(u64, Option<usize>),
    Recall(u64),
    Block(u64, Option<u64>),
}

struct Member {
    files: DelegatedFiles<'static>,
    requests: VecDeque<Request>,
    replies: VecDeque<Reply>,
}

struct Family {
    /// Two leaders that apply the same operations.
    leaders: [Leader<'static>; 2],
    members: Vec<Member>,
    /// The highest number so far for each byte, and the member that got it.
    last: [[(u64, usize); BYTES as usize]; FILES.len()],
    drawn: usize,
    changed_hands: usize,
}

fn new_leader() -> Leader<'static> {
    let memory = Box::leak(Box::new_uninit_slice(Leader::bytes(&CAPACITIES)));
    Leader::new(&mut Arena::new(memory), &CAPACITIES).unwrap()
}

fn new_files() -> DelegatedFiles<'static> {
    let memory = Box::leak(Box::new_uninit_slice(DelegatedFiles::bytes(4)));
    DelegatedFiles::new(&mut Arena::new(memory), 4).unwrap()
}

impl Family {
    fn new() -> Family {
        Family {
            leaders: [new_leader(), new_leader()],
            members: (0..MEMBERS)
                .map(|_| Member {
                    files: new_files(),
                    requests: VecDeque::new(),
                    replies: VecDeque::new(),
                })
                .collect(),
            last: [[(0, 0); BYTES as usize]; FILES.len()],
            drawn: 0,
            changed_hands: 0,
        }
    }

    fn apply(&mut self, op: &Op<'_>) -> Outcome {
        let [outcome, same] = self.leaders.each_mut().map(|leader| leader.apply(op));
        assert_eq!(outcome, same);
        assert_eq!(self.leaders[0].digest(), self.leaders[1].digest());
        outcome
    }

    fn request(&mut self, member: usize, message: Message<'_>) -> Outcome {
        self.apply(&Op::Request {
            from: vmid(member as u32 + 2),
            seq: 1,
            message: &message,
            other: Presence::Absent,
        })
    }

    /// Checks the number that the member has got for a lock that it holds now.
    fn got(&mut self, member: usize, lock: &FileLock<'_>, number: u64) {
        let file = FILES.iter().position(|path| *path == lock.path).unwrap();
        self.drawn += 1;
        for byte in lock.start..=lock.end {
            let last = &mut self.last[file][byte as usize];
            assert!(
                number > last.0,
                "{number} of member {member} after {} of member {} for byte {byte} of file {file}",
                last.0,
                last.1
            );
            self.changed_hands += usize::from(last.1 != member);
            *last = (number, member);
        }
    }

    /// Lets the leader handle the next request of a member.
    fn serve(&mut self, at: usize) {
        let Some(request) = self.members[at].requests.pop_front() else {
            return;
        };
        match request {
            Request::Lock(lock) => drop(self.request(at, Message::FileLockSet(lock))),
            Request::Delegate(number, lock) => {
                let lock = FileLock {
                    handle: number,
                    ..lock
                };
                let outcome = self.request(at, Message::FileLockDelegate(lock));
                let most = match outcome {
                    Outcome::Answer(Answer::Status(Ok(most))) if most > 0 => Some(most as usize),
                    _ => None,
                };
                self.members[at]
                    .replies
                    .push_back(Reply::Delegated(number, most));
            }
            Request::Return(delegation, list) => {
                let locks = list.locks();
                self.request(at, Message::FileLockReturn { delegation, locks });
            }
            Request::Number(lock) => {
                let outcome = self.request(at, Message::FencingNumber(lock));
                if let Outcome::Answer(Answer::Fencing(Ok(number))) = outcome {
                    self.got(at, &lock, number);
                }
            }
            Request::Block(number) => {
                let holding = Holding::Delegation;
                let outcome = self.request(at, Message::FencingBlock { holding, number });
                let Outcome::Answer(Answer::Fencing(first)) = outcome else {
                    panic!("{outcome:?}");
                };
                let reply = Reply::Block(number, first.ok());
                self.members[at].replies.push_back(reply);
            }
            Request::Left => {
                let owner = vmid(at as u32 + 2);
                let mut left = u64::MAX;
                while left > 0 {
                    left = match self.apply(&Op::ReclaimLocks { owner, left }) {
                        Outcome::Remaining(left) => left,
                        other => panic!("{other:?}"),
                    };
                }
                self.apply(&Op::Left(owner));
            }
        }
        self.transmit();
    }

    /// Takes the messages of the leader's outbox.
    fn transmit(&mut self) {
        while let Some(outgoing) = self.leaders[0].poll_transmit() {
            let (id, to) = (outgoing.id, outgoing.to.get() as usize - 2);
            if let Content::Message(Message::FileLockRecall(number)) = outgoing.content {
                self.members[to].replies.push_back(Reply::Recall(number));
            }
            let is_extended = true;
            self.apply(&Op::Transmitted { id, is_extended });
        }
    }

    /// Lets a member handle the next message of the leader.
    fn receive(&mut self, at: usize) {
        let member = &mut self.members[at];
        match member.replies.pop_front() {
            Some(Reply::Delegated(number, most)) => member.files.handle_answer(number, most),
            Some(Reply::Recall(number)) => member.files.recall(number),
            Some(Reply::Block(number, Some(first))) => {
                member.files.add_fencing_block(number, first);
            }
            Some(Reply::Block(_, None)) | None => {}
        }
        self.return_delegation(at);
    }

    fn return_delegation(&mut self, at: usize) {
        let member = &mut self.members[at];
        let mut list = DelegatedLockList::new();
        while let Some(number) = member.files.poll_transmit(&mut list) {
            let list = std::mem::replace(&mut list, DelegatedLockList::new());
            member
                .requests
                .push_back(Request::Return(number, Box::new(list)));
            member.files.mark_sent(number);
        }
    }

    /// Lets a member set or release a lock.
    fn lock(&mut self, at: usize, lock: FileLock<'static>) {
        let member = &mut self.members[at];
        match member.files.set(vmid(at as u32 + 2), &lock) {
            Decision::Done(_) => {}
            Decision::Forward => {
                self.return_delegation(at);
                self.members[at].requests.push_back(Request::Lock(lock));
            }
            Decision::Request(number) => {
                member.requests.push_back(Request::Delegate(number, lock));
            }
        }
    }

    /// Lets a member ask for a number.
    fn draw(&mut self, at: usize, lock: FileLock<'static>) {
        let member = &mut self.members[at];
        match member.files.fencing_number(vmid(at as u32 + 2), &lock) {
            Fencing::Done(Ok(number)) => self.got(at, &lock, number),
            Fencing::Done(Err(errno)) => assert_eq!(errno, Errno::EPERM),
            Fencing::Forward => member.requests.push_back(Request::Number(lock)),
            Fencing::Request(number) => member.requests.push_back(Request::Block(number)),
        }
    }
}

#[test]
fn numbers_of_conflicting_locks_grow_in_the_order_of_their_grants() {
    let (mut drawn, mut changed_hands) = (0, 0);
    for seed in 0..300 {
        let mut rng = Rng::with_seed(seed);
        let mut family = Family::new();
        for _ in 0..1_000 {
            let at = rng.usize(..MEMBERS);
            let start = rng.u64(..BYTES);
            let lock = FileLock {
                family: LockFamily::Posix,
                kind: [LockKind::Write, LockKind::Write, LockKind::Unlock][rng.usize(..3)],
                start,
                end: rng.u64(start..BYTES),
                pid: 1,
                handle: 0,
                wait: false,
                path: FILES[rng.usize(..FILES.len())],
            };
            match rng.u8(..100) {
                0..30 => family.lock(at, lock),
                30..55 => family.draw(at, lock),
                55..78 => family.serve(at),
                78..99 => family.receive(at),
                // The process ends, and another one has its place.
                _ => {
                    let is_idle = family.members[at].requests.is_empty();
                    if is_idle && family.members[at].replies.is_empty() {
                        family.members[at].requests.push_back(Request::Left);
                        family.serve(at);
                        family.members[at].files = new_files();
                    }
                }
            }
        }
        drawn += family.drawn;
        changed_hands += family.changed_hands;
    }
    assert!(drawn > 3_000, "{drawn}");
    assert!(changed_hands > 500, "{changed_hands}");
}

#[test]
fn number_for_a_lock_that_is_not_held_is_refused() {
    let mut family = Family::new();
    let lock = |kind, start, end| FileLock {
        family: LockFamily::Flock,
        kind,
        start,
        end,
        pid: 1,
        handle: 7,
        wait: false,
        path: b"a",
    };
    let refused = Outcome::Answer(Answer::Fencing(Err(Errno::EPERM)));
    let number = |family: &mut Family, at, lock| family.request(at, Message::FencingNumber(lock));
    let ask = lock(LockKind::Write, 0, 0);
    assert_eq!(number(&mut family, 0, ask), refused);
    family.request(0, Message::FileLockSet(lock(LockKind::Read, 0, 0)));
    assert_eq!(number(&mut family, 0, ask), refused, "it may be shared");
    family.request(0, Message::FileLockSet(ask));
    let first = number(&mut family, 0, ask);
    let ops = family.leaders[0].ops();
    assert_eq!(first, Outcome::Answer(Answer::Fencing(Ok(ops << 20))));
    let other = FileLock { handle: 8, ..ask };
    assert_eq!(number(&mut family, 0, other), refused, "another open file");
    for range in [(0, 9), (10, 19)] {
        let record = FileLock {
            family: LockFamily::Posix,
            ..lock(LockKind::Write, range.0, range.1)
        };
        family.request(1, Message::FileLockSet(record));
    }
    for ((start, end), is_held) in [((3, 15), true), ((0, 19), true), ((0, 20), false)] {
        let record = FileLock {
            family: LockFamily::Posix,
            ..lock(LockKind::Write, start, end)
        };
        let outcome = number(&mut family, 1, record);
        assert_eq!(outcome != refused, is_held, "{start} to {end}");
    }
    let holding = Holding::Delegation;
    let block = Message::FencingBlock { holding, number: 3 };
    assert_eq!(family.request(1, block), refused);
}

#[test]
fn block_for_a_lease_needs_the_lease_to_change_the_value() {
    let mut family = Family::new();
    let refused = Outcome::Answer(Answer::Fencing(Err(Errno::EPERM)));
    let block = Message::FencingBlock {
        holding: Holding::Lease,
        number: 9,
    };
    assert_eq!(family.request(0, block), refused);
    for (state, is_held) in [(SyncState::Shared, false), (SyncState::Exclusive, true)] {
        family.apply(&Op::Sync {
            from: vmid(2),
            code: SyncCode::RequestUpgrade,
            sync: Sync {
                id: 9,
                state,
                data: &[],
            },
            is_extended: true,
        });
        assert_eq!(family.request(0, block) != refused, is_held, "{state:?}");
    }
    assert_eq!(family.request(1, block), refused);
}
