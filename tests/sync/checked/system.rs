//! The real machines, and the steps of the model.

use std::collections::VecDeque;

use libos_ipc::Vmid;
use libos_ipc::shared_state::{
    Acquisition, Client, LeaseLimits, RequestError, Server, ServerMessage,
};
use libos_ipc::store::Arena;
use libos_ipc::wire::{Sync, SyncCode, SyncState};

use super::Family;
use super::state::{Activity, InFlight, Observed, Step};
use crate::c_server::CServer;

fn vmid(process: usize) -> Vmid {
    Vmid::new(u32::try_from(process).unwrap() + 2).unwrap()
}

fn code(number: u8) -> SyncCode {
    *SyncCode::ALL
        .iter()
        .find(|code| code.number() == number)
        .unwrap()
}

fn state(number: i32) -> SyncState {
    *SyncState::ALL
        .iter()
        .find(|state| state.number() == number)
        .unwrap()
}

fn wanted(write: bool) -> SyncState {
    if write {
        SyncState::Exclusive
    } else {
        SyncState::Shared
    }
}

/// The real machines, and the messages between them.
pub(super) struct System<'m> {
    server: Server<'m>,
    clients: Vec<Vec<Client<'m>>>,
    pub(super) observed: Observed,
    /// The number of operations of the server.
    ops: u64,
    /// The change count of each client when it asked for fencing numbers.
    asked_at: Vec<u64>,
}

