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
    /// For a message about fencing numbers: the first number of a block; 0 in a request and for a refusal.
    pub(super) numbers: Option<u64>,
}

impl InFlight {
    pub(super) fn owner_death(handle: usize) -> InFlight {
        InFlight {
            code: 0,
            handle,
            state: 0,
            data: Vec::new(),
            owner_died: true,
            numbers: None,
        }
    }

    pub(super) fn numbers(handle: usize, first: u64) -> InFlight {
        InFlight {
            owner_died: false,
            numbers: Some(first),
            ..Self::owner_death(handle)
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
    /// The writer asks for a fencing number.
    Number {
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
    /// The writer waits for fencing numbers.
    Numbering {
        handle: usize,
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
    pub(super) uses_left: Vec<usize>,
    /// By client and handle: the lease, whether the handle is closed, and the version of the value.
    pub(super) leases: Vec<Vec<(i32, bool, u8)>>,
    pub(super) to_server: Vec<VecDeque<InFlight>>,
    pub(super) from_server: Vec<VecDeque<InFlight>>,
    /// By handle: the last version that a client committed, and whether a later one may have died
    /// with its writer.
    pub(super) version: Vec<u8>,
    pub(super) is_uncertain: Vec<bool>,
    /// By handle: a process died while it changed the value, and no other has held the lease to
    /// change it since.
    pub(super) owner_died: Vec<bool>,
    /// The clients that have got a fencing number for the present use.
    pub(super) has_number: Vec<bool>,
    /// The first number of a block that has arrived and that the caller has not received yet.
    pub(super) unseen_numbers: Vec<Option<u64>>,
    /// Whether the block counts that each client waits for: its lease has not changed since it asked.
    pub(super) is_block_good: Vec<bool>,
    /// By client and handle: the next number of the block that the client has.
    pub(super) next_numbers: Vec<Vec<Option<u64>>>,
    /// By handle: the highest number that a client got.
    pub(super) highest: Vec<u64>,
    pub(super) violation: Option<&'static str>,
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

impl Observed {
    /// Replaces each fencing number by the count of lower ones: only their order decides what may happen.
    pub(super) fn rank_numbers(&mut self) {
        let mut numbers = vec![0];
        self.each_number(|number| numbers.push(*number));
        numbers.sort_unstable();
        numbers.dedup();
        self.each_number(|number| *number = numbers.binary_search(number).unwrap() as u64);
    }

    fn each_number(&mut self, visit: impl FnMut(&mut u64)) {
        let messages = self
            .to_server
            .iter_mut()
            .chain(&mut self.from_server)
            .flatten();
        let in_flight = messages.filter_map(|message| message.numbers.as_mut());
        let in_clients = self.next_numbers.iter_mut().flatten().flatten();
        let unseen = self.unseen_numbers.iter_mut().flatten();
        let numbers = in_flight.chain(in_clients).chain(unseen);
        numbers.chain(&mut self.highest).for_each(visit);
    }
}

pub(super) type State = Walk<Step, Observed>;
