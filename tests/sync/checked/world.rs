//! The real machines, and what becomes of them in a step.

use std::collections::VecDeque;

use libos_ipc::Vmid;
use libos_ipc::shared_state::{
    Acquisition, Client, LeaseLimits, RequestError, Server, ServerMessage,
};
use libos_ipc::store::Arena;
use libos_ipc::wire::{Sync, SyncCode, SyncState};

use super::Family;
use super::state::{At, Letter, Seen, Step};
use crate::c_server::CServer;

fn vmid(who: usize) -> Vmid {
    Vmid::new(u32::try_from(who).unwrap() + 2).unwrap()
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

/// The real machines, and what is under way between them.
pub(super) struct World<'m> {
    server: Server<'m>,
    clients: Vec<Vec<Client<'m>>>,
    pub(super) seen: Seen,
}

impl World<'_> {
    fn step(&mut self, step: Step) {
        match step {
            Step::Acquire { who, handle, write } => {
                self.seen.left[who] -= 1;
                self.clients[who][handle].change_waiters(wanted(write), 1);
                self.seen.at[who] = At::Wants { handle, write };
                self.wake(who);
            }
            Step::Upgrade { who } => {
                let At::Uses { handle, .. } = self.seen.at[who] else {
                    panic!("it does not read");
                };
                let taken = self.clients[who][handle].upgrade(true);
                self.upgraded(who, handle, taken);
            }
            Step::GiveUp { who } => {
                self.seen.woken[who] = false;
                match self.seen.at[who] {
                    At::Wants { handle, write } => {
                        self.clients[who][handle].change_waiters(wanted(write), -1);
                        self.seen.at[who] = At::Idle;
                    }
                    At::Upgrading { handle } => {
                        self.clients[who][handle].cancel_upgrade();
                        self.seen.at[who] = At::MustLetGo { handle };
                    }
                    at => panic!("{at:?} does not wait"),
                }
            }
            Step::Wake { who } => self.wake(who),
            Step::Give { who } => self.give(who),
            Step::Close { who, handle } => {
                assert!(self.clients[who][handle].close());
            }
            Step::Receive { who } => self.receive(who),
            Step::Deliver { who } => self.told(who),
            Step::Die { who } => {
                for handle in 0..self.clients[who].len() {
                    // What it has changed last may have been under way.
                    let is_data =
                        |letter: &Letter| letter.handle == handle && !letter.data.is_empty();
                    let had = self.clients[who][handle].current() == SyncState::Exclusive;
                    self.seen.in_doubt[handle] |= had || self.seen.up[who].iter().any(is_data);
                }
                if let At::Uses {
                    handle,
                    write: true,
                } = self.seen.at[who]
                {
                    self.seen.is_orphan[handle] = true;
                }
                self.server.reclaim(vmid(who));
                self.seen.woken[who] = false;
                self.seen.at[who] = At::Dead;
                self.seen.up[who].clear();
                self.seen.down[who].clear();
                self.seen.asking.retain(|(of, _)| *of != who);
                self.post();
            }
        }
        self.say();
        for who in 0..self.clients.len() {
            for (handle, client) in self.clients[who].iter().enumerate() {
                let version = client.data().first().copied().unwrap_or(0);
                let closed = !client.is_open();
                self.seen.has[who][handle] = if self.seen.at[who] == At::Dead {
                    (0, true, 0)
                } else if closed {
                    (1, true, version)
                } else {
                    (client.current().number(), closed, version)
                };
            }
        }
        for handle in 0..self.seen.version.len() {
            // Nobody has used it, or nobody does any more: its data is gone.
            let is_used = match &self.seen.in_c {
                Some(server) => server.is_used(handle as u64),
                None => self.server.is_used(handle as u64),
            };
            if !is_used {
                self.seen.version[handle] = 0;
                self.seen.in_doubt[handle] = false;
                self.seen.is_orphan[handle] = false;
            }
        }
        if !self.server.check_invariants() {
            self.seen.wrong = Some("the server is not sound");
        }
    }

    fn wake(&mut self, who: usize) {
        self.seen.woken[who] = false;
        match self.seen.at[who] {
            At::Wants { handle, write } => {
                let client = &mut self.clients[who][handle];
                match client.acquire(wanted(write)) {
                    Acquisition::Acquired => {
                        let (_, owner_died) = client.take_status();
                        self.seen.heard_of_death |= owner_died;
                        if self.seen.is_orphan[handle] && !owner_died {
                            self.seen.wrong = Some("not told of a death");
                        }
                        self.seen.is_orphan[handle] &= !write;
                        client.change_waiters(wanted(write), -1);
                        self.seen.at[who] = At::Uses { handle, write };
                        self.look(who, handle);
                    }
                    Acquisition::Pending => {}
                    _ => self.seen.wrong = Some("refused for nothing"),
                }
            }
            At::Upgrading { handle } => {
                let taken = self.clients[who][handle].upgrade(false);
                self.upgraded(who, handle, taken);
            }
            _ => {}
        }
    }

    /// What the clients have to say is under way.
    fn say(&mut self) {
        for who in 0..self.clients.len() {
            if self.seen.at[who] == At::Dead {
                continue;
            }
            for handle in 0..self.clients[who].len() {
                let client = &mut self.clients[who][handle];
                while let Some(say) = client.poll_transmit() {
                    if client.forwards_owner_death() {
                        client.mark_owner_death_sent();
                        self.seen.up[who].push_back(Letter::of_death(handle));
                    }
                    let data = client.payload(say).data.to_vec();
                    client.mark_sent(say);
                    self.seen.up[who].push_back(Letter {
                        code: say.code.number(),
                        handle,
                        state: say.state.number(),
                        data,
                        owner_died: false,
                    });
                }
            }
        }
    }

    fn upgraded(&mut self, who: usize, handle: usize, taken: Acquisition) {
        self.seen.at[who] = match taken {
            Acquisition::Acquired => {
                self.seen.is_orphan[handle] = false;
                self.look(who, handle);
                At::Uses {
                    handle,
                    write: true,
                }
            }
            Acquisition::Pending => At::Upgrading { handle },
            Acquisition::Unsupported if self.seen.in_c.is_some() => {
                self.clients[who][handle].cancel_upgrade();
                self.seen.was_unsupported = true;
                At::MustLetGo { handle }
            }
            Acquisition::UpgradeDeadlock => {
                self.clients[who][handle].cancel_upgrade();
                self.seen.was_told_to_let_go = true;
                At::MustLetGo { handle }
            }
            _ => {
                self.seen.wrong = Some("refused for nothing");
                At::MustLetGo { handle }
            }
        };
    }

    /// What it sees is the last that was committed.
    fn look(&mut self, who: usize, handle: usize) {
        let version = self.clients[who][handle]
            .data()
            .first()
            .copied()
            .unwrap_or(0);
        let last = self.seen.version[handle];
        if self.seen.in_doubt[handle] {
            if version > last {
                self.seen.wrong = Some("a version that never was");
            }
            let is_alone = matches!(self.seen.at[who], At::Uses { write: true, .. });
            if is_alone {
                self.seen.version[handle] = version;
                self.seen.in_doubt[handle] = false;
            }
        } else if version != last {
            self.seen.wrong = Some("not the last version");
        }
    }

    fn give(&mut self, who: usize) {
        let (handle, write) = match self.seen.at[who] {
            At::Uses { handle, write } => (handle, write),
            At::MustLetGo { handle } => (handle, false),
            at => panic!("{at:?} has nothing"),
        };
        let next = self.seen.version[handle] + 1;
        if write {
            self.seen.version[handle] = next;
            self.clients[who][handle].data_mut(1)[0] = next;
            self.clients[who][handle].release(SyncState::Exclusive);
        } else {
            self.clients[who][handle].release(SyncState::Shared);
        }
        self.seen.at[who] = At::Idle;
    }

    fn receive(&mut self, who: usize) {
        let letter = self.seen.up[who].pop_front().unwrap();
        if letter.owner_died {
            let heard = self.server.on_owner_died(vmid(who), letter.handle as u64);
            if heard.is_err() {
                self.seen.wrong = Some("the server is surprised");
            }
            return;
        }
        if let Some(server) = &mut self.seen.in_c {
            let id = letter.handle as u64;
            let from = vmid(who).get();
            match server.on_message(from, letter.code, id, letter.state, &letter.data) {
                Err(fault) => self.seen.wrong = Some(fault),
                Ok(said) => {
                    for said in said {
                        self.seen.down[said.to as usize - 2].push_back(Letter {
                            code: said.code,
                            handle: letter.handle,
                            state: said.state,
                            data: said.data,
                            owner_died: false,
                        });
                    }
                }
            }
            return;
        }
        let sync = Sync {
            id: letter.handle as u64,
            state: state(letter.state),
            data: &letter.data,
        };
        match self.server.on_message(vmid(who), code(letter.code), &sync) {
            Ok(()) => {}
            Err(RequestError::ProtocolViolation) => {
                self.seen.wrong = Some("the server is surprised");
            }
            Err(RequestError::NoRoom | RequestError::Closed) => self.seen.wrong = Some("no room"),
        }
        let key = (who, letter.handle);
        match code(letter.code) {
            SyncCode::RequestUpgrade if state(letter.state) == SyncState::Invalid => {
                self.seen.asking.retain(|of| *of != key);
            }
            SyncCode::RequestUpgrade if !self.seen.asking.contains(&key) => {
                self.seen.asking.push(key);
            }
            SyncCode::RequestClose => self.seen.asking.retain(|of| *of != key),
            _ => {}
        }
        self.post();
    }

    /// What the server says is under way.
    fn post(&mut self) {
        while let Some((to, told)) = self.server.poll_transmit() {
            let letter = match told {
                ServerMessage::Sync(code, sync) => Letter {
                    code: code.number(),
                    handle: usize::try_from(sync.id).unwrap(),
                    state: sync.state.number(),
                    data: sync.data.to_vec(),
                    owner_died: false,
                },
                ServerMessage::OwnerDied(id) => Letter::of_death(usize::try_from(id).unwrap()),
            };
            self.server.mark_sent(true);
            let who = to.get() as usize - 2;
            if letter.code == SyncCode::ConfirmUpgrade.number() {
                let key = (who, letter.handle);
                self.seen.asking.retain(|of| *of != key);
            }
            self.seen.down[who].push_back(letter);
        }
    }

    fn told(&mut self, who: usize) {
        let letter = self.seen.down[who].pop_front().unwrap();
        self.seen.woken[who] = matches!(self.seen.at[who], At::Wants { .. } | At::Upgrading { .. });
        let client = &mut self.clients[who][letter.handle];
        if letter.owner_died {
            client.on_owner_died();
            return;
        }
        let sync = Sync {
            id: letter.handle as u64,
            state: state(letter.state),
            data: &letter.data,
        };
        if client.on_message(code(letter.code), &sync).is_err() {
            self.seen.wrong = Some("a client is surprised");
        }
    }
}

/// What is seen after these steps.
pub(super) fn seen_after(family: &Family, steps: &[Step]) -> Seen {
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
    let mut world = World {
        server: Server::new(&mut Arena::new(&mut memory), &limits, 1).unwrap(),
        clients,
        seen: Seen {
            at: vec![At::Idle; family.clients],
            left: vec![family.times; family.clients],
            has: vec![vec![(1, false, 0); family.handles]; family.clients],
            up: none.clone(),
            down: none,
            version: vec![0; family.handles],
            in_doubt: vec![false; family.handles],
            is_orphan: vec![false; family.handles],
            wrong: None,
            was_told_to_let_go: false,
            was_unsupported: false,
            in_c: family.in_c.then(CServer::default),
            heard_of_death: false,
            asking: Vec::new(),
            woken: vec![false; family.clients],
        },
    };
    for step in steps {
        world.step(*step);
    }
    world.seen
}
