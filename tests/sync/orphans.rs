//! What a process left that died while it changed a handle: whoever has it next to change it is told,
//! also if somebody else was given the lease before, and did not use it.

use libos_ipc::Vmid;
use libos_ipc::shared_state::{Acquisition, Client, LeaseLimits, Server, ServerMessage};
use libos_ipc::store::Arena;
use libos_ipc::wire::SyncState;

const LIMITS: LeaseLimits = LeaseLimits {
    handles: 1,
    clients: 3,
};
const ID: u64 = 7;
const WRITE: SyncState = SyncState::Exclusive;

fn vmid(who: u32) -> Vmid {
    Vmid::new(who + 2).unwrap()
}

/// What a client has to say is heard.
fn say(server: &mut Server<'_>, clients: &mut [Client<'_>; 3], who: u32) {
    let client = &mut clients[who as usize];
    while let Some(say) = client.poll_transmit() {
        if client.forwards_owner_death() {
            server.on_owner_died(vmid(who), ID).unwrap();
            client.mark_owner_death_sent();
        }
        server
            .on_message(vmid(who), say.code, &client.payload(say))
            .unwrap();
        client.mark_sent(say);
    }
}

/// What the server has to say is heard.
fn receive(server: &mut Server<'_>, clients: &mut [Client<'_>; 3]) {
    while let Some((to, told)) = server.poll_transmit() {
        let client = &mut clients[to.get() as usize - 2];
        match told {
            ServerMessage::Sync(code, sync) => client.on_message(code, &sync).unwrap(),
            ServerMessage::OwnerDied(_) => client.on_owner_died(),
        }
        server.mark_sent(true);
    }
}

/// The first dies while it changes the handle, and the second is the next to get it; `then` says
/// what becomes of that. Returns whether the third is told.
fn third_is_told(then: impl FnOnce(&mut Server<'_>, &mut [Client<'_>; 3])) -> bool {
    let mut memory = Box::new_uninit_slice(Server::bytes(&LIMITS, 1));
    let mut server = Server::new(&mut Arena::new(&mut memory), &LIMITS, 1).unwrap();
    let mut data = [[0; 1]; 3];
    let mut clients = data.each_mut().map(|data| Client::new(data));
    for who in 0..3 {
        let client = &mut clients[who as usize];
        client.open(ID, true);
        client.change_waiters(WRITE, 1);
        assert!(client.acquire(WRITE) == Acquisition::Pending);
        say(&mut server, &mut clients, who);
    }
    receive(&mut server, &mut clients);
    assert!(clients[0].acquire(WRITE) == Acquisition::Acquired);
    server.reclaim(vmid(0));
    then(&mut server, &mut clients);
    for who in [1, 2, 1] {
        say(&mut server, &mut clients, who);
        receive(&mut server, &mut clients);
    }
    assert!(clients[2].acquire(WRITE) == Acquisition::Acquired);
    let (_, owner_died) = clients[2].take_status();
    owner_died
}

#[test]
fn a_lease_that_nobody_used_leaves_it_to_the_next() {
    assert!(third_is_told(|server, clients| {
        receive(server, clients);
        clients[1].change_waiters(WRITE, -1);
    }));
}

#[test]
fn so_does_one_that_is_closed() {
    assert!(third_is_told(|server, clients| {
        receive(server, clients);
        clients[1].change_waiters(WRITE, -1);
        assert!(clients[1].close());
    }));
    // It does not know yet that it has it.
    assert!(third_is_told(|_, clients| assert!(clients[1].close())));
}

#[test]
fn one_whose_user_could_not_be_told_leaves_it_to_the_next() {
    for state in [WRITE, SyncState::Shared] {
        assert!(third_is_told(|server, clients| {
            receive(server, clients);
            assert!(clients[1].acquire(state) == Acquisition::Acquired);
            let news = clients[1].take_status();
            assert_eq!(news, (false, true));
            clients[1].restore_status(news);
            clients[1].release(state);
            clients[1].change_waiters(WRITE, -1);
        }));
    }
}

#[test]
fn one_that_was_used_does_not() {
    assert!(!third_is_told(|server, clients| {
        receive(server, clients);
        assert!(clients[1].acquire(WRITE) == Acquisition::Acquired);
        assert_eq!(clients[1].take_status(), (false, true));
        clients[1].release(WRITE);
        clients[1].change_waiters(WRITE, -1);
    }));
}
