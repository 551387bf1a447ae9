//! A state of the model: the leases and activities of the clients, the messages in flight, and the
//! steps that led there.

use std::collections::VecDeque;

use crate::c_server::CServer;
use crate::walk::Walk;

/// A message in flight: its data is the version of the value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct InFlight {
    pub(super) code: u8,
    pub(super) handle: usize,
    pub(super) state: i32,
    pub(super) data: Vec<u8>,
    pub(super) owner_died: bool,
}

impl InFlight {
    pub(super) fn owner_death(handle: usize) -> InFlight {
        InFlight {
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
    /// A client begins to acquire a handle.
    Acquire {
        process: usize,
        handle: usize,
        write: bool,
    },
    /// A reader begins to upgrade.
    Upgrade {
        process: usize,
    },
    /// A waiting client polls.
    Wake {
        process: usize,
    },
    /// A waiting client gives up.
    GiveUp {
        process: usize,
    },
    /// A client releases its handle, after it changed the value if it could.
    Release {
        process: usize,
    },
    Close {
        process: usize,
        handle: usize,
    },
    /// The server receives the next message of the client.
    Receive {
        process: usize,
    },
    /// The client receives the next message of the server.
    Deliver {
        process: usize,
    },
    Die {
        process: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Activity {
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
    /// Its upgrade has failed, so it must release the handle.
    MustRelease {
        handle: usize,
    },
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Observed {
    pub(super) activity: Vec<Activity>,
    pub(super) left: Vec<usize>,
    /// By client and handle: the lease, whether the handle is closed, and the version of the value.
    pub(super) has: Vec<Vec<(i32, bool, u8)>>,
    pub(super) up: Vec<VecDeque<InFlight>>,
    pub(super) down: Vec<VecDeque<InFlight>>,
    /// By handle: the last version that a client committed, and whether a later one may have died
    /// with its writer.
    pub(super) version: Vec<u8>,
    pub(super) is_uncertain: Vec<bool>,
    /// By handle: a process died while it changed the value, and no other has held the lease to
    /// change it since.
    pub(super) owner_died: Vec<bool>,
    pub(super) wrong: Option<&'static str>,
    pub(super) upgrade_was_refused: bool,
    /// A server in C made an upgrade impossible.
    pub(super) was_unsupported: bool,
    pub(super) death_was_reported: bool,
    /// The model of the C implementation's server, if that is used.
    pub(super) in_c: Option<CServer>,
    /// The order of the requests at the server, which is part of its state.
    pub(super) requests: Vec<(usize, usize)>,
    /// The clients that are to poll.
    pub(super) is_woken: Vec<bool>,
}

pub(super) type State = Walk<Step, Observed>;
