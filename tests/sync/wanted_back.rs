//! What the server wants back from one process: when it goes, and who uses it before.

use libos_ipc::shared_state::Acquisition;

use crate::client::{
    NOTHING, READ, WRITE, ask_back, asks_for, gives_back_to, grant, taken, wait, with,
};

#[test]
fn what_is_wanted_back_goes_when_it_is_free() {
    with(WRITE, |client| {
        assert_eq!(client.acquire(WRITE), Acquisition::Acquired);
        ask_back(client, READ);
        assert_eq!(client.poll_transmit(), None);
        client.release(WRITE);
        assert_eq!(gives_back_to(client), Some(READ));
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        // Nobody who comes later keeps it here.
        ask_back(client, NOTHING);
        assert_eq!(client.acquire(READ), Acquisition::Pending);
        assert_eq!(client.poll_transmit(), None);
        client.release(READ);
        assert_eq!(gives_back_to(client), Some(NOTHING));
        assert_eq!((client.poll_transmit(), client.current()), (None, NOTHING));
    });
    // Those who read keep no more than they need.
    with(WRITE, |client| {
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        ask_back(client, NOTHING);
        assert_eq!(gives_back_to(client), Some(READ));
        client.release(READ);
        assert_eq!(gives_back_to(client), Some(NOTHING));
    });
}

#[test]
fn what_has_just_come_is_used_once_before_it_goes() {
    for state in [READ, WRITE] {
        with(NOTHING, |client| {
            wait(client, state);
            assert_eq!(asks_for(client), Some(state));
            grant(client, state);
            ask_back(client, NOTHING);
            assert_eq!(client.poll_transmit(), None);
            taken(client, state);
            client.release(state);
            assert_eq!(gives_back_to(client), Some(NOTHING));
        });
    }
    // Unless nobody waits for it any more.
    for (waiting, stays) in [(READ, true), (NOTHING, false)] {
        with(NOTHING, |client| {
            wait(client, WRITE);
            assert_eq!(asks_for(client), Some(WRITE));
            if waiting == READ {
                wait(client, READ);
            }
            grant(client, WRITE);
            ask_back(client, NOTHING);
            client.change_waiters(WRITE, -1);
            assert_eq!(client.poll_transmit().is_none(), stays);
        });
    }
    // Nobody did any more when it came.
    for state in [READ, WRITE] {
        with(NOTHING, |client| {
            wait(client, state);
            assert_eq!(asks_for(client), Some(state));
            client.change_waiters(state, -1);
            assert_eq!(asks_for(client), Some(NOTHING));
            grant(client, state);
            ask_back(client, NOTHING);
            assert_eq!(gives_back_to(client), Some(NOTHING));
        });
    }
}

#[test]
fn all_who_wait_to_read_do_so_before_it_goes() {
    with(NOTHING, |client| {
        wait(client, READ);
        wait(client, READ);
        wait(client, WRITE);
        assert_eq!(asks_for(client), Some(WRITE));
        grant(client, WRITE);
        client.change_waiters(WRITE, -1);
        // Others want to read, too: that is no reason not to read here.
        ask_back(client, READ);
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        client.change_waiters(READ, -1);
        assert_eq!(gives_back_to(client), Some(READ));
    });
}

#[test]
fn less_is_wanted_back_and_then_all() {
    with(WRITE, |client| {
        assert_eq!(client.acquire(WRITE), Acquisition::Acquired);
        ask_back(client, READ);
        ask_back(client, NOTHING);
        client.release(WRITE);
        assert_eq!(gives_back_to(client), Some(NOTHING));
        assert_eq!((client.poll_transmit(), client.current()), (None, NOTHING));
    });
}

#[test]
fn a_death_is_news_as_long_as_it_can_be_seen_here() {
    for (left, is_news) in [(READ, true), (NOTHING, false)] {
        with(NOTHING, |client| {
            wait(client, WRITE);
            assert_eq!(asks_for(client), Some(WRITE));
            client.on_owner_died();
            grant(client, WRITE);
            client.change_waiters(WRITE, -1);
            ask_back(client, left);
            assert_eq!(gives_back_to(client), Some(left));
            // Without a lease it is another's to see to, and said again if nobody has.
            if left == NOTHING {
                wait(client, READ);
                assert_eq!(asks_for(client), Some(READ));
                grant(client, READ);
            }
            assert_eq!(client.acquire(READ), Acquisition::Acquired);
            assert_eq!(client.take_status(), (false, is_news), "{left:?}");
        });
    }
}

#[test]
fn all_who_take_it_are_told_of_a_death_until_one_writes() {
    with(NOTHING, |client| {
        wait(client, WRITE);
        assert_eq!(asks_for(client), Some(WRITE));
        client.on_owner_died();
        assert!(client.owner_deaths() != client.reported_deaths());
        grant(client, WRITE);
        for state in [READ, READ, WRITE] {
            assert_eq!(client.acquire(state), Acquisition::Acquired);
            assert_eq!(client.take_status(), (false, true));
            assert_eq!(client.owner_deaths(), client.reported_deaths());
            client.release(state);
        }
        assert_eq!(client.acquire(READ), Acquisition::Acquired);
        assert_eq!(client.take_status(), (false, false));
    });
}

#[test]
fn a_handle_that_all_want_is_shared_out() {
    with(NOTHING, |client| {
        for loss in 0..8 {
            assert!(!client.is_contended(), "{loss}");
            wait(client, WRITE);
            assert_eq!(asks_for(client), Some(WRITE));
            grant(client, WRITE);
            taken(client, WRITE);
            ask_back(client, NOTHING);
            client.release(WRITE);
            assert_eq!(gives_back_to(client), Some(NOTHING));
        }
        assert!(client.is_contended() && client.has_release_work());
        // Others are let run now and then, until nobody has asked for long.
        for uses in 1..4096 {
            assert_eq!(client.should_yield(), uses % 64 == 0);
            assert!(client.is_contended() && client.has_release_work());
        }
        client.should_yield();
        assert!(!client.is_contended() && !client.has_release_work());
    });
}
