//! A state of the family: what each has and does, what is under way, and the steps that led there.

use std::collections::VecDeque;

use crate::c_server::CServer;
use crate::walk::Walk;

/// A message under way: its data is the version of the value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Letter {
    pub(super) code: u8,
    pub(super) handle: usize,
    pub(super) state: i32,
    pub(super) data: Vec<u8>,
    pub(super) owner_died: bool,
}

impl Letter {
    pub(super) fn of_death(handle: usize) -> Letter {
        Letter {
            code: 0,
            handle,
            state: 0,
            data: Vec::new(),
            owner_died: true,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// A client wants a handle.
    Acquire {
        who: usize,
        handle: usize,
        write: bool,
    },
    /// One that reads wants to change.
    Upgrade {
        who: usize,
    },
    /// One that waits looks whether something has changed.
    Wake {
        who: usize,
    },
    /// One that waits gives up.
    GiveUp {
        who: usize,
    },
    /// One gives back, having changed what it could.
    Give {
        who: usize,
    },
    Close {
        who: usize,
        handle: usize,
    },
    /// The server hears the next of the client.
    Receive {
        who: usize,
    },
    /// The client hears the next of the server.
    Deliver {
        who: usize,
    },
    Die {
        who: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum At {
    Idle,
    Wants {
        handle: usize,
        write: bool,
    },
    Upgrading {
        handle: usize,
    },
    Uses {
        handle: usize,
        write: bool,
    },
    /// It has upgraded and was told to let go.
    MustLetGo {
        handle: usize,
    },
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    pub(super) at: Vec<At>,
    pub(super) left: Vec<usize>,
    /// By client and handle: what it has, and whether it is closed.
    pub(super) has: Vec<Vec<(i32, bool, u8)>>,
    pub(super) up: Vec<VecDeque<Letter>>,
    pub(super) down: Vec<VecDeque<Letter>>,
    /// The last version of each handle that somebody committed, and those that may have died with
    /// their writer.
    pub(super) version: Vec<u8>,
    pub(super) in_doubt: Vec<bool>,
    /// A process died changing the handle, and nobody else has had it to change it since.
    pub(super) is_orphan: Vec<bool>,
    pub(super) wrong: Option<&'static str>,
    pub(super) was_told_to_let_go: bool,
    /// A client of a server in C was refused to go on from reading to changing.
    pub(super) was_unsupported: bool,
    pub(super) heard_of_death: bool,
    /// The server, if it is one in C.
    pub(super) in_c: Option<CServer>,
    /// What the server still has in mind besides: the order of those who ask.
    pub(super) asking: Vec<(usize, usize)>,
    /// Who is to look again.
    pub(super) woken: Vec<bool>,
}

pub(super) type State = Walk<Step, Seen>;
