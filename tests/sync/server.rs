//! The server's side of handles: what it counts, and in which order it speaks.

use libos_ipc::Vmid;
use libos_ipc::shared_state::{LeaseLimits, Refused, Server, Told};
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
    while let Some((to, told)) = server.next() {
        let Told::Message(code, sync) = told else {
            panic!("nobody died");
        };
        all.push((to.get(), code, sync.state, sync.data.to_vec()));
        server.said(true);
    }
    all
}

fn hear(
    server: &mut Server<'_>,
    who: u32,
    code: SyncCode,
    id: u64,
    state: SyncState,
) -> Result<(), Refused> {
    hear_with(server, who, code, id, state, &[])
}

fn hear_with(
    server: &mut Server<'_>,
    who: u32,
    code: SyncCode,
    id: u64,
    state: SyncState,
    data: &[u8],
) -> Result<(), Refused> {
    let heard = server.hear(vmid(who), code, &Sync { id, state, data });
    assert!(server.is_sound());
    heard
}

/// To whom it speaks next, with which code; that is then said, or can't be.
fn says(server: &mut Server<'_>, was_said: bool) -> Option<(u32, SyncCode)> {
    let next = server.next().map(|(to, told)| match told {
        Told::Message(code, _) => (to.get(), code),
        Told::OwnerDied(_) => panic!("nobody died"),
    });
    server.said(was_said);
    next
}

#[test]
fn handles_and_clients_are_counted() {
    with(|server| {
        assert_eq!((server.fill(), server.clients_fill()), ((0, 0), (0, 0)));
        for (who, id) in [(2, 7), (3, 7), (4, 8)] {
            hear(server, who, ASK, id, READ).unwrap();
        }
        assert_eq!((server.fill(), server.clients_fill()), ((2, 2), (3, 3)));
        assert_eq!(server.listed(), 3);
        server.left(vmid(4));
        server.left(vmid(3));
        assert_eq!((server.fill(), server.clients_fill()), ((1, 2), (1, 3)));
        assert!(server.is_used(7) && !server.is_used(8));
        assert_eq!(server.listed(), 1);
    });
}

#[test]
fn one_that_can_not_be_told_does_not_keep_the_others_waiting() {
    with(|server| {
        for who in [2, 3, 4] {
            hear(server, who, ASK, 7, READ).unwrap();
        }
        let confirm = SyncCode::ConfirmUpgrade;
        assert_eq!(says(server, false), Some((2, confirm)));
        assert_eq!(server.listed(), 3);
        // One in the middle, and the last, go away.
        server.left(vmid(4));
        assert_eq!(server.listed(), 2);
        hear(server, 5, ASK, 7, READ).unwrap();
        server.left(vmid(2));
        assert_eq!(says(server, true), Some((3, confirm)));
        assert_eq!(says(server, true), Some((5, confirm)));
        assert_eq!((says(server, true), server.listed()), (None, 0));
        hear(server, 2, ASK, 7, READ).unwrap();
        assert_eq!(says(server, true), Some((2, confirm)));
    });
}

#[test]
fn only_what_was_asked_back_is_taken_back() {
    let unfitting = Err(Refused::Unfitting);
    with(|server| {
        hear(server, 2, ASK, 7, WRITE).unwrap();
        assert_eq!(hear(server, 2, GIVE, 7, READ), unfitting);
        hear(server, 3, ASK, 7, READ).unwrap();
        // It was asked back to read, not altogether.
        assert_eq!(hear(server, 2, GIVE, 7, WRITE), unfitting);
        assert_eq!(hear(server, 2, GIVE, 7, SyncState::None), unfitting);
        assert_eq!(hear(server, 2, GIVE, 7, NOTHING), unfitting);
        assert_eq!(hear(server, 2, GIVE, 7, READ), Ok(()));
        assert_eq!(hear(server, 2, CLOSE, 7, READ), Ok(()));
        assert_eq!(hear(server, 2, CLOSE, 7, READ), unfitting);
        assert_eq!(hear(server, 2, ASK, 7, READ), unfitting);
        assert_eq!(server.hear_owner_died(vmid(3), 7), unfitting);
        // Whoever has nothing may say so: it found no room, or asks for nothing.
        assert_eq!(hear(server, 4, CLOSE, 7, NOTHING), Err(Refused::Closed));
        assert_eq!(hear(server, 4, CLOSE, 7, READ), unfitting);
        assert_eq!(hear(server, 4, ASK, 8, NOTHING), Ok(()));
        assert!(!server.is_used(8));
    });
}

#[test]
fn only_others_who_read_are_asked_to_let_go() {
    with(|server| {
        for who in [2, 3] {
            hear(server, who, ASK, 7, READ).unwrap();
        }
        assert_eq!(
            says_all(server),
            [confirms(2, READ, b""), confirms(3, READ, b"")]
        );
        hear(server, 3, ASK, 7, WRITE).unwrap();
        assert_eq!(says_all(server), [asks_back(2, NOTHING)]);
        // Those who come later wait, and nobody is asked twice.
        for who in [4, 5] {
            hear(server, who, ASK, 7, READ).unwrap();
            assert_eq!(says_all(server), []);
        }
        hear(server, 2, GIVE, 7, NOTHING).unwrap();
        assert_eq!(
            says_all(server),
            [confirms(3, WRITE, b""), asks_back(3, READ)]
        );
    });
}

