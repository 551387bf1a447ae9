//! A state of the family: what each has and does, what is under way, and the steps that led there.

use std::collections::VecDeque;

use crate::walk::Walk;

/// What a member asks of its leader.
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
    Answer(i32),
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
    /// The leader hears the next that the member has said.
    Hear {
        who: usize,
    },
    /// A member gives back of its own accord: it has come to a limit.
    GiveBack {
        who: usize,
    },
    /// The caller sees the answer.
    Wake {
        who: usize,
    },
    /// The member hears the next that the leader has said.
    Told {
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
    /// What is lent to each.
    pub(super) here: Vec<Option<u64>>,
    /// An answer that has come, and that the caller has not seen yet.
    pub(super) unseen: Vec<Option<i32>>,
    /// Who asked the leader, for what it thinks of a quarrel.
    pub(super) asked: Vec<usize>,
    pub(super) lent: usize,
    pub(super) wrong: Option<&'static str>,
    pub(super) crossed: bool,
}

pub(super) type State = Walk<Step, Seen>;