impl System<'_> {
    fn step(&mut self, step: Step) {
        match step {
            Step::Acquire {
                process,
                handle,
                write,
            } => {
                self.observed.uses_left[process] -= 1;
                self.clients[process][handle].change_waiters(wanted(write), 1);
                self.observed.activity[process] = Activity::Wants { handle, write };
                self.wake(process);
            }
            Step::Upgrade { process } => {
                let Activity::Uses { handle, .. } = self.observed.activity[process] else {
                    panic!("it does not read");
                };
                let taken = self.clients[process][handle].upgrade(true);
                self.finish_upgrade(process, handle, taken);
            }
            Step::Number { process } => {
                let Activity::Uses { handle, .. } = self.observed.activity[process] else {
                    panic!("it does not write");
                };
                self.take_number(process, handle);
            }
            Step::GiveUp { process } => self.give_up(process),
            Step::Wake { process } => self.wake(process),
            Step::Release { process } => self.release(process),
            Step::Close { process, handle } => {
                assert!(self.clients[process][handle].close());
            }
            Step::Receive { process } => self.receive(process),
            Step::Deliver { process } => self.deliver(process),
            Step::Die { process } => self.die(process),
        }
        self.send_client_messages();
        self.observe();
    }

    /// Ends the wait of a client, which fails.
    fn give_up(&mut self, process: usize) {
        self.observed.is_woken[process] = false;
        match self.observed.activity[process] {
            Activity::Wants { handle, write } => {
                self.clients[process][handle].change_waiters(wanted(write), -1);
                self.observed.activity[process] = Activity::Idle;
            }
            Activity::Upgrading { handle } => {
                self.clients[process][handle].cancel_upgrade();
                self.observed.activity[process] = Activity::MustRelease { handle };
            }
            at => panic!("{at:?} does not wait"),
        }
    }

    /// Ends a client, with its messages.
    fn die(&mut self, process: usize) {
        for handle in 0..self.clients[process].len() {
            // Its last change may be in flight.
            let is_data = |message: &InFlight| message.handle == handle && !message.data.is_empty();
            let had = self.clients[process][handle].current() == SyncState::Exclusive;
            self.observed.is_uncertain[handle] |=
                had || self.observed.to_server[process].iter().any(is_data);
        }
        if let Activity::Uses {
            handle,
            write: true,
        }
        | Activity::Numbering { handle } = self.observed.activity[process]
        {
            self.observed.owner_died[handle] = true;
        }
        self.server.reclaim(vmid(process));
        self.observed.is_woken[process] = false;
        self.observed.activity[process] = Activity::Dead;
        self.observed.has_number[process] = false;
        self.observed.unseen_numbers[process] = None;
        self.observed.to_server[process].clear();
        self.observed.from_server[process].clear();
        self.observed.requests.retain(|(of, _)| *of != process);
        self.send_server_messages();
    }

    /// Records what each client and the server show, and checks the invariants of the server.
    fn observe(&mut self) {
        for process in 0..self.clients.len() {
            for (handle, client) in self.clients[process].iter().enumerate() {
                let version = client.data().first().copied().unwrap_or(0);
                let closed = !client.is_open();
                self.observed.leases[process][handle] =
                    if self.observed.activity[process] == Activity::Dead {
                        (0, true, 0)
                    } else if closed {
                        (1, true, version)
                    } else {
                        (client.current().number(), closed, version)
                    };
            }
        }
        for handle in 0..self.observed.version.len() {
            // No client uses the handle, so its value is gone.
            let is_used = match &self.observed.in_c {
                Some(server) => server.is_used(handle as u64),
                None => self.server.is_used(handle as u64),
            };
            if !is_used {
                self.observed.version[handle] = 0;
                self.observed.is_uncertain[handle] = false;
                self.observed.owner_died[handle] = false;
            }
        }
        if !self.server.check_invariants() {
            self.observed.violation = Some("the server's invariants do not hold");
        }
    }

    /// Lets a waiting client try again.
    fn wake(&mut self, process: usize) {
        self.observed.is_woken[process] = false;
        match self.observed.activity[process] {
            Activity::Wants { handle, write } => {
                let client = &mut self.clients[process][handle];
                match client.acquire(wanted(write), true) {
                    Acquisition::Acquired => {
                        let (_, owner_died) = client.take_status();
                        self.observed.death_was_reported |= owner_died;
                        if self.observed.owner_died[handle] && !owner_died {
                            self.observed.violation = Some("a death was not reported");
                        }
                        self.observed.owner_died[handle] &= !write;
                        client.change_waiters(wanted(write), -1);
                        self.observed.activity[process] = Activity::Uses { handle, write };
                        self.check_version(process, handle);
                    }
                    Acquisition::Pending => {}
                    _ => self.observed.violation = Some("refused without a reason"),
                }
            }
            Activity::Upgrading { handle } => {
                let taken = self.clients[process][handle].upgrade(false);
                self.finish_upgrade(process, handle, taken);
            }
            Activity::Numbering { handle } => {
                if let Some(first) = self.observed.unseen_numbers[process].take() {
                    if first == 0 {
                        self.observed.violation = Some("a writer gets no number");
                        return;
                    }
                    let asked_at = self.asked_at[process];
                    self.clients[process][handle].add_fencing_block(asked_at, first);
                    self.take_number(process, handle);
                }
            }
            _ => {}
        }
    }

    /// Takes a fencing number, or asks the server for a block of them.
    fn take_number(&mut self, process: usize, handle: usize) {
        let client = &mut self.clients[process][handle];
        let Some(number) = client.take_fencing_number() else {
            self.asked_at[process] = client.change_count();
            self.observed.to_server[process].push_back(InFlight::numbers(handle, 0));
            self.observed.activity[process] = Activity::Numbering { handle };
            return;
        };
        let highest = &mut self.observed.highest[handle];
        if number <= *highest {
            self.observed.violation = Some("a number that an earlier writer may have had");
        }
        *highest = number;
        self.observed.has_number[process] = true;
        self.observed.activity[process] = Activity::Uses {
            handle,
            write: true,
        };
    }

    /// Returns all that is visible at the end.
    fn into_observed(mut self) -> Observed {
        for process in 0..self.clients.len() {
            let is_dead = self.observed.activity[process] == Activity::Dead;
            for (handle, client) in self.clients[process].iter_mut().enumerate() {
                let number = client.take_fencing_number();
                self.observed.next_numbers[process][handle] = number.filter(|_| !is_dead);
            }
            if let Activity::Numbering { handle } = self.observed.activity[process] {
                let count = self.clients[process][handle].change_count();
                self.observed.is_block_good[process] = count == self.asked_at[process];
            }
        }
        self.observed.rank_numbers();
        self.observed
    }

    /// Puts the messages of the clients in flight.
    fn send_client_messages(&mut self) {
        for process in 0..self.clients.len() {
            if self.observed.activity[process] == Activity::Dead {
                continue;
            }
            for handle in 0..self.clients[process].len() {
                let client = &mut self.clients[process][handle];
                while let Some(outgoing) = client.poll_transmit() {
                    if client.forwards_owner_death() {
                        client.mark_owner_death_sent();
                        self.observed.to_server[process].push_back(InFlight::owner_death(handle));
                    }
                    let data = client.payload(outgoing).data.to_vec();
                    client.mark_sent(outgoing);
                    self.observed.to_server[process].push_back(InFlight {
                        code: outgoing.code.number(),
                        handle,
                        state: outgoing.state.number(),
                        data,
                        owner_died: false,
                        numbers: None,
                    });
                }
            }
        }
    }

    fn finish_upgrade(&mut self, process: usize, handle: usize, taken: Acquisition) {
        self.observed.activity[process] = match taken {
            Acquisition::Acquired => {
                self.observed.owner_died[handle] = false;
                self.check_version(process, handle);
                Activity::Uses {
                    handle,
                    write: true,
                }
            }
            Acquisition::Pending => Activity::Upgrading { handle },
            Acquisition::Unsupported if self.observed.in_c.is_some() => {
                self.clients[process][handle].cancel_upgrade();
                self.observed.was_unsupported = true;
                Activity::MustRelease { handle }
            }
            Acquisition::UpgradeDeadlock => {
                self.clients[process][handle].cancel_upgrade();
                self.observed.upgrade_was_refused = true;
                Activity::MustRelease { handle }
            }
            _ => {
                self.observed.violation = Some("refused without a reason");
                Activity::MustRelease { handle }
            }
        };
    }

    /// Checks that the client sees the last committed version.
    fn check_version(&mut self, process: usize, handle: usize) {
        let version = self.clients[process][handle]
            .data()
            .first()
            .copied()
            .unwrap_or(0);
        let last = self.observed.version[handle];
        if self.observed.is_uncertain[handle] {
            if version > last {
                self.observed.violation = Some("a version that was never committed");
            }
            let is_alone = matches!(
                self.observed.activity[process],
                Activity::Uses { write: true, .. }
            );
            if is_alone {
                self.observed.version[handle] = version;
                self.observed.is_uncertain[handle] = false;
            }
        } else if version != last {
            self.observed.violation = Some("not the last version");
        }
    }

    fn release(&mut self, process: usize) {
        let (handle, write) = match self.observed.activity[process] {
            Activity::Uses { handle, write } => (handle, write),
            Activity::MustRelease { handle } => (handle, false),
            at => panic!("{at:?} has nothing"),
        };
        let next = self.observed.version[handle] + 1;
        if write {
            self.observed.version[handle] = next;
            self.clients[process][handle].data_mut(1)[0] = next;
            self.clients[process][handle].release(SyncState::Exclusive);
        } else {
            self.clients[process][handle].release(SyncState::Shared);
        }
        self.observed.has_number[process] = false;
        self.observed.activity[process] = Activity::Idle;
    }

    fn receive(&mut self, process: usize) {
        let message = self.observed.to_server[process].pop_front().unwrap();
        self.ops += 1;
        if message.numbers.is_some() {
            // As the leader does it: the numbers of an operation begin with its own number, times the size of a block.
            let is_writer = self
                .server
                .has_exclusive(vmid(process), message.handle as u64);
            let first = if is_writer { self.ops << 20 } else { 0 };
            self.observed.from_server[process].push_back(InFlight::numbers(message.handle, first));
            return;
        }
        if message.owner_died {
            let result = self
                .server
                .on_owner_died(vmid(process), message.handle as u64);
            if result.is_err() {
                self.observed.violation = Some("the server received a protocol violation");
            }
            return;
        }
        if let Some(server) = &mut self.observed.in_c {
            let id = message.handle as u64;
            let from = vmid(process).get();
            match server.on_message(from, message.code, id, message.state, &message.data) {
                Err(fault) => self.observed.violation = Some(fault),
                Ok(sent) => {
                    for sent in sent {
                        self.observed.from_server[sent.to as usize - 2].push_back(InFlight {
                            code: sent.code,
                            handle: message.handle,
                            state: sent.state,
                            data: sent.data,
                            owner_died: false,
                            numbers: None,
                        });
                    }
                }
            }
            return;
        }
        let sync = Sync {
            id: message.handle as u64,
            state: state(message.state),
            data: &message.data,
        };
        match self
            .server
            .on_message(vmid(process), code(message.code), &sync)
        {
            Ok(()) => {}
            Err(RequestError::ProtocolViolation) => {
                self.observed.violation = Some("the server received a protocol violation");
            }
            Err(RequestError::NoRoom | RequestError::Closed) => {
                self.observed.violation = Some("no room");
            }
        }
        let key = (process, message.handle);
        match code(message.code) {
            SyncCode::RequestUpgrade if state(message.state) == SyncState::Invalid => {
                self.observed.requests.retain(|of| *of != key);
            }
            SyncCode::RequestUpgrade if !self.observed.requests.contains(&key) => {
                self.observed.requests.push(key);
            }
            SyncCode::RequestClose => self.observed.requests.retain(|of| *of != key),
            _ => {}
        }
        self.send_server_messages();
    }

    /// Puts the messages of the server in flight.
    fn send_server_messages(&mut self) {
        while let Some((to, output)) = self.server.poll_transmit() {
            let message = match output {
                ServerMessage::Sync(code, sync) => InFlight {
                    code: code.number(),
                    handle: usize::try_from(sync.id).unwrap(),
                    state: sync.state.number(),
                    data: sync.data.to_vec(),
                    owner_died: false,
                    numbers: None,
                },
                ServerMessage::OwnerDied(id) => InFlight::owner_death(usize::try_from(id).unwrap()),
            };
            self.server.mark_sent();
            let process = to.get() as usize - 2;
            if message.code == SyncCode::ConfirmUpgrade.number() {
                let key = (process, message.handle);
                self.observed.requests.retain(|of| *of != key);
            }
            self.observed.from_server[process].push_back(message);
        }
    }

    fn deliver(&mut self, process: usize) {
        let message = self.observed.from_server[process].pop_front().unwrap();
        self.observed.is_woken[process] = matches!(
            self.observed.activity[process],
            Activity::Wants { .. } | Activity::Upgrading { .. } | Activity::Numbering { .. }
        );
        if message.numbers.is_some() {
            self.observed.unseen_numbers[process] = message.numbers;
            return;
        }
        let client = &mut self.clients[process][message.handle];
        if message.owner_died {
            client.on_owner_died();
            return;
        }
        let sync = Sync {
            id: message.handle as u64,
            state: state(message.state),
            data: &message.data,
        };
        if client.on_message(code(message.code), &sync).is_err() {
            self.observed.violation = Some("a client received a protocol violation");
        }
    }
}

