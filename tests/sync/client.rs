//! One process's side of a handle: which of its own users has it, and what it says to the server.

use libos_ipc::shared_state::{Client, Take, Unfitting};
use libos_ipc::wire::{Sync, SyncCode, SyncState};

const ID: u64 = 7;
pub(super) const NOTHING: SyncState = SyncState::Invalid;
pub(super) const READ: SyncState = SyncState::Shared;
pub(super) const WRITE: SyncState = SyncState::Exclusive;

pub(super) fn hear(
    client: &mut Client<'_>,
    code: SyncCode,
    state: SyncState,
    data: &[u8],
) -> Result<(), Unfitting> {
    let id = ID;
    client.hear(code, &Sync { id, state, data })
}

/// What the client says next, if anything.
fn says(client: &mut Client<'_>) -> Option<(SyncCode, SyncState)> {
    let say = client.next()?;
    client.said(say);
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
    hear(client, SyncCode::ConfirmUpgrade, state, &[]).unwrap();
}

pub(super) fn ask_back(client: &mut Client<'_>, state: SyncState) {
    hear(client, SyncCode::RequestDowngrade, state, &[]).unwrap();
}

/// Somebody begins to wait, and can't have it yet.
pub(super) fn wait(client: &mut Client<'_>, state: SyncState) {
    client.wait(state, 1);
    assert_eq!(client.take(state), Take::Wait);
}

/// A wait ends with the handle in use.
pub(super) fn taken(client: &mut Client<'_>, state: SyncState) {
    assert_eq!(client.take(state), Take::Taken);
    client.wait(state, -1);
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
        client.give(state);
    }
    assert_eq!(client.next(), None);
    then(&mut client);
}

#[test]
fn one_here_changes_it_or_many_read() {
    with(WRITE, |client| {
        assert_eq!(client.take(READ), Take::Taken);
        assert_eq!(client.take(READ), Take::Taken);
        assert_eq!(client.take(WRITE), Take::Wait);
        client.give(READ);
        assert_eq!(client.take(WRITE), Take::Wait);
        assert!(client.is_taken(READ) && !client.is_taken(WRITE) && client.is_used());
        client.give(READ);
        assert!(!client.is_used());
        assert_eq!(client.take(WRITE), Take::Taken);
        assert!(client.is_taken(WRITE) && !client.is_taken(READ) && client.is_used());
        assert_eq!(client.take(WRITE), Take::Wait);
        assert_eq!(client.take(READ), Take::Wait);
        assert!(!client.close(), "it is in use");
        // The process has all there is to have.
        assert_eq!(client.next(), None);
        client.give(WRITE);
        assert_eq!(client.take(READ), Take::Taken);
        assert!(!client.close(), "it is in use");
    });
}

#[test]
fn a_caller_that_comes_later_passes_nobody_it_is_in_the_way_of() {
    for has in [READ, WRITE] {
        with(has, |client| {
            assert!(client.may_pass(READ) && client.may_pass(WRITE));
            client.wait(READ, 1);
            assert!(client.may_pass(READ) && !client.may_pass(WRITE));
            client.wait(WRITE, 1);
            assert!(!client.may_pass(READ) && !client.may_pass(WRITE));
            client.wait(READ, -1);
            assert!(!client.may_pass(READ) && !client.may_pass(WRITE));
            // It asks for what it needs all the same.
            let asks = has == READ;
            assert_eq!(client.take_in_turn(WRITE, false), Take::Wait);
            assert_eq!(asks_for(client), Some(WRITE).filter(|_| asks));
            assert_eq!(client.take_in_turn(READ, false), Take::Wait);
            client.wait(WRITE, -1);
            assert!(client.may_pass(READ) && client.may_pass(WRITE));
        });
    }
}

#[test]
fn a_reader_that_is_to_become_the_writer_is_passed_by_no_reader() {
    with(WRITE, |client| {
        assert_eq!(client.take(READ), Take::Taken);
        assert_eq!(client.take(READ), Take::Taken);
        assert_eq!(client.upgrade(true), Take::Wait);
        assert_eq!(client.take(READ), Take::Wait);
        client.give(READ);
        assert_eq!(client.take(READ), Take::Wait);
        assert_eq!(client.upgrade(false), Take::Taken);
        client.give(WRITE);
        assert_eq!(client.take(READ), Take::Taken);
        // One that gives up keeps nobody out.
        assert_eq!(client.take(READ), Take::Taken);
        assert_eq!(client.upgrade(true), Take::Wait);
        client.stop_upgrade();
        assert_eq!(client.take(READ), Take::Taken);
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
            client.set_first(Some(first));
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
        assert!(client.is_wanted());
        assert_eq!(asks_for(client), Some(READ));
        assert!(!client.is_wanted());
        wait(client, READ);
        assert_eq!(client.next(), None);
        wait(client, WRITE);
        assert_eq!(asks_for(client), Some(WRITE));
        wait(client, READ);
        assert_eq!(client.next(), None);
    });
}

