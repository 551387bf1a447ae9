//! Random operations of a family.

use std::vec;
use std::vec::Vec;

use super::*;

/// Random operations, some of which need the state that others have made.
pub(super) struct Program {
    pub(super) rng: fastrand::Rng,
    ranges: Vec<(u32, IdRange)>,
    vmids: Vec<u32>,
    /// The last recalls, and the signals that wait for an answer.
    recalls: Vec<(Vmid, u64)>,
    signals: Vec<(Vmid, u64)>,
    /// The members that leave: the kind of work that is next, and what is left of it.
    leaving: Vec<(u8, Vmid, u64)>,
    data: Vec<u8>,
}

impl Program {
    pub(super) fn new(seed: u64) -> Program {
        Program {
            rng: fastrand::Rng::with_seed(seed),
            ranges: Vec::new(),
            vmids: vec![2, 3, 4],
            recalls: Vec::new(),
            signals: Vec::new(),
            leaving: Vec::new(),
            data: (0..5_000_u32).map(|at| (at % 251) as u8).collect(),
        }
    }

    fn member(&mut self) -> Vmid {
        let at = self.rng.usize(..=self.vmids.len());
        let vmid = self.vmids.get(at).map_or(1, |vmid| *vmid);
        Vmid::new(vmid).unwrap()
    }

    fn id(&mut self) -> u32 {
        let at = self.rng.usize(..=self.ranges.len());
        match self.ranges.get(at) {
            Some((_, range)) => self.rng.u32(range.start..=range.end),
            None => self.rng.u32(1..80),
        }
    }

