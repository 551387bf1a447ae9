//! The server's side of handles: what it counts, and in which order it speaks.

use libos_ipc::Vmid;
use libos_ipc::shared_state::{LeaseLimits, RequestError, Server, ServerMessage};
use libos_ipc::store::Arena;
use libos_ipc::wire::{Sync, SyncCode, SyncState};

const LIMITS: LeaseLimits = LeaseLimits {
    handles: 2,
    clients: 4,
};
const READ: SyncState = SyncState::Shared;
const WRITE: SyncState = SyncState::Exclusive;
const ASK: SyncCode = SyncCode::RequestUpgrade;
const GIVE: SyncCode = SyncCode::ConfirmDowngrade;
const CLOSE: SyncCode = SyncCode::RequestClose;
const NOTHING: SyncState = SyncState::Invalid;

fn vmid(who: u32) -> Vmid {
    Vmid::new(who).unwrap()
}

fn with(then: impl FnOnce(&mut Server<'_>)) {
    let mut memory = Box::new_uninit_slice(Server::bytes(&LIMITS, 1));
    then(&mut Server::new(&mut Arena::new(&mut memory), &LIMITS, 1).unwrap());
}

/// What is said to whom, with the data.
type Said = (u32, SyncCode, SyncState, Vec<u8>);

fn confirms(who: u32, state: SyncState, data: &[u8]) -> Said {
    (who, SyncCode::ConfirmUpgrade, state, data.to_vec())
}

fn asks_back(who: u32, state: SyncState) -> Said {
    (who, SyncCode::RequestDowngrade, state, Vec::new())
}

/// All that the server has to say; nobody died.
fn says_all(server: &mut Server<'_>) -> Vec<Said> {
    let mut all = Vec::new();
    while let Some((to, told)) = server.poll_transmit() {
        let ServerMessage::Sync(code, sync) = told else {
            panic!("nobody died");
        };
        all.push((to.get(), code, sync.state, sync.data.to_vec()));
        server.mark_sent(true);
    }
    all
}

fn receive(
    server: &mut Server<'_>,
    who: u32,
    code: SyncCode,
    id: u64,
    state: SyncState,
) -> Result<(), RequestError> {
    receive_with(server, who, code, id, state, &[])
}

fn receive_with(
    server: &mut Server<'_>,
    who: u32,
    code: SyncCode,
    id: u64,
    state: SyncState,
    data: &[u8],
) -> Result<(), RequestError> {
    let heard = server.on_message(vmid(who), code, &Sync { id, state, data });
    assert!(server.check_invariants());
    heard
}

/// To whom it speaks next, with which code; that is then said, or can't be.
fn says(server: &mut Server<'_>, was_said: bool) -> Option<(u32, SyncCode)> {
    let next = server.poll_transmit().map(|(to, told)| match told {
        ServerMessage::Sync(code, _) => (to.get(), code),
        ServerMessage::OwnerDied(_) => panic!("nobody died"),
    });
    server.mark_sent(was_said);
    next
}

#[test]
fn handles_and_clients_are_counted() {
    with(|server| {
        assert_eq!(
            (server.handle_usage(), server.client_usage()),
            ((0, 0), (0, 0))
        );
        for (who, id) in [(2, 7), (3, 7), (4, 8)] {
            receive(server, who, ASK, id, READ).unwrap();
        }
        assert_eq!(
            (server.handle_usage(), server.client_usage()),
            ((2, 2), (3, 3))
        );
        assert_eq!(server.queued_clients(), 3);
        server.reclaim(vmid(4));
        server.reclaim(vmid(3));
        assert_eq!(
            (server.handle_usage(), server.client_usage()),
            ((1, 2), (1, 3))
        );
        assert!(server.is_used(7) && !server.is_used(8));
        assert_eq!(server.queued_clients(), 1);
    });
}

#[test]
fn one_that_can_not_be_told_does_not_keep_the_others_waiting() {
    with(|server| {
        for who in [2, 3, 4] {
            receive(server, who, ASK, 7, READ).unwrap();
        }
        let confirm = SyncCode::ConfirmUpgrade;
        assert_eq!(says(server, false), Some((2, confirm)));
        assert_eq!(server.queued_clients(), 3);
        // One in the middle, and the last, go away.
        server.reclaim(vmid(4));
        assert_eq!(server.queued_clients(), 2);
        receive(server, 5, ASK, 7, READ).unwrap();
        server.reclaim(vmid(2));
        assert_eq!(says(server, true), Some((3, confirm)));
        assert_eq!(says(server, true), Some((5, confirm)));
        assert_eq!((says(server, true), server.queued_clients()), (None, 0));
        receive(server, 2, ASK, 7, READ).unwrap();
        assert_eq!(says(server, true), Some((2, confirm)));
    });
}

#[test]
fn only_what_was_asked_back_is_taken_back() {
    let unfitting = Err(RequestError::ProtocolViolation);
    with(|server| {
        receive(server, 2, ASK, 7, WRITE).unwrap();
        assert_eq!(receive(server, 2, GIVE, 7, READ), unfitting);
        receive(server, 3, ASK, 7, READ).unwrap();
        // It was asked back to read, not altogether.
        assert_eq!(receive(server, 2, GIVE, 7, WRITE), unfitting);
        assert_eq!(receive(server, 2, GIVE, 7, SyncState::None), unfitting);
        assert_eq!(receive(server, 2, GIVE, 7, NOTHING), unfitting);
        assert_eq!(receive(server, 2, GIVE, 7, READ), Ok(()));
        assert_eq!(receive(server, 2, CLOSE, 7, READ), Ok(()));
        assert_eq!(receive(server, 2, CLOSE, 7, READ), unfitting);
        assert_eq!(receive(server, 2, ASK, 7, READ), unfitting);
        assert_eq!(server.on_owner_died(vmid(3), 7), unfitting);
        // Whoever has nothing may say so: it found no room, or asks for nothing.
        assert_eq!(
            receive(server, 4, CLOSE, 7, NOTHING),
            Err(RequestError::Closed)
        );
        assert_eq!(receive(server, 4, CLOSE, 7, READ), unfitting);
        assert_eq!(receive(server, 4, ASK, 8, NOTHING), Ok(()));
        assert!(!server.is_used(8));
    });
}

#[test]
fn only_others_who_read_are_asked_to_let_go() {
    with(|server| {
        for who in [2, 3] {
            receive(server, who, ASK, 7, READ).unwrap();
        }
        assert_eq!(
            says_all(server),
            [confirms(2, READ, b""), confirms(3, READ, b"")]
        );
        receive(server, 3, ASK, 7, WRITE).unwrap();
        assert_eq!(says_all(server), [asks_back(2, NOTHING)]);
        // Those who come later wait, and nobody is asked twice.
        for who in [4, 5] {
            receive(server, who, ASK, 7, READ).unwrap();
            assert_eq!(says_all(server), []);
        }
        receive(server, 2, GIVE, 7, NOTHING).unwrap();
        assert_eq!(
            says_all(server),
            [confirms(3, WRITE, b""), asks_back(3, READ)]
        );
    });
}

#[test]
fn less_is_asked_back_and_then_all() {
    with(|server| {
        receive(server, 2, ASK, 7, WRITE).unwrap();
        receive(server, 3, ASK, 7, READ).unwrap();
        receive(server, 3, ASK, 7, WRITE).unwrap();
        assert_eq!(
            says_all(server),
            [confirms(2, WRITE, b""), asks_back(2, NOTHING)]
        );
        receive_with(server, 2, GIVE, 7, READ, b"x").unwrap();
        assert_eq!(says_all(server), []);
        receive(server, 2, GIVE, 7, NOTHING).unwrap();
        assert_eq!(says_all(server), [confirms(3, WRITE, b"x")]);
    });
}

#[test]
fn who_closes_it_leaves_what_it_wrote() {
    with(|server| {
        // Also if that is nothing.
        for (who, written) in [(2, &b"x"[..]), (3, b"")] {
            let next = who + 1;
            receive(server, who, ASK, 7, WRITE).unwrap();
            receive(server, next, ASK, 7, READ).unwrap();
            says_all(server);
            receive_with(server, who, CLOSE, 7, WRITE, written).unwrap();
            let closed = (who, SyncCode::ConfirmClose, NOTHING, Vec::new());
            assert_eq!(says_all(server), [closed, confirms(next, READ, written)]);
        }
    });
}

#[test]
fn only_who_can_change_what_a_dead_process_left_passes_that_on() {
    let unfitting = Err(RequestError::ProtocolViolation);
    with(|server| {
        receive(server, 2, ASK, 7, WRITE).unwrap();
        assert_eq!(server.on_owner_died(vmid(2), 7), unfitting);
        receive(server, 3, ASK, 7, READ).unwrap();
        server.reclaim(vmid(2));
        assert_eq!(
            server.poll_transmit(),
            Some((vmid(3), ServerMessage::OwnerDied(7)))
        );
        assert_eq!(server.on_owner_died(vmid(3), 7), unfitting);
        receive(server, 3, ASK, 7, WRITE).unwrap();
        assert_eq!(server.on_owner_died(vmid(3), 7), Ok(()));
    });
}

#[test]
fn one_that_goes_takes_no_message_of_others_along() {
    for gone in [2, 3, 4] {
        with(|server| {
            for who in [2, 3, 4] {
                receive(server, who, ASK, 7, READ).unwrap();
            }
            server.reclaim(vmid(gone));
            receive(server, 5, ASK, 7, READ).unwrap();
            let told: Vec<u32> = says_all(server).iter().map(|said| said.0).collect();
            let others: Vec<u32> = [2, 3, 4, 5]
                .into_iter()
                .filter(|who| *who != gone)
                .collect();
            assert_eq!(told, others);
        });
    }
}

/// As [`receive_with`], from a client in C.
fn on_message_from_c(
    server: &mut Server<'_>,
    who: u32,
    code: SyncCode,
    state: SyncState,
    data: &[u8],
) {
    let sync = Sync { id: 1, state, data };
    server.on_message_from_c(vmid(who), code, &sync).unwrap();
    assert!(server.check_invariants());
}

/// Two read, the first of them in C; the data is one byte long.
fn two_read(then: impl FnOnce(&mut Server<'_>)) {
    with(|server| {
        on_message_from_c(server, 2, ASK, WRITE, &[]);
        receive(server, 3, ASK, 1, READ).unwrap();
        on_message_from_c(server, 2, GIVE, READ, &[7]);
        says_all(server);
        then(server);
    });
}

#[test]
fn a_client_in_c_that_upgrades_is_served_before_others_that_do() {
    for is_first in [true, false] {
        two_read(|server| {
            if is_first {
                on_message_from_c(server, 2, ASK, WRITE, &[]);
                receive(server, 3, ASK, 1, WRITE).unwrap();
                assert_eq!(says_all(server), [asks_back(3, NOTHING)]);
            } else {
                receive(server, 3, ASK, 1, WRITE).unwrap();
                on_message_from_c(server, 2, ASK, WRITE, &[]);
                let both = [asks_back(2, NOTHING), asks_back(3, NOTHING)];
                assert_eq!(says_all(server), both);
            }
            // The other lets go; the one in C gives nothing back before it has what it asked for.
            receive(server, 3, GIVE, 1, NOTHING).unwrap();
            let told = says_all(server);
            assert_eq!(told[0], confirms(2, WRITE, &[7]));
            assert_eq!(told[1..].len(), usize::from(is_first));
            on_message_from_c(server, 2, GIVE, NOTHING, &[8]);
            assert_eq!(says_all(server), [confirms(3, WRITE, &[8])]);
        });
    }
}

#[test]
fn what_a_client_in_c_gives_back_late_does_not_end_what_it_was_given_since() {
    two_read(|server| {
        receive(server, 3, ASK, 1, WRITE).unwrap();
        on_message_from_c(server, 2, ASK, WRITE, &[]);
        receive(server, 3, GIVE, 1, NOTHING).unwrap();
        says_all(server);
        // This one answers at once, for what it read.
        on_message_from_c(server, 2, GIVE, NOTHING, &[]);
        assert_eq!(says_all(server), [asks_back(2, NOTHING)]);
        on_message_from_c(server, 2, GIVE, NOTHING, &[8]);
        assert_eq!(says_all(server), [confirms(3, WRITE, &[8])]);
    });
}
