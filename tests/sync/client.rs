//! The client of one process and one handle: which of its threads may use it, and its messages to
//! the server. The oracle is `docs/protocol.md`.

use libos_ipc::shared_state::{Acquisition, Client, ProtocolViolation};
use libos_ipc::wire::{Sync, SyncCode, SyncState};

const ID: u64 = 7;
pub(super) const NOTHING: SyncState = SyncState::Invalid;
pub(super) const READ: SyncState = SyncState::Shared;
pub(super) const WRITE: SyncState = SyncState::Exclusive;

/// Delivers a message of the server.
pub(super) fn receive(
    client: &mut Client<'_>,
    code: SyncCode,
    state: SyncState,
    data: &[u8],
) -> Result<(), ProtocolViolation> {
    let id = ID;
    client.on_message(code, &Sync { id, state, data })
}

/// Takes the next message of the client, if there is one.
fn next_message(client: &mut Client<'_>) -> Option<(SyncCode, SyncState)> {
    let outgoing = client.poll_transmit()?;
    client.mark_sent(outgoing);
    Some((outgoing.code, outgoing.state))
}

/// Takes the next message, a request. Returns its state.
pub(super) fn next_request(client: &mut Client<'_>) -> Option<SyncState> {
    let (code, state) = next_message(client)?;
    assert_eq!(code, SyncCode::RequestUpgrade);
    Some(state)
}

/// Takes the next message, the confirmation of a downgrade. Returns its state.
pub(super) fn next_downgrade(client: &mut Client<'_>) -> Option<SyncState> {
    let (code, state) = next_message(client)?;
    assert_eq!(code, SyncCode::ConfirmDowngrade);
    Some(state)
}

/// Lets the server grant the lease.
pub(super) fn grant(client: &mut Client<'_>, state: SyncState) {
    receive(client, SyncCode::ConfirmUpgrade, state, &[]).unwrap();
}

/// Lets the server revoke the lease down to that state.
pub(super) fn revoke(client: &mut Client<'_>, state: SyncState) {
    receive(client, SyncCode::RequestDowngrade, state, &[]).unwrap();
}

/// Begins the wait of a call that cannot acquire the handle yet.
pub(super) fn wait(client: &mut Client<'_>, state: SyncState) {
    client.change_waiters(state, 1);
    assert_eq!(client.acquire(state, true), Acquisition::Pending);
}

/// Ends the wait of a call, which acquires the handle.
pub(super) fn end_wait(client: &mut Client<'_>, state: SyncState) {
    assert_eq!(client.acquire(state, true), Acquisition::Acquired);
    client.change_waiters(state, -1);
}

