//! One process's side of a handle: which of its own users has it, and what it says to the server.

use libos_ipc::shared_state::{Acquisition, Client, ProtocolViolation};
use libos_ipc::wire::{Sync, SyncCode, SyncState};

const ID: u64 = 7;
pub(super) const NOTHING: SyncState = SyncState::Invalid;
pub(super) const READ: SyncState = SyncState::Shared;
pub(super) const WRITE: SyncState = SyncState::Exclusive;

pub(super) fn receive(
    client: &mut Client<'_>,
    code: SyncCode,
    state: SyncState,
    data: &[u8],
) -> Result<(), ProtocolViolation> {
    let id = ID;
    client.on_message(code, &Sync { id, state, data })
}

/// What the client says next, if anything.
fn says(client: &mut Client<'_>) -> Option<(SyncCode, SyncState)> {
    let say = client.poll_transmit()?;
    client.mark_sent(say);
    Some((say.code, say.state))
}

pub(super) fn asks_for(client: &mut Client<'_>) -> Option<SyncState> {
    let (code, state) = says(client)?;
    assert_eq!(code, SyncCode::RequestUpgrade);
    Some(state)
}

pub(super) fn gives_back_to(client: &mut Client<'_>) -> Option<SyncState> {
    let (code, state) = says(client)?;
    assert_eq!(code, SyncCode::ConfirmDowngrade);
    Some(state)
}

pub(super) fn grant(client: &mut Client<'_>, state: SyncState) {
    receive(client, SyncCode::ConfirmUpgrade, state, &[]).unwrap();
}

pub(super) fn ask_back(client: &mut Client<'_>, state: SyncState) {
    receive(client, SyncCode::RequestDowngrade, state, &[]).unwrap();
}

/// Somebody begins to wait, and can't have it yet.
pub(super) fn wait(client: &mut Client<'_>, state: SyncState) {
    client.change_waiters(state, 1);
    assert_eq!(client.acquire(state), Acquisition::Pending);
}

/// A wait ends with the handle in use.
pub(super) fn taken(client: &mut Client<'_>, state: SyncState) {
    assert_eq!(client.acquire(state), Acquisition::Acquired);
    client.change_waiters(state, -1);
}

