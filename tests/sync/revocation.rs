//! Leases that the server revokes: when the client returns them, and which calls use them before.
//! The oracle is `docs/protocol.md`.

use libos_ipc::shared_state::Acquisition;

use crate::client::{
    NOTHING, READ, WRITE, end_wait, grant, next_downgrade, next_request, revoke, wait, with,
};

#[test]
fn revoked_lease_is_returned_when_no_thread_uses_it() {
    with(WRITE, |client| {
        assert_eq!(client.acquire(WRITE, true), Acquisition::Acquired);
        revoke(client, READ);
        assert_eq!(client.poll_transmit(), None);
        client.release(WRITE);
        assert_eq!(next_downgrade(client), Some(READ));
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        // A later call does not keep the lease in this process.
        revoke(client, NOTHING);
        assert_eq!(client.acquire(READ, true), Acquisition::Pending);
        assert_eq!(client.poll_transmit(), None);
        client.release(READ);
        assert_eq!(next_downgrade(client), Some(NOTHING));
        assert_eq!((client.poll_transmit(), client.current()), (None, NOTHING));
    });
    // Readers keep only the lease to read.
    with(WRITE, |client| {
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        revoke(client, NOTHING);
        assert_eq!(next_downgrade(client), Some(READ));
        client.release(READ);
        assert_eq!(next_downgrade(client), Some(NOTHING));
    });
}

#[test]
fn new_lease_is_used_once_before_it_is_returned() {
    for state in [READ, WRITE] {
        with(NOTHING, |client| {
            wait(client, state);
            assert_eq!(next_request(client), Some(state));
            grant(client, state);
            revoke(client, NOTHING);
            assert_eq!(client.poll_transmit(), None);
            end_wait(client, state);
            client.release(state);
            assert_eq!(next_downgrade(client), Some(NOTHING));
        });
    }
    // The lease goes at once if no call waits for it any more.
    for (waiting, stays) in [(READ, true), (NOTHING, false)] {
        with(NOTHING, |client| {
            wait(client, WRITE);
            assert_eq!(next_request(client), Some(WRITE));
            if waiting == READ {
                wait(client, READ);
            }
            grant(client, WRITE);
            revoke(client, NOTHING);
            client.change_waiters(WRITE, -1);
            assert_eq!(client.poll_transmit().is_none(), stays);
        });
    }
    // No call waited any more when the lease was granted.
    for state in [READ, WRITE] {
        with(NOTHING, |client| {
            wait(client, state);
            assert_eq!(next_request(client), Some(state));
            client.change_waiters(state, -1);
            assert_eq!(next_request(client), Some(NOTHING));
            grant(client, state);
            revoke(client, NOTHING);
            assert_eq!(next_downgrade(client), Some(NOTHING));
        });
    }
}

#[test]
fn all_waiting_readers_read_before_the_lease_is_returned() {
    with(NOTHING, |client| {
        wait(client, READ);
        wait(client, READ);
        wait(client, WRITE);
        assert_eq!(next_request(client), Some(WRITE));
        grant(client, WRITE);
        client.change_waiters(WRITE, -1);
        // Another process wants to read, too; that does not exclude the readers here.
        revoke(client, READ);
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        client.change_waiters(READ, -1);
        assert_eq!(next_downgrade(client), Some(READ));
    });
}

#[test]
fn second_revocation_returns_the_whole_lease() {
    with(WRITE, |client| {
        assert_eq!(client.acquire(WRITE, true), Acquisition::Acquired);
        revoke(client, READ);
        revoke(client, NOTHING);
        client.release(WRITE);
        assert_eq!(next_downgrade(client), Some(NOTHING));
        assert_eq!((client.poll_transmit(), client.current()), (None, NOTHING));
    });
}

#[test]
fn owner_death_is_reported_while_the_lease_stays() {
    for (left, is_reported) in [(READ, true), (NOTHING, false)] {
        with(NOTHING, |client| {
            wait(client, WRITE);
            assert_eq!(next_request(client), Some(WRITE));
            client.on_owner_died();
            grant(client, WRITE);
            client.change_waiters(WRITE, -1);
            revoke(client, left);
            assert_eq!(next_downgrade(client), Some(left));
            // Without the lease the death is a matter of the next holder, and the server reports it
            // again if that one has not used the value.
            if left == NOTHING {
                wait(client, READ);
                assert_eq!(next_request(client), Some(READ));
                grant(client, READ);
            }
            assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
            assert_eq!(client.take_status(), (false, is_reported), "{left:?}");
        });
    }
}

#[test]
fn owner_death_is_reported_until_a_caller_may_change_the_value() {
    with(NOTHING, |client| {
        wait(client, WRITE);
        assert_eq!(next_request(client), Some(WRITE));
        client.on_owner_died();
        assert!(client.owner_deaths() != client.reported_deaths());
        grant(client, WRITE);
        for state in [READ, READ, WRITE] {
            assert_eq!(client.acquire(state, true), Acquisition::Acquired);
            assert_eq!(client.take_status(), (false, true));
            assert_eq!(client.owner_deaths(), client.reported_deaths());
            client.release(state);
        }
        assert_eq!(client.acquire(READ, true), Acquisition::Acquired);
        assert_eq!(client.take_status(), (false, false));
    });
}

#[test]
fn contended_handle_yields_until_it_is_not_revoked_any_more() {
    with(NOTHING, |client| {
        for loss in 0..8 {
            assert!(!client.is_contended(), "{loss}");
            wait(client, WRITE);
            assert_eq!(next_request(client), Some(WRITE));
            grant(client, WRITE);
            end_wait(client, WRITE);
            revoke(client, NOTHING);
            client.release(WRITE);
            assert_eq!(next_downgrade(client), Some(NOTHING));
        }
        assert!(client.is_contended() && client.has_release_work());
        // The client yields now and then, until the lease has not been revoked for long.
        for uses in 1..4096 {
            assert_eq!(client.should_yield(), uses % 64 == 0);
            assert!(client.is_contended() && client.has_release_work());
        }
        client.should_yield();
        assert!(!client.is_contended() && !client.has_release_work());
    });
}