    /// Applies the next operation to all leaders, and checks that they come to the same outcome.
    pub(super) fn step(&mut self, leaders: &mut [&mut Leader<'_>]) {
        let path_length = self.rng.usize(1..200);
        let path = format!("{0}{1:2$}", self.rng.u8(..9), "x", path_length);
        let path = &path.as_bytes()[..if self.rng.bool() { 1 } else { path_length }];
        let data = core::mem::take(&mut self.data);
        let list = DelegatedLockList::new();
        let mut message = None;
        let op = self.op(leaders[0], path, &data, &list, &mut message);
        let mut outcomes = leaders.iter_mut().map(|leader| leader.apply(&op));
        let outcome = outcomes.next().unwrap();
        assert!(outcomes.all(|other| other == outcome), "{op:?}");
        let digests: Vec<u64> = leaders.iter().map(|leader| leader.digest()).collect();
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{op:?}");
        let messages: Vec<_> = leaders
            .iter()
            .map(|leader| leader.poll_transmit())
            .collect();
        assert!(
            messages.iter().all(|message| *message == messages[0]),
            "{op:?}"
        );
        match (&op, outcome) {
            (Op::Request { from, .. }, Outcome::Answer(Answer::IdRange(range)))
                if range.start > 0 =>
            {
                self.ranges.push((from.get(), range));
            }
            (_, Outcome::Answer(Answer::Vmid(vmid))) if vmid != 0 && self.vmids.len() < 8 => {
                self.vmids.push(vmid);
            }
            (Op::ReclaimLocks { owner, .. }, Outcome::Remaining(left)) => {
                self.goes_on(0, *owner, left);
            }
            (Op::ReclaimLeases { owner, .. }, Outcome::Remaining(left)) => {
                self.goes_on(1, *owner, left);
            }
            (Op::ReclaimChildren { owner, .. }, Outcome::Remaining(left)) => {
                self.goes_on(2, *owner, left);
            }
            (Op::RevokeGrants(owner), Outcome::Remaining(left)) => {
                self.goes_on(3, *owner, left);
            }
            (Op::ReclaimRanges { owner, .. }, Outcome::Remaining(left)) => {
                self.goes_on(4, *owner, left);
            }
            _ => {}
        }
        self.data = data;
    }

    fn goes_on(&mut self, kind: u8, owner: Vmid, left: u64) {
        let next = if left > 0 {
            (kind, owner, left)
        } else {
            (kind + 1, owner, u64::MAX)
        };
        self.leaving.push(next);
    }

    fn op<'a>(
        &mut self,
        leader: &Leader<'_>,
        path: &'a [u8],
        data: &'a [u8],
        list: &'a DelegatedLockList,
        room: &'a mut Option<Message<'a>>,
    ) -> Op<'a> {
        let (from, other) = (self.member(), self.member());
        if let Some((kind, owner, left)) = self.leaving.pop() {
            return match kind {
                0 => Op::ReclaimLocks { owner, left },
                1 => Op::ReclaimLeases { owner, left },
                2 => Op::ReclaimChildren { owner, left },
                3 => Op::RevokeGrants(owner),
                4 => Op::ReclaimRanges {
                    owner,
                    left: left.min(64),
                },
                _ => Op::Left(owner),
            };
        }
        if self.rng.u8(..4) == 0
            && let Some(outgoing) = leader.poll_transmit()
        {
            let id = outgoing.id;
            match outgoing.content {
                Content::Signal(signal) => self.signals.push((outgoing.to, signal.seq)),
                Content::Message(Message::FileLockRecall(number)) => {
                    self.recalls.push((outgoing.to, number));
                }
                _ => {}
            }
            let is_answer = matches!(id, OutgoingId::LockAnswer | OutgoingId::SignalAnswer);
            if !is_answer && self.rng.u8(..5) == 0 {
                return Op::Requeued(id);
            }
            let is_extended = self.rng.u8(..4) > 0;
            return Op::Transmitted { id, is_extended };
        }
        let kill = PidKill {
            sender: self.id(),
            pid: self.id(),
            id: self.id(),
            signal: self.rng.i32(1..65),
            target: [KillTarget::Process, KillTarget::Thread, KillTarget::All][self.rng.usize(..3)],
        };
        match self.rng.u8(..40) {
            0 => return Op::Connected(from),
            1 => {
                let hello = Hello {
                    version: Hello::VERSION,
                    features: 0,
                    pid: self.id(),
                    parent: other.get(),
                };
                return Op::Join(from, hello);
            }
            2 => {
                return Op::ConfirmGrants {
                    to: from,
                    left: u64::MAX,
                    allows_notices: true,
                };
            }
            3 => return Op::Signal(from, kill),
            4 => {
                return Op::SignalAll {
                    from,
                    seq: 0,
                    kill,
                    result: Ok(()),
                };
            }
            5 => {
                if let Some((from, seq)) = self.signals.pop() {
                    let result = if self.rng.bool() {
                        Ok(())
                    } else {
                        Err(crate::error::Errno::EPERM)
                    };
                    return Op::SignalAnswered { from, seq, result };
                }
                return Op::RetryTransmit;
            }
            6..=13 => {
                return self.sync(from, data);
            }
            14 if self.rng.u8(..4) == 0 => return Op::OwnerDied(from, self.rng.u64(..8)),
            15 if from != Vmid::LEADER && self.rng.u8(..4) == 0 => {
                self.vmids.retain(|vmid| *vmid != from.get());
                self.leaving.push((0, from, u64::MAX));
            }
            16 => return Op::RetryTransmit,
            17 => return Op::ReleaseLocks,
            18 => return Op::RunUnjoined(from),
            19 => return Op::Announce(Vmid::new(self.rng.u32(2..40)).unwrap()),
            _ => {}
        }
        self.request((from, other), path, list, room)
    }

    fn sync<'a>(&mut self, from: Vmid, data: &'a [u8]) -> Op<'a> {
        let sync = Sync {
            id: self.rng.u64(..8),
            state: [SyncState::Shared, SyncState::Exclusive, SyncState::Invalid]
                [self.rng.usize(..3)],
            data: &[],
        };
        let code = match self.rng.u8(..6) {
            0 => SyncCode::RequestClose,
            1 | 2 => SyncCode::ConfirmDowngrade,
            _ => SyncCode::RequestUpgrade,
        };
        let data = if code == SyncCode::RequestUpgrade {
            &[][..]
        } else {
            &data[..self.rng.usize(..data.len())]
        };
        Op::Sync {
            from,
            code,
            sync: Sync { data, ..sync },
            is_extended: from.get().is_multiple_of(2),
        }
    }

    fn request<'a>(
        &mut self,
        (from, other): (Vmid, Vmid),
        path: &'a [u8],
        list: &'a DelegatedLockList,
        room: &'a mut Option<Message<'a>>,
    ) -> Op<'a> {
        let lock = FileLock {
            family: [LockFamily::Posix, LockFamily::Ofd, LockFamily::Flock][self.rng.usize(..3)],
            kind: [LockKind::Read, LockKind::Write, LockKind::Unlock][self.rng.usize(..3)],
            start: self.rng.u64(..50),
            end: self.rng.u64(50..100),
            pid: self.rng.u32(1..4),
            handle: self.rng.u64(1..6),
            wait: self.rng.bool(),
            path,
        };
        let handle = self.rng.u64(1..6);
        let message = match self.rng.u8(..20) {
            0 | 1 => Message::AllocIdRange,
            2 => Message::GetNewVmid,
            3 => Message::ChangeIdOwner {
                id: self.id(),
                owner: other.get(),
            },
            4 => Message::ProcessStart {
                vmid: other.get(),
                pid: self.id(),
            },
            5..=8 => Message::FileLockSet(lock),
            9 => Message::FileLockDelegate(FileLock {
                family: LockFamily::Posix,
                kind: LockKind::Write,
                ..lock
            }),
            10 => Message::FileLockGet(lock),
            11 => Message::FileLockCancel(self.rng.u64(1..20)),
            12 => Message::FileLockClearPid(self.rng.u32(1..4)),
            13 => Message::FileLockReturn {
                delegation: self
                    .recalls
                    .pop()
                    .map_or(self.rng.u64(1..20), |(_, number)| number),
                locks: list.locks(),
            },
            14 | 15 => Message::FileHandle {
                handle,
                held: self.rng.u8(..4) > 0,
                vmid: if self.rng.bool() { other.get() } else { 0 },
            },
            16 => Message::FileGiven {
                handle,
                vmid: other.get(),
            },
            17 => Message::ProcessChange {
                what: [
                    ProcessChange::Group,
                    ProcessChange::Session,
                    ProcessChange::Stopped,
                ][self.rng.usize(..3)],
                pid: 0,
                value: self.id(),
            },
            18 => Message::ProcessReap(self.id()),
            _ => Message::ProcessNote(RelativeNote {
                note: ProcessNote::WatchParent,
                pid: 0,
                vmid: 0,
            }),
        };
        Op::Request {
            from,
            seq: self.rng.u64(1..20),
            message: room.insert(message),
            other: [Presence::Absent, Presence::Connected, Presence::Extended][self.rng.usize(..3)],
        }
    }
}
