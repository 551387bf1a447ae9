//! A server without room for one more client, and the messages that cross its note of that.

use libos_ipc::Vmid;
use libos_ipc::shared_state::{Acquisition, Client, LeaseLimits, RequestError, Server};
use libos_ipc::store::Arena;
use libos_ipc::wire::{Sync, SyncCode, SyncState};

const LIMITS: LeaseLimits = LeaseLimits {
    handles: 1,
    clients: 1,
};
const ID: u64 = 7;
const WRITE: SyncState = SyncState::Exclusive;

fn vmid(process: u32) -> Vmid {
    Vmid::new(process).unwrap()
}

/// Delivers the first message of the client to the server.
fn deliver_next(
    server: &mut Server<'_>,
    process: u32,
    client: &mut Client<'_>,
) -> Result<(), RequestError> {
    let outgoing = client.poll_transmit().unwrap();
    let result = server.on_message(vmid(process), outgoing.code, &client.payload(outgoing));
    client.mark_sent(outgoing);
    result
}

/// Runs the test with a server whose only slot another client has.
fn with_full_server(then: impl FnOnce(&mut Server<'_>, &mut Client<'_>)) {
    let mut memory = Box::new_uninit_slice(Server::bytes(&LIMITS, 1));
    let mut server = Server::new(&mut Arena::new(&mut memory), &LIMITS, 1).unwrap();
    let mut data = [0; 1];
    let mut client = Client::new(&mut data);
    client.open(ID, true);
    let shared = Sync {
        id: ID,
        state: SyncState::Shared,
        data: &[],
    };
    let asked = server.on_message(vmid(2), SyncCode::RequestUpgrade, &shared);
    assert_eq!(asked, Ok(()));
    client.change_waiters(SyncState::Shared, 1);
    assert!(client.acquire(SyncState::Shared, true) == Acquisition::Pending);
    let refused = deliver_next(&mut server, 3, &mut client);
    assert_eq!(refused, Err(RequestError::NoRoom));
    then(&mut server, &mut client);
}

#[test]
fn close_crossing_a_note_of_no_room_frees_the_handle_after_its_confirmation() {
    with_full_server(|server, client| {
        client.change_waiters(SyncState::Shared, -1);
        assert!(client.close());
        while client.poll_transmit().is_some() {
            let result = deliver_next(server, 3, client);
            assert!(result.is_ok() || result == Err(RequestError::Closed));
        }
        client.on_no_room();
        // The slot is not free yet: a handle opened here would receive the confirmation of the
        // close.
        assert!(!client.is_free());
        let closed = Sync {
            id: ID,
            state: SyncState::Invalid,
            data: &[],
        };
        client.on_message(SyncCode::ConfirmClose, &closed).unwrap();
        assert!(client.is_free());
    });
}

#[test]
fn grant_after_a_note_of_no_room_is_used() {
    with_full_server(|server, client| {
        server.reclaim(vmid(2));
        client.change_waiters(WRITE, 1);
        assert!(client.acquire(WRITE, true) == Acquisition::Pending);
        assert_eq!(deliver_next(server, 3, client), Ok(()));
        client.on_no_room();
        assert!(client.acquire(WRITE, true) == Acquisition::NoRoom);
        // The server had room for the second request.
        let granted = Sync {
            id: ID,
            state: WRITE,
            data: &[],
        };
        client
            .on_message(SyncCode::ConfirmUpgrade, &granted)
            .unwrap();
        assert!(client.acquire(WRITE, true) == Acquisition::Acquired);
        client.release(WRITE);
        assert!(client.close());
        assert_eq!(client.poll_transmit().unwrap().code, SyncCode::RequestClose);
    });
}