/// Returns the observed state after these steps.
pub(super) fn observed_after(family: &Family, steps: &[Step]) -> Observed {
    let limits = LeaseLimits {
        handles: family.handles,
        clients: family.clients * family.handles,
    };
    let mut memory = Box::new_uninit_slice(Server::bytes(&limits, 1));
    let mut data = vec![[0_u8; 1]; family.clients * family.handles];
    let mut data = data.iter_mut();
    let mut clients = Vec::new();
    for _ in 0..family.clients {
        let mut own = Vec::new();
        for handle in 0..family.handles {
            let mut client = Client::new(data.next().unwrap());
            client.open(handle as u64, !family.in_c);
            own.push(client);
        }
        clients.push(own);
    }
    let none = vec![VecDeque::new(); family.clients];
    let mut system = System {
        server: Server::new(&mut Arena::new(&mut memory), &limits, 1).unwrap(),
        clients,
        observed: Observed {
            activity: vec![Activity::Idle; family.clients],
            uses_left: vec![family.times; family.clients],
            leases: vec![vec![(1, false, 0); family.handles]; family.clients],
            to_server: none.clone(),
            from_server: none,
            version: vec![0; family.handles],
            is_uncertain: vec![false; family.handles],
            owner_died: vec![false; family.handles],
            has_number: vec![false; family.clients],
            unseen_numbers: vec![None; family.clients],
            is_block_good: vec![false; family.clients],
            next_numbers: vec![vec![None; family.handles]; family.clients],
            highest: vec![0; family.handles],
            violation: None,
            upgrade_was_refused: false,
            was_unsupported: false,
            in_c: family.in_c.then(CServer::default),
            death_was_reported: false,
            requests: Vec::new(),
            is_woken: vec![false; family.clients],
        },
        ops: 0,
        asked_at: vec![0; family.clients],
    };
    for step in steps {
        system.step(*step);
    }
    system.into_observed()
}
