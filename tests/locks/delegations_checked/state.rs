//! A state of the family: the locks and calls of each member, the messages in transit, and the
//! steps that led there.

use libos_ipc::Errno;
use std::collections::VecDeque;

use crate::walk::Walk;

/// A message of a member to its leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ToLeader {
    Delegate {
        number: u64,
        write: bool,
        wait: bool,
    },
    Set {
        write: bool,
        wait: bool,
    },
    Unlock,
    /// Asks for a fencing number.
    Number,
    /// Asks for a block of fencing numbers for this delegation.
    Block(u64),
    /// Returns the delegation with its locks: the first and last byte of each, and whether it is a write lock.
    Return {
        number: u64,
        locks: Vec<(u64, u64, bool)>,
    },
}

/// A message of the leader to a member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum FromLeader {
    Answer(Answered),
    Recall(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Answered {
    Lock(Result<u32, Errno>),
    Numbers(Result<u64, Errno>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Lock {
        member: usize,
        write: bool,
        wait: bool,
    },
    Unlock {
        member: usize,
    },
    /// The holder of a write lock asks for a fencing number.
    Number {
        member: usize,
    },
    /// The leader receives the next message of the member.
    Deliver {
        member: usize,
    },
    /// A member returns the file of its own accord, because it has reached a limit.
    Return {
        member: usize,
    },
    /// The caller receives the answer.
    Wake {
        member: usize,
    },
    /// The member receives the next message of the leader.
    Receive {
        member: usize,
    },
    Die {
        member: usize,
    },
    /// A member uses the file so often while nobody else does that the leader delegates it again.
    UseAlone {
        member: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Activity {
    Idle,
    Locking {
        write: bool,
        wait: bool,
        requested: Option<u64>,
    },
    Unlocking,
    Holding {
        write: bool,
        has_number: bool,
    },
    /// The holder of a write lock waits for fencing numbers: those of a delegation, or for one number.
    Numbering {
        delegation: Option<u64>,
    },
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Observed {
    pub(super) activities: Vec<Activity>,
    pub(super) requests_left: Vec<usize>,
    pub(super) to_leader: Vec<VecDeque<ToLeader>>,
    pub(super) from_leader: Vec<VecDeque<FromLeader>>,
    /// The delegation of each member.
    pub(super) delegations: Vec<Option<u64>>,
    /// An answer that has arrived and that the caller has not received yet.
    pub(super) undelivered: Vec<Option<Answered>>,
    /// The highest fencing number that a holder got.
    pub(super) highest: u64,
    /// The last fencing number that each member took from those of a delegation.
    pub(super) last_numbers: Vec<u64>,
    /// The next fencing number that each member would take for a lock that it grants itself.
    pub(super) next_numbers: Vec<Option<u64>>,
    /// The member that used the file alone for a while.
    pub(super) sole_user: Option<usize>,
    /// The members that have made requests since, for the leader's record of contention.
    pub(super) requesters: Vec<usize>,
    /// The number of delegations at the leader.
    pub(super) delegated: usize,
    pub(super) violation: Option<&'static str>,
    /// A recall has arrived at a member that had returned the file.
    pub(super) has_recall_crossed: bool,
}

impl Observed {
    /// Returns true if nobody has or wants the file, and no message is in transit.
    pub(super) fn is_quiet(&self) -> bool {
        let is_idle = |at: &Activity| matches!(at, Activity::Idle | Activity::Dead);
        self.activities.iter().all(is_idle)
            && self.to_leader.iter().all(VecDeque::is_empty)
            && self.from_leader.iter().all(VecDeque::is_empty)
            && self.delegations.iter().all(Option::is_none)
    }

    /// Replaces each fencing number by the count of lower ones: only their order decides what may happen.
    pub(super) fn rank_numbers(&mut self) {
        let mut numbers = Vec::new();
        self.each_number(|number| numbers.push(*number));
        numbers.sort_unstable();
        numbers.dedup();
        self.each_number(|number| *number = numbers.binary_search(number).unwrap() as u64);
    }

    fn each_number(&mut self, mut visit: impl FnMut(&mut u64)) {
        visit(&mut self.highest);
        self.last_numbers.iter_mut().for_each(&mut visit);
        self.next_numbers.iter_mut().flatten().for_each(&mut visit);
        let on_the_way =
            self.from_leader
                .iter_mut()
                .flatten()
                .filter_map(|message| match message {
                    FromLeader::Answer(answered) => Some(answered),
                    FromLeader::Recall(_) => None,
                });
        for answered in on_the_way.chain(self.undelivered.iter_mut().flatten()) {
            if let Answered::Numbers(Ok(number)) = answered {
                visit(number);
            }
        }
    }
}

pub(super) type State = Walk<Step, Observed>;
