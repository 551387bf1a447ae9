//! What a process left that died while it changed a handle: whoever has it next to change it is told,
//! also if somebody else was given the lease before, and did not use it.

use libos_ipc::Vmid;
use libos_ipc::shared_state::{Client, LeaseLimits, Server, Take, Told};
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
    while let Some(say) = client.next() {
        if client.passes_death_on() {
            server.hear_owner_died(vmid(who), ID).unwrap();
            client.said_owner_died();
        }
        server
            .hear(vmid(who), say.code, &client.message(say))
            .unwrap();
        client.said(say);
    }
}

/// What the server has to say is heard.
fn hear(server: &mut Server<'_>, clients: &mut [Client<'_>; 3]) {
    while let Some((to, told)) = server.next() {
        let client = &mut clients[to.get() as usize - 2];
        match told {
            Told::Message(code, sync) => client.hear(code, &sync).unwrap(),
            Told::OwnerDied(_) => client.hear_owner_died(),
        }
        server.said(true);
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
        client.wait(WRITE, 1);
        assert!(client.take(WRITE) == Take::Wait);
        say(&mut server, &mut clients, who);
    }
    hear(&mut server, &mut clients);
    assert!(clients[0].take(WRITE) == Take::Taken);
    server.left(vmid(0));
    then(&mut server, &mut clients);
    for who in [1, 2, 1] {
        say(&mut server, &mut clients, who);
        hear(&mut server, &mut clients);
    }
    assert!(clients[2].take(WRITE) == Take::Taken);
    let (_, owner_died) = clients[2].news();
    owner_died
}

#[test]
fn a_lease_that_nobody_used_leaves_it_to_the_next() {
    assert!(third_is_told(|server, clients| {
        hear(server, clients);
        clients[1].wait(WRITE, -1);
    }));
}

#[test]
fn so_does_one_that_is_closed() {
    assert!(third_is_told(|server, clients| {
        hear(server, clients);
        clients[1].wait(WRITE, -1);
        assert!(clients[1].close());
    }));
    // It does not know yet that it has it.
    assert!(third_is_told(|_, clients| assert!(clients[1].close())));
}

#[test]
fn one_whose_user_could_not_be_told_leaves_it_to_the_next() {
    for state in [WRITE, SyncState::Shared] {
        assert!(third_is_told(|server, clients| {
            hear(server, clients);
            assert!(clients[1].take(state) == Take::Taken);
            let news = clients[1].news();
            assert_eq!(news, (false, true));
            clients[1].put_news_back(news);
            clients[1].give(state);
            clients[1].wait(WRITE, -1);
        }));
    }
}

#[test]
fn one_that_was_used_does_not() {
    assert!(!third_is_told(|server, clients| {
        hear(server, clients);
        assert!(clients[1].take(WRITE) == Take::Taken);
        assert_eq!(clients[1].news(), (false, true));
        clients[1].give(WRITE);
        clients[1].wait(WRITE, -1);
    }));
}