#[test]
fn who_gives_up_leaves_no_request_behind() {
    // It was not even said.
    with(NOTHING, |client| {
        wait(client, WRITE);
        client.wait(WRITE, -1);
        assert_eq!(client.next(), None);
        wait(client, READ);
        wait(client, WRITE);
        client.wait(WRITE, -1);
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
            client.wait(WRITE, -1);
            assert_eq!(client.is_wanted(), asked.is_some());
            assert_eq!(asks_for(client), asked, "{others:?}");
        });
    }
    // The process can read already.
    with(READ, |client| {
        client.wait(READ, 1);
        wait(client, WRITE);
        assert_eq!(asks_for(client), Some(WRITE));
        client.wait(WRITE, -1);
        assert_eq!(asks_for(client), Some(NOTHING));
    });
    // A reader that is to become the writer waits, too.
    with(READ, |client| {
        assert_eq!(client.take(READ), Take::Taken);
        assert_eq!(client.upgrade(true), Take::Wait);
        wait(client, WRITE);
        assert_eq!(asks_for(client), Some(WRITE));
        client.wait(WRITE, -1);
        assert_eq!(client.next(), None);
        client.stop_upgrade();
        assert_eq!(asks_for(client), Some(NOTHING));
    });
    // Not every server understands that.
    with_server(NOTHING, false, |client| {
        wait(client, WRITE);
        assert_eq!(asks_for(client), Some(WRITE));
        client.wait(WRITE, -1);
        assert_eq!(client.next(), None);
        // So it may come yet.
        grant(client, WRITE);
        assert_eq!(client.take(WRITE), Take::Taken);
    });
}

#[test]
fn the_only_reader_becomes_the_writer() {
    with(WRITE, |client| {
        assert_eq!(client.take(READ), Take::Taken);
        assert_eq!(client.take(READ), Take::Taken);
        assert_eq!(client.upgrade(true), Take::Wait);
        assert_eq!(client.upgrade(true), Take::LetGo, "one of two has to");
        assert_eq!(client.next(), None);
        client.give(READ);
        assert_eq!(client.upgrade(false), Take::Taken);
        assert!(client.is_taken(WRITE) && !client.is_taken(READ));
        client.give(WRITE);
        assert!(!client.is_used());
    });
    // Somebody else is to change it first.
    with(READ, |client| {
        assert_eq!(client.take(READ), Take::Taken);
        assert_eq!(client.upgrade(true), Take::Wait);
        assert_eq!(asks_for(client), Some(WRITE));
        let changes = client.changes();
        ask_back(client, NOTHING);
        assert!(client.changes() > changes, "it is to look again");
        assert_eq!(client.upgrade(false), Take::LetGo);
        client.stop_upgrade();
        assert_eq!(asks_for(client), Some(NOTHING));
        assert_eq!(client.upgrade(true), Take::LetGo);
        client.give(READ);
        assert_eq!(gives_back_to(client), Some(NOTHING));
    });
    // It is wanted back while another reader here keeps it from changing the data.
    with(WRITE, |client| {
        assert_eq!(client.take(READ), Take::Taken);
        assert_eq!(client.take(READ), Take::Taken);
        assert_eq!(client.upgrade(true), Take::Wait);
        ask_back(client, NOTHING);
        assert_eq!(gives_back_to(client), Some(READ));
        assert_eq!(client.upgrade(false), Take::LetGo);
    });
    // One that has got the lease need not let go.
    with(READ, |client| {
        assert_eq!(client.take(READ), Take::Taken);
        assert_eq!(client.upgrade(true), Take::Wait);
        assert_eq!(asks_for(client), Some(WRITE));
        grant(client, WRITE);
        ask_back(client, NOTHING);
        assert_eq!(client.next(), None);
        assert_eq!(client.upgrade(false), Take::Taken);
        client.give(WRITE);
        assert_eq!(gives_back_to(client), Some(NOTHING));
    });
}

#[test]
fn data_has_the_length_that_was_written() {
    with(WRITE, |client| {
        let changes = client.changes();
        client.data_mut(3).copy_from_slice(b"abc");
        assert!(client.changes() > changes);
        assert_eq!(client.data(), b"abc");
        assert!(client.data_mut(5).is_empty(), "there is no room for that");
        assert_eq!(client.data(), b"");
        client.data_mut(2).copy_from_slice(b"xy");
        ask_back(client, NOTHING);
        let say = client.next().unwrap();
        assert_eq!(
            (client.message(say).id, client.message(say).data),
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
            hear(client, SyncCode::ConfirmUpgrade, READ, data).unwrap();
            taken(client, READ);
            assert_eq!(client.data(), data);
            assert_eq!(client.news(), (is_changed, false));
            client.give(READ);
            ask_back(client, NOTHING);
            assert_eq!(gives_back_to(client), Some(NOTHING));
        }
    });
}

#[test]
fn a_closed_handle_is_free_once_the_server_says_so() {
    with(NOTHING, |client| {
        let (first, changes) = (client.opened(), client.changes());
        assert!(client.is_open() && !client.is_free());
        // The server has never heard of it.
        assert!(client.close() && client.is_free() && client.changes() > changes);
        assert_eq!((client.next(), client.close()), (None, false));
        assert_eq!(client.take(READ), Take::Closed);
        let changes = client.changes();
        let second = client.open(ID + 1, true);
        assert!(second != first && client.opened() == second);
        assert_eq!((client.id(), client.is_open()), (ID + 1, true));
        assert!(client.changes() >= changes, "who waits looks no earlier");
    });
    with(WRITE, |client| {
        assert!(client.close());
        assert!(!client.is_free() && !client.is_open());
        assert_eq!(says(client), Some((SyncCode::RequestClose, WRITE)));
        let changes = client.changes();
        hear(client, SyncCode::ConfirmClose, NOTHING, &[]).unwrap();
        assert!(client.is_free() && client.changes() > changes);
    });
    with(READ, |client| {
        client.abandon();
        assert!(client.is_open());
        let changes = client.changes();
        assert!(client.close() && !client.is_free());
        client.abandon();
        assert!(client.is_free() && client.changes() > changes + 1);
    });
}