#[test]
fn less_is_asked_back_and_then_all() {
    with(|server| {
        hear(server, 2, ASK, 7, WRITE).unwrap();
        hear(server, 3, ASK, 7, READ).unwrap();
        hear(server, 3, ASK, 7, WRITE).unwrap();
        assert_eq!(
            says_all(server),
            [confirms(2, WRITE, b""), asks_back(2, NOTHING)]
        );
        hear_with(server, 2, GIVE, 7, READ, b"x").unwrap();
        assert_eq!(says_all(server), []);
        hear(server, 2, GIVE, 7, NOTHING).unwrap();
        assert_eq!(says_all(server), [confirms(3, WRITE, b"x")]);
    });
}

#[test]
fn who_closes_it_leaves_what_it_wrote() {
    with(|server| {
        // Also if that is nothing.
        for (who, written) in [(2, &b"x"[..]), (3, b"")] {
            let next = who + 1;
            hear(server, who, ASK, 7, WRITE).unwrap();
            hear(server, next, ASK, 7, READ).unwrap();
            says_all(server);
            hear_with(server, who, CLOSE, 7, WRITE, written).unwrap();
            let closed = (who, SyncCode::ConfirmClose, NOTHING, Vec::new());
            assert_eq!(says_all(server), [closed, confirms(next, READ, written)]);
        }
    });
}

#[test]
fn only_who_can_change_what_a_dead_process_left_passes_that_on() {
    let unfitting = Err(Refused::Unfitting);
    with(|server| {
        hear(server, 2, ASK, 7, WRITE).unwrap();
        assert_eq!(server.hear_owner_died(vmid(2), 7), unfitting);
        hear(server, 3, ASK, 7, READ).unwrap();
        server.left(vmid(2));
        assert_eq!(server.next(), Some((vmid(3), Told::OwnerDied(7))));
        assert_eq!(server.hear_owner_died(vmid(3), 7), unfitting);
        hear(server, 3, ASK, 7, WRITE).unwrap();
        assert_eq!(server.hear_owner_died(vmid(3), 7), Ok(()));
    });
}

#[test]
fn one_that_goes_takes_no_message_of_others_along() {
    for gone in [2, 3, 4] {
        with(|server| {
            for who in [2, 3, 4] {
                hear(server, who, ASK, 7, READ).unwrap();
            }
            server.left(vmid(gone));
            hear(server, 5, ASK, 7, READ).unwrap();
            let told: Vec<u32> = says_all(server).iter().map(|said| said.0).collect();
            let others: Vec<u32> = [2, 3, 4, 5]
                .into_iter()
                .filter(|who| *who != gone)
                .collect();
            assert_eq!(told, others);
        });
    }
}

/// As [`hear_with`], from a client in C.
fn hear_from_c(server: &mut Server<'_>, who: u32, code: SyncCode, state: SyncState, data: &[u8]) {
    let sync = Sync { id: 1, state, data };
    server.hear_from_c(vmid(who), code, &sync).unwrap();
    assert!(server.is_sound());
}

/// Two read, the first of them in C; the data is one byte long.
fn two_read(then: impl FnOnce(&mut Server<'_>)) {
    with(|server| {
        hear_from_c(server, 2, ASK, WRITE, &[]);
        hear(server, 3, ASK, 1, READ).unwrap();
        hear_from_c(server, 2, GIVE, READ, &[7]);
        says_all(server);
        then(server);
    });
}

#[test]
fn a_client_in_c_that_upgrades_is_served_before_others_that_do() {
    for is_first in [true, false] {
        two_read(|server| {
            if is_first {
                hear_from_c(server, 2, ASK, WRITE, &[]);
                hear(server, 3, ASK, 1, WRITE).unwrap();
                assert_eq!(says_all(server), [asks_back(3, NOTHING)]);
            } else {
                hear(server, 3, ASK, 1, WRITE).unwrap();
                hear_from_c(server, 2, ASK, WRITE, &[]);
                let both = [asks_back(2, NOTHING), asks_back(3, NOTHING)];
                assert_eq!(says_all(server), both);
            }
            // The other lets go; the one in C gives nothing back before it has what it asked for.
            hear(server, 3, GIVE, 1, NOTHING).unwrap();
            let told = says_all(server);
            assert_eq!(told[0], confirms(2, WRITE, &[7]));
            assert_eq!(told[1..].len(), usize::from(is_first));
            hear_from_c(server, 2, GIVE, NOTHING, &[8]);
            assert_eq!(says_all(server), [confirms(3, WRITE, &[8])]);
        });
    }
}

#[test]
fn what_a_client_in_c_gives_back_late_does_not_end_what_it_was_given_since() {
    two_read(|server| {
        hear(server, 3, ASK, 1, WRITE).unwrap();
        hear_from_c(server, 2, ASK, WRITE, &[]);
        hear(server, 3, GIVE, 1, NOTHING).unwrap();
        says_all(server);
        // This one answers at once, for what it read.
        hear_from_c(server, 2, GIVE, NOTHING, &[]);
        assert_eq!(says_all(server), [asks_back(2, NOTHING)]);
        hear_from_c(server, 2, GIVE, NOTHING, &[8]);
        assert_eq!(says_all(server), [confirms(3, WRITE, &[8])]);
    });
}