/// An open handle, of which the process has that much, and which nobody uses.
pub(super) fn with(state: SyncState, then: impl FnOnce(&mut Client<'_>)) {
    with_server(state, true, then);
}

fn with_server(state: SyncState, can_lower: bool, then: impl FnOnce(&mut Client<'_>)) {
    let mut data = [0; 4];
    let mut client = Client::new(&mut data);
    client.open(ID, can_lower);
    if state != NOTHING {
        wait(&mut client, state);
        assert_eq!(asks_for(&mut client), Some(state));
        grant(&mut client, state);
        taken(&mut client, state);
        client.release(state);
    }
    assert_eq!(client.poll_transmit(), None);
    then(&mut client);
}

#[test]
fn one_here_changes_it_or_many_read() {
    with(WRITE, |client| {
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        assert_eq!(client.acquire(WRITE), Acquisition::Pending);
        client.release(READ);
        assert_eq!(client.acquire(WRITE), Acquisition::Pending);
        assert!(client.is_held(READ) && !client.is_held(WRITE) && client.is_in_use());
        client.release(READ);
        assert!(!client.is_in_use());
        assert_eq!(client.acquire(WRITE), Acquisition::Acquired);
        assert!(client.is_held(WRITE) && !client.is_held(READ) && client.is_in_use());
        assert_eq!(client.acquire(WRITE), Acquisition::Pending);
        assert_eq!(client.acquire(READ), Acquisition::Pending);
        assert!(!client.close(), "it is in use");
        // The process has all there is to have.
        assert_eq!(client.poll_transmit(), None);
        client.release(WRITE);
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        assert!(!client.close(), "it is in use");
    });
}

#[test]
fn a_caller_that_comes_later_passes_nobody_it_is_in_the_way_of() {
    for has in [READ, WRITE] {
        with(has, |client| {
            assert!(client.may_overtake(READ) && client.may_overtake(WRITE));
            client.change_waiters(READ, 1);
            assert!(client.may_overtake(READ) && !client.may_overtake(WRITE));
            client.change_waiters(WRITE, 1);
            assert!(!client.may_overtake(READ) && !client.may_overtake(WRITE));
            client.change_waiters(READ, -1);
            assert!(!client.may_overtake(READ) && !client.may_overtake(WRITE));
            // It asks for what it needs all the same.
            let asks = has == READ;
            assert_eq!(client.acquire_in_turn(WRITE, false), Acquisition::Pending);
            assert_eq!(asks_for(client), Some(WRITE).filter(|_| asks));
            assert_eq!(client.acquire_in_turn(READ, false), Acquisition::Pending);
            client.change_waiters(WRITE, -1);
            assert!(client.may_overtake(READ) && client.may_overtake(WRITE));
        });
    }
}

#[test]
fn a_reader_that_is_to_become_the_writer_is_passed_by_no_reader() {
    with(WRITE, |client| {
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        assert_eq!(client.upgrade(true), Acquisition::Pending);
        assert_eq!(client.acquire(READ), Acquisition::Pending);
        client.release(READ);
        assert_eq!(client.acquire(READ), Acquisition::Pending);
        assert_eq!(client.upgrade(false), Acquisition::Acquired);
        client.release(WRITE);
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        // One that gives up keeps nobody out.
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        assert_eq!(client.upgrade(true), Acquisition::Pending);
        client.cancel_upgrade();
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
    });
}

/// The lease that has come is for one that comes after a writer: it is not kept, for the writer gets
/// its own only when it has gone back.
#[test]
fn a_lease_that_the_first_in_line_cannot_use_goes_back_at_once() {
    for (first, stays) in [(WRITE, false), (READ, true)] {
        with(NOTHING, |client| {
            wait(client, READ);
            assert_eq!(asks_for(client), Some(READ));
            wait(client, WRITE);
            assert_eq!(asks_for(client), Some(WRITE));
            client.set_head_request(Some(first));
            grant(client, READ);
            ask_back(client, NOTHING);
            assert_eq!(gives_back_to(client), Some(NOTHING).filter(|_| !stays));
        });
    }
}

#[test]
fn a_handle_is_asked_for_once() {
    with(NOTHING, |client| {
        wait(client, READ);
        assert!(client.has_release_work());
        assert_eq!(asks_for(client), Some(READ));
        assert!(!client.has_release_work());
        wait(client, READ);
        assert_eq!(client.poll_transmit(), None);
        wait(client, WRITE);
        assert_eq!(asks_for(client), Some(WRITE));
        wait(client, READ);
        assert_eq!(client.poll_transmit(), None);
    });
}

#[test]
fn who_gives_up_leaves_no_request_behind() {
    // It was not even said.
    with(NOTHING, |client| {
        wait(client, WRITE);
        client.change_waiters(WRITE, -1);
        assert_eq!(client.poll_transmit(), None);
        wait(client, READ);
        wait(client, WRITE);
        client.change_waiters(WRITE, -1);
        assert_eq!(asks_for(client), Some(READ));
    });
    // What others here still wait for is asked for.
    for (others, asked) in [(NOTHING, Some(NOTHING)), (READ, Some(READ)), (WRITE, None)] {
        with(NOTHING, |client| {
            if others != NOTHING {
                wait(client, others);
            }
            wait(client, WRITE);
            assert_eq!(asks_for(client), Some(WRITE));
            client.change_waiters(WRITE, -1);
            assert_eq!(client.has_release_work(), asked.is_some());
            assert_eq!(asks_for(client), asked, "{others:?}");
        });
    }
    // The process can read already.
    with(READ, |client| {
        client.change_waiters(READ, 1);
        wait(client, WRITE);
        assert_eq!(asks_for(client), Some(WRITE));
        client.change_waiters(WRITE, -1);
        assert_eq!(asks_for(client), Some(NOTHING));
    });
    // A reader that is to become the writer waits, too.
    with(READ, |client| {
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        assert_eq!(client.upgrade(true), Acquisition::Pending);
        wait(client, WRITE);
        assert_eq!(asks_for(client), Some(WRITE));
        client.change_waiters(WRITE, -1);
        assert_eq!(client.poll_transmit(), None);
        client.cancel_upgrade();
        assert_eq!(asks_for(client), Some(NOTHING));
    });
    // Not every server understands that.
    with_server(NOTHING, false, |client| {
        wait(client, WRITE);
        assert_eq!(asks_for(client), Some(WRITE));
        client.change_waiters(WRITE, -1);
        assert_eq!(client.poll_transmit(), None);
        // So it may come yet.
        grant(client, WRITE);
        assert_eq!(client.acquire(WRITE), Acquisition::Acquired);
    });
}

#[test]
fn the_only_reader_becomes_the_writer() {
    with(WRITE, |client| {
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        assert_eq!(client.upgrade(true), Acquisition::Pending);
        assert_eq!(
            client.upgrade(true),
            Acquisition::UpgradeDeadlock,
            "one of two has to"
        );
        assert_eq!(client.poll_transmit(), None);
        client.release(READ);
        assert_eq!(client.upgrade(false), Acquisition::Acquired);
        assert!(client.is_held(WRITE) && !client.is_held(READ));
        client.release(WRITE);
        assert!(!client.is_in_use());
    });
    // Somebody else is to change it first.
    with(READ, |client| {
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        assert_eq!(client.upgrade(true), Acquisition::Pending);
        assert_eq!(asks_for(client), Some(WRITE));
        let changes = client.change_count();
        ask_back(client, NOTHING);
        assert!(client.change_count() > changes, "it is to look again");
        assert_eq!(client.upgrade(false), Acquisition::UpgradeDeadlock);
        client.cancel_upgrade();
        assert_eq!(asks_for(client), Some(NOTHING));
        assert_eq!(client.upgrade(true), Acquisition::UpgradeDeadlock);
        client.release(READ);
        assert_eq!(gives_back_to(client), Some(NOTHING));
    });
    // It is wanted back while another reader here keeps it from changing the data.
    with(WRITE, |client| {
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        assert_eq!(client.upgrade(true), Acquisition::Pending);
        ask_back(client, NOTHING);
        assert_eq!(gives_back_to(client), Some(READ));
        assert_eq!(client.upgrade(false), Acquisition::UpgradeDeadlock);
    });
    // One that has got the lease need not let go.
    with(READ, |client| {
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        assert_eq!(client.upgrade(true), Acquisition::Pending);
        assert_eq!(asks_for(client), Some(WRITE));
        grant(client, WRITE);
        ask_back(client, NOTHING);
        assert_eq!(client.poll_transmit(), None);
        assert_eq!(client.upgrade(false), Acquisition::Acquired);
        client.release(WRITE);
        assert_eq!(gives_back_to(client), Some(NOTHING));
    });
}

#[test]
fn data_has_the_length_that_was_written() {
    with(WRITE, |client| {
        let changes = client.change_count();
        client.data_mut(3).copy_from_slice(b"abc");
        assert!(client.change_count() > changes);
        assert_eq!(client.data(), b"abc");
        assert!(client.data_mut(5).is_empty(), "there is no room for that");
        assert_eq!(client.data(), b"");
        client.data_mut(2).copy_from_slice(b"xy");
        ask_back(client, NOTHING);
        let say = client.poll_transmit().unwrap();
        assert_eq!(
            (client.payload(say).id, client.payload(say).data),
            (ID, &b"xy"[..])
        );
    });
}

#[test]
fn a_change_by_others_is_news() {
    with(NOTHING, |client| {
        for (data, is_changed) in [(&b"ab"[..], true), (b"ab", false), (b"abcd", true)] {
            wait(client, READ);
            assert_eq!(asks_for(client), Some(READ));
            receive(client, SyncCode::ConfirmUpgrade, READ, data).unwrap();
            taken(client, READ);
            assert_eq!(client.data(), data);
            assert_eq!(client.take_status(), (is_changed, false));
            client.release(READ);
            ask_back(client, NOTHING);
            assert_eq!(gives_back_to(client), Some(NOTHING));
        }
    });
}

#[test]
fn a_closed_handle_is_free_once_the_server_says_so() {
    with(NOTHING, |client| {
        let (first, changes) = (client.generation(), client.change_count());
        assert!(client.is_open() && !client.is_free());
        // The server has never heard of it.
        assert!(client.close() && client.is_free() && client.change_count() > changes);
        assert_eq!((client.poll_transmit(), client.close()), (None, false));
        assert_eq!(client.acquire(READ), Acquisition::Closed);
        let changes = client.change_count();
        let second = client.open(ID + 1, true);
        assert!(second != first && client.generation() == second);
        assert_eq!((client.id(), client.is_open()), (ID + 1, true));
        assert!(
            client.change_count() >= changes,
            "who waits looks no earlier"
        );
    });
    with(WRITE, |client| {
        assert!(client.close());
        assert!(!client.is_free() && !client.is_open());
        assert_eq!(says(client), Some((SyncCode::RequestClose, WRITE)));
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
