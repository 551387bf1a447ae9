//! A server without room for one more client, and what crosses its word for that.

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

fn vmid(who: u32) -> Vmid {
    Vmid::new(who).unwrap()
}

/// Has the server hear what the client says first.
fn say(server: &mut Server<'_>, who: u32, client: &mut Client<'_>) -> Result<(), RequestError> {
    let say = client.poll_transmit().unwrap();
    let heard = server.on_message(vmid(who), say.code, &client.payload(say));
    client.mark_sent(say);
    heard
}

/// Another has the only place.
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
    assert!(client.acquire(SyncState::Shared) == Acquisition::Pending);
    let refused = say(&mut server, 3, &mut client);
    assert_eq!(refused, Err(RequestError::NoRoom));
    then(&mut server, &mut client);
}

#[test]
fn it_is_closed_before_that_is_heard() {
    with_full_server(|server, client| {
        client.change_waiters(SyncState::Shared, -1);
        assert!(client.close());
        while client.poll_transmit().is_some() {
            let heard = say(server, 3, client);
            assert!(heard.is_ok() || heard == Err(RequestError::Closed));
        }
        client.on_no_room();
        // Not yet: what is opened here next would hear that it is closed.
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
fn it_is_asked_for_again_before_that_is_heard() {
    with_full_server(|server, client| {
        server.reclaim(vmid(2));
        client.change_waiters(WRITE, 1);
        assert!(client.acquire(WRITE) == Acquisition::Pending);
        assert_eq!(say(server, 3, client), Ok(()));
        client.on_no_room();
        assert!(client.acquire(WRITE) == Acquisition::NoRoom);
        // It had room meanwhile.
        let granted = Sync {
            id: ID,
            state: WRITE,
            data: &[],
        };
        client
            .on_message(SyncCode::ConfirmUpgrade, &granted)
            .unwrap();
        assert!(client.acquire(WRITE) == Acquisition::Acquired);
        client.release(WRITE);
        assert!(client.close());
        assert_eq!(client.poll_transmit().unwrap().code, SyncCode::RequestClose);
    });
}
