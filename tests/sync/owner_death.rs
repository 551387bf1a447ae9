//! The death of a process that held the lease to change a value: the server reports it to the next
//! client that gets that lease, also if a client before that one got the lease and did not use it.
//! As `EOWNERDEAD` of robust mutexes.

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

fn vmid(process: u32) -> Vmid {
    Vmid::new(process + 2).unwrap()
}

/// Delivers all messages of a client.
fn deliver_next(server: &mut Server<'_>, clients: &mut [Client<'_>; 3], process: u32) {
    let client = &mut clients[process as usize];
    while let Some(outgoing) = client.poll_transmit() {
        if client.forwards_owner_death() {
            server.on_owner_died(vmid(process), ID).unwrap();
            client.mark_owner_death_sent();
        }
        server
            .on_message(vmid(process), outgoing.code, &client.payload(outgoing))
            .unwrap();
        client.mark_sent(outgoing);
    }
}

/// Delivers all messages of the server.
fn receive(server: &mut Server<'_>, clients: &mut [Client<'_>; 3]) {
    while let Some((to, message)) = server.poll_transmit() {
        let client = &mut clients[to.get() as usize - 2];
        match message {
            ServerMessage::Sync(code, sync) => client.on_message(code, &sync).unwrap(),
            ServerMessage::OwnerDied(_) => client.on_owner_died(),
        }
        server.mark_sent();
    }
}

/// The first client dies while it changes the value, and the second is the next to get the lease;
/// `then` is what the second does with it. Returns whether the server reports the death to the third.
fn third_gets_report(then: impl FnOnce(&mut Server<'_>, &mut [Client<'_>; 3])) -> bool {
    let mut memory = Box::new_uninit_slice(Server::bytes(&LIMITS, 1));
    let mut server = Server::new(&mut Arena::new(&mut memory), &LIMITS, 1).unwrap();
    let mut data = [[0; 1]; 3];
    let mut clients = data.each_mut().map(|data| Client::new(data));
    for process in 0..3 {
        let client = &mut clients[process as usize];
        client.open(ID, true);
        client.change_waiters(WRITE, 1);
        assert!(client.acquire(WRITE, true) == Acquisition::Pending);
        deliver_next(&mut server, &mut clients, process);
    }
    receive(&mut server, &mut clients);
    assert!(clients[0].acquire(WRITE, true) == Acquisition::Acquired);
    server.reclaim(vmid(0));
    then(&mut server, &mut clients);
    for process in [1, 2, 1] {
        deliver_next(&mut server, &mut clients, process);
        receive(&mut server, &mut clients);
    }
    assert!(clients[2].acquire(WRITE, true) == Acquisition::Acquired);
    let (_, owner_died) = clients[2].take_status();
    owner_died
}

#[test]
fn unused_lease_leaves_the_owner_death_to_the_next_holder() {
    assert!(third_gets_report(|server, clients| {
        receive(server, clients);
        clients[1].change_waiters(WRITE, -1);
    }));
}

#[test]
fn closed_unused_handle_leaves_the_owner_death_to_the_next_holder() {
    assert!(third_gets_report(|server, clients| {
        receive(server, clients);
        clients[1].change_waiters(WRITE, -1);
        assert!(clients[1].close());
    }));
    // The second client does not know yet that it holds the lease.
    assert!(third_gets_report(|_, clients| assert!(clients[1].close())));
}

#[test]
fn restored_status_leaves_the_owner_death_to_the_next_holder() {
    for state in [WRITE, SyncState::Shared] {
        assert!(third_gets_report(|server, clients| {
            receive(server, clients);
            assert!(clients[1].acquire(state, true) == Acquisition::Acquired);
            let status = clients[1].take_status();
            assert_eq!(status, (false, true));
            clients[1].restore_status(status);
            clients[1].release(state);
            clients[1].change_waiters(WRITE, -1);
        }));
    }
}

#[test]
fn used_lease_ends_the_report_of_the_owner_death() {
    assert!(!third_gets_report(|server, clients| {
        receive(server, clients);
        assert!(clients[1].acquire(WRITE, true) == Acquisition::Acquired);
        assert_eq!(clients[1].take_status(), (false, true));
        clients[1].release(WRITE);
        clients[1].change_waiters(WRITE, -1);
    }));
}
