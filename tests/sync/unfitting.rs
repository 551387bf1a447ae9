//! A server that breaks its word: what it could not say as things stand is refused, and changes nothing.

use libos_ipc::shared_state::{Client, ProtocolViolation};
use libos_ipc::wire::{SyncCode, SyncState};

use crate::client::{
    NOTHING, READ, WRITE, ask_back, asks_for, gives_back_to, grant, receive, taken, wait, with,
};

const CONFIRM: SyncCode = SyncCode::ConfirmUpgrade;

fn refuses(client: &mut Client<'_>, code: SyncCode, state: SyncState, data: &[u8]) {
    let before = (
        client.current(),
        client.data().to_vec(),
        client.change_count(),
    );
    let heard = receive(client, code, state, data);
    assert_eq!(heard, Err(ProtocolViolation), "{code:?} {state:?} {data:?}");
    let after = (
        client.current(),
        client.data().to_vec(),
        client.change_count(),
    );
    assert_eq!(before, after);
}

#[test]
fn nothing_comes_that_was_not_asked_for() {
    with(NOTHING, |client| {
        refuses(client, CONFIRM, READ, b"");
        wait(client, READ);
        assert_eq!(asks_for(client), Some(READ));
        refuses(client, CONFIRM, WRITE, b"more");
        refuses(client, CONFIRM, READ, b"too long");
        refuses(client, CONFIRM, NOTHING, b"less");
        refuses(client, CONFIRM, SyncState::None, b"less");
        receive(client, CONFIRM, READ, b"data").unwrap();
        taken(client, READ);
        assert_eq!(client.data(), b"data");
        refuses(client, CONFIRM, READ, b"news");
        refuses(client, CONFIRM, WRITE, b"news");
        // Once more has been asked for, only that is news.
        wait(client, WRITE);
        assert_eq!(asks_for(client), Some(WRITE));
        refuses(client, CONFIRM, READ, b"news");
        grant(client, WRITE);
    });
}

#[test]
fn what_was_asked_for_comes_once() {
    for state in [READ, WRITE] {
        with(state, |client| {
            ask_back(client, NOTHING);
            assert_eq!(gives_back_to(client), Some(NOTHING));
            refuses(client, CONFIRM, READ, b"");
            refuses(client, CONFIRM, WRITE, b"");
        });
    }
    // First less, and then what was asked for besides.
    with(NOTHING, |client| {
        wait(client, READ);
        wait(client, WRITE);
        assert_eq!(asks_for(client), Some(WRITE));
        grant(client, READ);
        taken(client, READ);
        grant(client, WRITE);
    });
}

#[test]
fn it_has_no_say_beyond_its_part() {
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
        // Nobody has closed it.
        refuses(client, SyncCode::ConfirmClose, NOTHING, b"");
        assert!(client.is_open());
    });
}
