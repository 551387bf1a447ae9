//! A server that violates the protocol: the client refuses the message, and its state does not
//! change.

use libos_ipc::shared_state::{Client, ProtocolViolation};
use libos_ipc::wire::{SyncCode, SyncState};

use crate::client::{
    NOTHING, READ, WRITE, end_wait, grant, next_downgrade, next_request, receive, revoke, wait,
    with,
};

const CONFIRM: SyncCode = SyncCode::ConfirmUpgrade;

fn refuses(client: &mut Client<'_>, code: SyncCode, state: SyncState, data: &[u8]) {
    let before = (
        client.current(),
        client.data().to_vec(),
        client.change_count(),
    );
    let result = receive(client, code, state, data);
    assert_eq!(
        result,
        Err(ProtocolViolation),
        "{code:?} {state:?} {data:?}"
    );
    let after = (
        client.current(),
        client.data().to_vec(),
        client.change_count(),
    );
    assert_eq!(before, after);
}

#[test]
fn grant_beyond_the_request_is_a_protocol_violation() {
    with(NOTHING, |client| {
        refuses(client, CONFIRM, READ, b"");
        wait(client, READ);
        assert_eq!(next_request(client), Some(READ));
        refuses(client, CONFIRM, WRITE, b"more");
        refuses(client, CONFIRM, READ, b"too long");
        refuses(client, CONFIRM, NOTHING, b"less");
        refuses(client, CONFIRM, SyncState::None, b"less");
        receive(client, CONFIRM, READ, b"data").unwrap();
        end_wait(client, READ);
        assert_eq!(client.data(), b"data");
        refuses(client, CONFIRM, READ, b"late");
        refuses(client, CONFIRM, WRITE, b"late");
        // After a stronger request the client accepts only its grant.
        wait(client, WRITE);
        assert_eq!(next_request(client), Some(WRITE));
        refuses(client, CONFIRM, READ, b"late");
        grant(client, WRITE);
    });
}

#[test]
fn second_grant_of_one_request_is_a_protocol_violation() {
    for state in [READ, WRITE] {
        with(state, |client| {
            revoke(client, NOTHING);
            assert_eq!(next_downgrade(client), Some(NOTHING));
            refuses(client, CONFIRM, READ, b"");
            refuses(client, CONFIRM, WRITE, b"");
        });
    }
    // The server grants the weaker request first, and then the stronger one.
    with(NOTHING, |client| {
        wait(client, READ);
        wait(client, WRITE);
        assert_eq!(next_request(client), Some(WRITE));
        grant(client, READ);
        end_wait(client, READ);
        grant(client, WRITE);
    });
}

#[test]
fn message_for_a_server_is_a_protocol_violation_at_a_client() {
    with(READ, |client| {
        refuses(client, SyncCode::RequestDowngrade, WRITE, b"");
        refuses(client, SyncCode::RequestDowngrade, SyncState::None, b"");
        for code in [
            SyncCode::RequestUpgrade,
            SyncCode::ConfirmDowngrade,
            SyncCode::RequestClose,
        ] {
            refuses(client, code, NOTHING, b"");
        }
        // The handle is open, so no close can be confirmed.
        refuses(client, SyncCode::ConfirmClose, NOTHING, b"");
        assert!(client.is_open());
    });
}