/// Runs the test with an open handle: the process holds that lease, and no thread uses it.
pub(super) fn with(state: SyncState, then: impl FnOnce(&mut Client<'_>)) {
    with_server(state, true, then);
}

fn with_server(state: SyncState, can_lower: bool, then: impl FnOnce(&mut Client<'_>)) {
    let mut data = [0; 4];
    let mut client = Client::new(&mut data);
    client.open(ID, can_lower);
    if state != NOTHING {
        wait(&mut client, state);
        assert_eq!(next_request(&mut client), Some(state));
        grant(&mut client, state);
        end_wait(&mut client, state);
        client.release(state);
    }
    assert_eq!(client.poll_transmit(), None);
    then(&mut client);
}

#[test]
fn one_thread_changes_the_value_or_several_read_it() {
    with(WRITE, |client| {
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        assert_eq!(client.acquire(WRITE, true), Acquisition::Pending);
        client.release(READ);
        assert_eq!(client.acquire(WRITE, true), Acquisition::Pending);
        assert!(client.is_held(READ) && !client.is_held(WRITE) && client.is_in_use());
        client.release(READ);
        assert!(!client.is_in_use());
        assert_eq!(client.acquire(WRITE, true), Acquisition::Acquired);
        assert!(client.is_held(WRITE) && !client.is_held(READ) && client.is_in_use());
        assert_eq!(client.acquire(WRITE, true), Acquisition::Pending);
        assert_eq!(client.acquire(READ, true), Acquisition::Pending);
        assert!(!client.close(), "it is in use");
        // The process holds the strongest lease.
        assert_eq!(client.poll_transmit(), None);
        client.release(WRITE);
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        assert!(!client.close(), "it is in use");
    });
}

#[test]
fn later_caller_does_not_overtake_a_waiter_that_it_delays() {
    for has in [READ, WRITE] {
        with(has, |client| {
            assert!(client.may_overtake(READ) && client.may_overtake(WRITE));
            client.change_waiters(READ, 1);
            assert!(client.may_overtake(READ) && !client.may_overtake(WRITE));
            client.change_waiters(WRITE, 1);
            assert!(!client.may_overtake(READ) && !client.may_overtake(WRITE));
            client.change_waiters(READ, -1);
            assert!(!client.may_overtake(READ) && !client.may_overtake(WRITE));
            // The call requests the lease that it needs all the same.
            let asks = has == READ;
            assert_eq!(client.acquire(WRITE, false), Acquisition::Pending);
            assert_eq!(next_request(client), Some(WRITE).filter(|_| asks));
            assert_eq!(client.acquire(READ, false), Acquisition::Pending);
            client.change_waiters(WRITE, -1);
            assert!(client.may_overtake(READ) && client.may_overtake(WRITE));
        });
    }
}

#[test]
fn new_reader_does_not_overtake_an_upgrading_reader() {
    with(WRITE, |client| {
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        assert_eq!(client.upgrade(true), Acquisition::Pending);
        assert_eq!(client.acquire(READ, true), Acquisition::Pending);
        client.release(READ);
        assert_eq!(client.acquire(READ, true), Acquisition::Pending);
        assert_eq!(client.upgrade(false), Acquisition::Acquired);
        client.release(WRITE);
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        // An upgrade that is cancelled delays no reader.
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        assert_eq!(client.upgrade(true), Acquisition::Pending);
        client.cancel_upgrade();
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
    });
}

/// The granted lease serves only a call behind a writer. The client does not keep it, because the
/// writer gets its own lease only after this one has gone back.
#[test]
fn lease_that_the_first_waiter_cannot_use_is_returned_at_once() {
    for (first, stays) in [(WRITE, false), (READ, true)] {
        with(NOTHING, |client| {
            wait(client, READ);
            assert_eq!(next_request(client), Some(READ));
            wait(client, WRITE);
            assert_eq!(next_request(client), Some(WRITE));
            client.set_head_request(Some(first));
            grant(client, READ);
            revoke(client, NOTHING);
            assert_eq!(next_downgrade(client), Some(NOTHING).filter(|_| !stays));
        });
    }
}

#[test]
fn lease_is_requested_once_for_several_waiters() {
    with(NOTHING, |client| {
        wait(client, READ);
        assert!(client.has_release_work());
        assert_eq!(next_request(client), Some(READ));
        assert!(!client.has_release_work());
        wait(client, READ);
        assert_eq!(client.poll_transmit(), None);
        wait(client, WRITE);
        assert_eq!(next_request(client), Some(WRITE));
        wait(client, READ);
        assert_eq!(client.poll_transmit(), None);
    });
}

#[test]
fn waiter_that_times_out_withdraws_its_request() {
    // The request was not sent yet.
    with(NOTHING, |client| {
        wait(client, WRITE);
        client.change_waiters(WRITE, -1);
        assert_eq!(client.poll_transmit(), None);
        wait(client, READ);
        wait(client, WRITE);
        client.change_waiters(WRITE, -1);
        assert_eq!(next_request(client), Some(READ));
    });
    // The client requests what other calls still wait for.
    for (others, asked) in [(NOTHING, Some(NOTHING)), (READ, Some(READ)), (WRITE, None)] {
        with(NOTHING, |client| {
            if others != NOTHING {
                wait(client, others);
            }
            wait(client, WRITE);
            assert_eq!(next_request(client), Some(WRITE));
            client.change_waiters(WRITE, -1);
            assert_eq!(client.has_release_work(), asked.is_some());
            assert_eq!(next_request(client), asked, "{others:?}");
        });
    }
    // The process holds the lease to read.
    with(READ, |client| {
        client.change_waiters(READ, 1);
        wait(client, WRITE);
        assert_eq!(next_request(client), Some(WRITE));
        client.change_waiters(WRITE, -1);
        assert_eq!(next_request(client), Some(NOTHING));
    });
    // An upgrading reader waits for the lease, too.
    with(READ, |client| {
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        assert_eq!(client.upgrade(true), Acquisition::Pending);
        wait(client, WRITE);
        assert_eq!(next_request(client), Some(WRITE));
        client.change_waiters(WRITE, -1);
        assert_eq!(client.poll_transmit(), None);
        client.cancel_upgrade();
        assert_eq!(next_request(client), Some(NOTHING));
    });
    // A server in C does not understand a weaker request.
    with_server(NOTHING, false, |client| {
        wait(client, WRITE);
        assert_eq!(next_request(client), Some(WRITE));
        client.change_waiters(WRITE, -1);
        assert_eq!(client.poll_transmit(), None);
        // The request stands, so the lease may still be granted.
        grant(client, WRITE);
        assert_eq!(client.acquire(WRITE, true), Acquisition::Acquired);
    });
}

#[test]
fn only_reader_becomes_the_writer_unless_the_lease_is_revoked() {
    with(WRITE, |client| {
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        assert_eq!(client.upgrade(true), Acquisition::Pending);
        assert_eq!(
            client.upgrade(true),
            Acquisition::UpgradeDeadlock,
            "one of two must release it"
        );
        assert_eq!(client.poll_transmit(), None);
        client.release(READ);
        assert_eq!(client.upgrade(false), Acquisition::Acquired);
        assert!(client.is_held(WRITE) && !client.is_held(READ));
        client.release(WRITE);
        assert!(!client.is_in_use());
    });
    // Another process is to change the value first.
    with(READ, |client| {
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        assert_eq!(client.upgrade(true), Acquisition::Pending);
        assert_eq!(next_request(client), Some(WRITE));
        let changes = client.change_count();
        revoke(client, NOTHING);
        assert!(client.change_count() > changes, "the reader polls again");
        assert_eq!(client.upgrade(false), Acquisition::UpgradeDeadlock);
        client.cancel_upgrade();
        assert_eq!(next_request(client), Some(NOTHING));
        assert_eq!(client.upgrade(true), Acquisition::UpgradeDeadlock);
        client.release(READ);
        assert_eq!(next_downgrade(client), Some(NOTHING));
    });
    // The server revokes the lease while another reader of this process delays the upgrade.
    with(WRITE, |client| {
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        assert_eq!(client.upgrade(true), Acquisition::Pending);
        revoke(client, NOTHING);
        assert_eq!(next_downgrade(client), Some(READ));
        assert_eq!(client.upgrade(false), Acquisition::UpgradeDeadlock);
    });
    // An upgrading reader that got the lease does not have to release the handle.
    with(READ, |client| {
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        assert_eq!(client.upgrade(true), Acquisition::Pending);
        assert_eq!(next_request(client), Some(WRITE));
        grant(client, WRITE);
        revoke(client, NOTHING);
        assert_eq!(client.poll_transmit(), None);
        assert_eq!(client.upgrade(false), Acquisition::Acquired);
        client.release(WRITE);
        assert_eq!(next_downgrade(client), Some(NOTHING));
    });
}

#[test]
fn value_has_the_length_that_was_written() {
    with(WRITE, |client| {
        let changes = client.change_count();
        client.data_mut(3).copy_from_slice(b"abc");
        assert!(client.change_count() > changes);
        assert_eq!(client.data(), b"abc");
        assert!(client.data_mut(5).is_empty(), "there is no room for that");
        assert_eq!(client.data(), b"");
        client.data_mut(2).copy_from_slice(b"xy");
        revoke(client, NOTHING);
        let outgoing = client.poll_transmit().unwrap();
        assert_eq!(
            (client.payload(outgoing).id, client.payload(outgoing).data),
            (ID, &b"xy"[..])
        );
    });
}

#[test]
fn status_reports_a_change_by_another_process_once() {
    with(NOTHING, |client| {
        for (data, is_changed) in [(&b"ab"[..], true), (b"ab", false), (b"abcd", true)] {
            wait(client, READ);
            assert_eq!(next_request(client), Some(READ));
            receive(client, SyncCode::ConfirmUpgrade, READ, data).unwrap();
            end_wait(client, READ);
            assert_eq!(client.data(), data);
            assert_eq!(client.take_status(), (is_changed, false));
            client.release(READ);
            revoke(client, NOTHING);
            assert_eq!(next_downgrade(client), Some(NOTHING));
        }
    });
}

#[test]
fn closed_handle_is_free_after_the_confirmation() {
    with(NOTHING, |client| {
        let (first, changes) = (client.generation(), client.change_count());
        assert!(client.is_open() && !client.is_free());
        // The server does not know the handle.
        assert!(client.close() && client.is_free() && client.change_count() > changes);
        assert_eq!((client.poll_transmit(), client.close()), (None, false));
        assert_eq!(client.acquire(READ, true), Acquisition::Closed);
        let changes = client.change_count();
        let second = client.open(ID + 1, true);
        assert!(second != first && client.generation() == second);
        assert_eq!((client.id(), client.is_open()), (ID + 1, true));
        assert!(
            client.change_count() >= changes,
            "the count does not go back"
        );
    });
    with(WRITE, |client| {
        assert!(client.close());
        assert!(!client.is_free() && !client.is_open());
        assert_eq!(next_message(client), Some((SyncCode::RequestClose, WRITE)));
        let changes = client.change_count();
        receive(client, SyncCode::ConfirmClose, NOTHING, &[]).unwrap();
        assert!(client.is_free() && client.change_count() > changes);
    });
    with(READ, |client| {
        client.abandon();
        assert!(client.is_open());
        let changes = client.change_count();
        assert!(client.close() && !client.is_free());
        client.abandon();
        assert!(client.is_free() && client.change_count() > changes + 1);
    });
}
