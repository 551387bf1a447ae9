//! A state of the family: the locks and calls of each member, the messages in transit, and the
//! steps that led there.

use libos_ipc::Errno;
use std::collections::VecDeque;

use crate::walk::Walk;

/// A message of a member to its leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Up {
    Borrow {
        number: u64,
        write: bool,
        wait: bool,
    },
    Set {
        write: bool,
        wait: bool,
    },
    Unlock,
    Return {
        number: u64,
        locks: Vec<(u64, u64, bool)>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Down {
    Answer(Result<u32, Errno>),
    Recall(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Lock {
        who: usize,
        write: bool,
        wait: bool,
    },
    Unlock {
        who: usize,
    },
    /// The leader receives the next message of the member.
    Deliver {
        who: usize,
    },
    /// A member returns the file of its own accord, because it has reached a limit.
    Return {
        who: usize,
    },
    /// The caller receives the answer.
    Wake {
        who: usize,
    },
    /// The member receives the next message of the leader.
    Receive {
        who: usize,
    },
    Die {
        who: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum At {
    Idle,
    Locking {
        write: bool,
        wait: bool,
        borrowing: Option<u64>,
    },
    Unlocking,
    Holding {
        write: bool,
    },
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    pub(super) at: Vec<At>,
    pub(super) left: Vec<usize>,
    pub(super) up: Vec<VecDeque<Up>>,
    pub(super) down: Vec<VecDeque<Down>>,
    /// The delegation of each member.
    pub(super) here: Vec<Option<u64>>,
    /// An answer that has arrived and that the caller has not received yet.
    pub(super) unseen: Vec<Option<Result<u32, Errno>>>,
    /// The members that made requests, for the leader's record of contention.
    pub(super) asked: Vec<usize>,
    pub(super) delegated: usize,
    pub(super) wrong: Option<&'static str>,
    pub(super) crossed: bool,
}

pub(super) type State = Walk<Step, Seen>;
