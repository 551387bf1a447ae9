//! The server of shared values: its counts, the order of its messages, and the messages it refuses.
//! The oracle is `docs/protocol.md`.

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
const REQUEST: SyncCode = SyncCode::RequestUpgrade;
const CONFIRM: SyncCode = SyncCode::ConfirmDowngrade;
const CLOSE: SyncCode = SyncCode::RequestClose;
const NOTHING: SyncState = SyncState::Invalid;

fn vmid(process: u32) -> Vmid {
    Vmid::new(process).unwrap()
}

fn with(then: impl FnOnce(&mut Server<'_>)) {
    let mut memory = Box::new_uninit_slice(Server::bytes(&LIMITS, 1));
    then(&mut Server::new(&mut Arena::new(&mut memory), &LIMITS, 1).unwrap());
}

/// A message: its receiver, code, state and data.
type Sent = (u32, SyncCode, SyncState, Vec<u8>);

fn grant(process: u32, state: SyncState, data: &[u8]) -> Sent {
    (process, SyncCode::ConfirmUpgrade, state, data.to_vec())
}

fn revocation(process: u32, state: SyncState) -> Sent {
    (process, SyncCode::RequestDowngrade, state, Vec::new())
}

/// Takes all messages of the server; no owner has died.
fn take_messages(server: &mut Server<'_>) -> Vec<Sent> {
    let mut all = Vec::new();
    while let Some((to, message)) = server.poll_transmit() {
        let ServerMessage::Sync(code, sync) = message else {
            panic!("no owner died");
        };
        all.push((to.get(), code, sync.state, sync.data.to_vec()));
        server.mark_sent();
    }
    all
}

fn receive(
    server: &mut Server<'_>,
    process: u32,
    code: SyncCode,
    id: u64,
    state: SyncState,
) -> Result<(), RequestError> {
    receive_with(server, process, code, id, state, &[])
}

fn receive_with(
    server: &mut Server<'_>,
    process: u32,
    code: SyncCode,
    id: u64,
    state: SyncState,
    data: &[u8],
) -> Result<(), RequestError> {
    let result = server.on_message(vmid(process), code, &Sync { id, state, data });
    assert!(server.check_invariants());
    result
}

/// Returns the receiver and the code of the next message, which is then marked as sent or put back for lack
/// of room.
fn next_message(server: &mut Server<'_>, was_sent: bool) -> Option<(u32, SyncCode)> {
    let next = server.poll_transmit().map(|(to, message)| match message {
        ServerMessage::Sync(code, _) => (to.get(), code),
        ServerMessage::OwnerDied(_) => panic!("no owner died"),
    });
    if was_sent {
        server.mark_sent();
    } else {
        server.requeue();
    }
    next
}

#[test]
fn handles_and_clients_are_counted() {
    with(|server| {
        assert_eq!(
            (server.handle_usage(), server.client_usage()),
            ((0, 0), (0, 0))
        );
        for (process, id) in [(2, 7), (3, 7), (4, 8)] {
            receive(server, process, REQUEST, id, READ).unwrap();
        }
        assert_eq!(
            (server.handle_usage(), server.client_usage()),
            ((2, 2), (3, 3))
        );
        server.reclaim(vmid(4));
        server.reclaim(vmid(3));
        assert_eq!(
            (server.handle_usage(), server.client_usage()),
            ((1, 2), (1, 3))
        );
        assert!(server.is_used(7) && !server.is_used(8));
        assert_eq!(
            next_message(server, true),
            Some((2, SyncCode::ConfirmUpgrade))
        );
        assert!(!server.has_output());
    });
}

#[test]
fn handle_is_charged_to_the_process_that_opened_it_first_and_then_to_another_client() {
    const LARGER: LeaseLimits = LeaseLimits {
        handles: 64,
        clients: 64,
    };
    let mut memory = Box::new_uninit_slice(Server::bytes(&LARGER, 1) + 4096);
    let mut arena = Arena::new(&mut memory);
    let server = &mut Server::shared(&mut arena, &LARGER, 1, 4).unwrap();
    let charges = |server: &Server<'_>| [2, 3].map(|process| server.charges_of(vmid(process)));
    receive(server, 2, REQUEST, 7, READ).unwrap();
    receive(server, 3, REQUEST, 7, READ).unwrap();
    assert_eq!(charges(server), [[1, 1], [0, 1]]);
    take_messages(server);
    receive(server, 2, CLOSE, 7, READ).unwrap();
    take_messages(server);
    assert_eq!(charges(server), [[0, 0], [1, 1]]);
    receive(server, 2, REQUEST, 7, READ).unwrap();
    server.reclaim(vmid(3));
    assert_eq!(charges(server), [[1, 1], [0, 0]]);
    server.reclaim(vmid(2));
    assert_eq!(charges(server), [[0, 0], [0, 0]]);
}

#[test]
fn client_without_room_for_messages_does_not_delay_other_clients() {
    with(|server| {
        for process in [2, 3, 4] {
            receive(server, process, REQUEST, 7, READ).unwrap();
        }
        let confirm = SyncCode::ConfirmUpgrade;
        assert_eq!(next_message(server, false), Some((2, confirm)));
        // The last client of the outbox ends, and the one without room.
        server.reclaim(vmid(4));
        receive(server, 5, REQUEST, 7, READ).unwrap();
        server.reclaim(vmid(2));
        assert_eq!(next_message(server, true), Some((3, confirm)));
        assert_eq!(next_message(server, true), Some((5, confirm)));
        assert_eq!(
            (next_message(server, true), server.has_output()),
            (None, false)
        );
        receive(server, 2, REQUEST, 7, READ).unwrap();
        assert_eq!(next_message(server, false), Some((2, confirm)));
        // Another message for a client without room waits with the first one.
        receive(server, 6, REQUEST, 7, SyncState::Exclusive).unwrap();
        let revocations = [5, 3].map(|to| Some((to, SyncCode::RequestDowngrade)));
        assert_eq!([(); 2].map(|()| next_message(server, true)), revocations);
        assert!(!server.has_output());
        server.resume_output();
        assert_eq!(next_message(server, true), Some((2, confirm)));
        assert_eq!(
            next_message(server, true),
            Some((2, SyncCode::RequestDowngrade))
        );
        assert!(!server.has_output());
    });
}

#[test]
fn downgrade_that_was_not_revoked_is_a_protocol_violation() {
    let violation = Err(RequestError::ProtocolViolation);
    with(|server| {
        receive(server, 2, REQUEST, 7, WRITE).unwrap();
        assert_eq!(receive(server, 2, CONFIRM, 7, READ), violation);
        receive(server, 3, REQUEST, 7, READ).unwrap();
        // The server revoked the lease to change the value, not the one to read it.
        assert_eq!(receive(server, 2, CONFIRM, 7, WRITE), violation);
        assert_eq!(receive(server, 2, CONFIRM, 7, SyncState::None), violation);
        assert_eq!(receive(server, 2, CONFIRM, 7, NOTHING), violation);
        assert_eq!(receive(server, 2, CONFIRM, 7, READ), Ok(()));
        assert_eq!(receive(server, 2, CLOSE, 7, READ), Ok(()));
        assert_eq!(receive(server, 2, CLOSE, 7, READ), violation);
        assert_eq!(receive(server, 2, REQUEST, 7, READ), violation);
        assert_eq!(server.on_owner_died(vmid(3), 7), violation);
        // A client that the server does not know may close the handle or withdraw its request.
        assert_eq!(
            receive(server, 4, CLOSE, 7, NOTHING),
            Err(RequestError::Closed)
        );
        assert_eq!(receive(server, 4, CLOSE, 7, READ), violation);
        assert_eq!(receive(server, 4, REQUEST, 8, NOTHING), Ok(()));
        assert!(!server.is_used(8));
    });
}

#[test]
fn request_to_change_revokes_each_other_reader_once() {
    with(|server| {
        for process in [2, 3] {
            receive(server, process, REQUEST, 7, READ).unwrap();
        }
        assert_eq!(
            take_messages(server),
            [grant(2, READ, b""), grant(3, READ, b"")]
        );
        receive(server, 3, REQUEST, 7, WRITE).unwrap();
        assert_eq!(take_messages(server), [revocation(2, NOTHING)]);
        // Later requests wait, and no lease is revoked twice.
        for process in [4, 5] {
            receive(server, process, REQUEST, 7, READ).unwrap();
            assert_eq!(take_messages(server), []);
        }
        receive(server, 2, CONFIRM, 7, NOTHING).unwrap();
        assert_eq!(
            take_messages(server),
            [grant(3, WRITE, b""), revocation(3, READ)]
        );
    });
}

#[test]
fn stronger_request_revokes_the_rest_of_the_lease() {
    with(|server| {
        receive(server, 2, REQUEST, 7, WRITE).unwrap();
        receive(server, 3, REQUEST, 7, READ).unwrap();
        receive(server, 3, REQUEST, 7, WRITE).unwrap();
        assert_eq!(
            take_messages(server),
            [grant(2, WRITE, b""), revocation(2, NOTHING)]
        );
        receive_with(server, 2, CONFIRM, 7, READ, b"x").unwrap();
        assert_eq!(take_messages(server), []);
        receive(server, 2, CONFIRM, 7, NOTHING).unwrap();
        assert_eq!(take_messages(server), [grant(3, WRITE, b"x")]);
    });
}

#[test]
fn value_sent_with_a_close_goes_to_the_next_client() {
    with(|server| {
        // The value may also be empty.
        for (process, written) in [(2, &b"x"[..]), (3, b"")] {
            let next = process + 1;
            receive(server, process, REQUEST, 7, WRITE).unwrap();
            receive(server, next, REQUEST, 7, READ).unwrap();
            take_messages(server);
            receive_with(server, process, CLOSE, 7, WRITE, written).unwrap();
            let closed = (process, SyncCode::ConfirmClose, NOTHING, Vec::new());
            assert_eq!(take_messages(server), [closed, grant(next, READ, written)]);
        }
    });
}

#[test]
fn owner_death_is_forwarded_only_by_the_next_holder() {
    let violation = Err(RequestError::ProtocolViolation);
    with(|server| {
        receive(server, 2, REQUEST, 7, WRITE).unwrap();
        assert_eq!(server.on_owner_died(vmid(2), 7), violation);
        receive(server, 3, REQUEST, 7, READ).unwrap();
        server.reclaim(vmid(2));
        assert_eq!(
            server.poll_transmit(),
            Some((vmid(3), ServerMessage::OwnerDied(7)))
        );
        assert_eq!(server.on_owner_died(vmid(3), 7), violation);
        receive(server, 3, REQUEST, 7, WRITE).unwrap();
        assert_eq!(server.on_owner_died(vmid(3), 7), Ok(()));
    });
}

#[test]
fn end_of_a_client_keeps_the_messages_of_other_clients() {
    for gone in [2, 3, 4] {
        with(|server| {
            for process in [2, 3, 4] {
                receive(server, process, REQUEST, 7, READ).unwrap();
            }
            server.reclaim(vmid(gone));
            receive(server, 5, REQUEST, 7, READ).unwrap();
            let receivers: Vec<u32> = take_messages(server).iter().map(|sent| sent.0).collect();
            let others: Vec<u32> = [2, 3, 4, 5]
                .into_iter()
                .filter(|process| *process != gone)
                .collect();
            assert_eq!(receivers, others);
        });
    }
}

/// Like [`receive_with`], from a client in C.
fn on_message_from_c(
    server: &mut Server<'_>,
    process: u32,
    code: SyncCode,
    state: SyncState,
    data: &[u8],
) {
    let sync = Sync { id: 1, state, data };
    server
        .on_message_from_c(vmid(process), code, &sync)
        .unwrap();
    assert!(server.check_invariants());
}

/// Two clients read, the first of them in C; the value is one byte long.
fn two_read(then: impl FnOnce(&mut Server<'_>)) {
    with(|server| {
        on_message_from_c(server, 2, REQUEST, WRITE, &[]);
        receive(server, 3, REQUEST, 1, READ).unwrap();
        on_message_from_c(server, 2, CONFIRM, READ, &[7]);
        take_messages(server);
        then(server);
    });
}

#[test]
fn upgrade_of_a_c_client_precedes_other_upgrades() {
    for is_first in [true, false] {
        two_read(|server| {
            if is_first {
                on_message_from_c(server, 2, REQUEST, WRITE, &[]);
                receive(server, 3, REQUEST, 1, WRITE).unwrap();
                assert_eq!(take_messages(server), [revocation(3, NOTHING)]);
            } else {
                receive(server, 3, REQUEST, 1, WRITE).unwrap();
                on_message_from_c(server, 2, REQUEST, WRITE, &[]);
                let both = [revocation(2, NOTHING), revocation(3, NOTHING)];
                assert_eq!(take_messages(server), both);
            }
            // The other client gives its lease back; the client in C gives nothing back before its
            // request is granted.
            receive(server, 3, CONFIRM, 1, NOTHING).unwrap();
            let message = take_messages(server);
            assert_eq!(message[0], grant(2, WRITE, &[7]));
            assert_eq!(message[1..].len(), usize::from(is_first));
            on_message_from_c(server, 2, CONFIRM, NOTHING, &[8]);
            assert_eq!(take_messages(server), [grant(3, WRITE, &[8])]);
        });
    }
}

#[test]
fn late_downgrade_of_a_c_client_does_not_end_its_newer_lease() {
    two_read(|server| {
        receive(server, 3, REQUEST, 1, WRITE).unwrap();
        on_message_from_c(server, 2, REQUEST, WRITE, &[]);
        receive(server, 3, CONFIRM, 1, NOTHING).unwrap();
        take_messages(server);
        // The client answers this revocation of its lease to read at once.
        on_message_from_c(server, 2, CONFIRM, NOTHING, &[]);
        assert_eq!(take_messages(server), [revocation(2, NOTHING)]);
        on_message_from_c(server, 2, CONFIRM, NOTHING, &[8]);
        assert_eq!(take_messages(server), [grant(3, WRITE, &[8])]);
    });
}

#[test]
fn leases_of_a_dead_process_are_taken_back_in_portions() {
    const HANDLES: usize = 200;
    let limits = LeaseLimits {
        handles: HANDLES,
        clients: 2 * HANDLES,
    };
    let mut memory = Box::new_uninit_slice(Server::bytes(&limits, 1));
    let mut server = Server::new(&mut Arena::new(&mut memory), &limits, 1).unwrap();
    for id in 0..HANDLES as u64 {
        assert_eq!(receive(&mut server, 2, REQUEST, id, WRITE), Ok(()));
        assert_eq!(receive(&mut server, 3, REQUEST, id, WRITE), Ok(()));
    }
    while server.poll_transmit().is_some() {
        server.mark_sent();
    }
    let (mut left, mut portions, mut granted) = (u64::MAX, 0, 0);
    while left > 0 {
        let before = server.client_usage().0;
        left = server.reclaim_portion(vmid(2), left);
        assert!(before - server.client_usage().0 <= 64);
        // A lease that is taken back is granted to the next client at once.
        while server.poll_transmit().is_some() {
            server.mark_sent();
            granted += 1;
        }
        portions += 1;
    }
    assert_eq!(portions, 4);
    assert_eq!(server.client_usage().0, HANDLES);
    assert!(granted >= HANDLES);
    assert!(server.check_invariants());
}

#[test]
fn handles_chosen_for_one_bucket_do_not_slow_each_other_down() {
    // All have the same upper bits of the hash.
    const UNMIX: u64 = 0x3196_42b2_d24d_8ec3;
    const HANDLES: usize = 10_000;
    let number_of = |hash: u64| {
        let unshift = |mixed: u64, bits: u32| {
            (0..64 / bits).fold(mixed, |number, _| mixed ^ (number >> bits))
        };
        let number = unshift(hash, 31).wrapping_mul(UNMIX);
        let number = unshift(number, 27).wrapping_mul(0x96de_1b17_3f11_9089);
        unshift(number, 30)
    };
    let limits = LeaseLimits {
        handles: HANDLES,
        clients: HANDLES,
    };
    let mut memory = Box::new_uninit_slice(Server::bytes(&limits, 1));
    let mut server = Server::new(&mut Arena::new(&mut memory), &limits, 1).unwrap();
    let mut message = |code, id, state| {
        let before = server.steps();
        let sync = Sync {
            id,
            state,
            data: &[],
        };
        assert_eq!(server.on_message(vmid(2), code, &sync), Ok(()));
        let steps = server.steps() - before;
        assert!(steps < 600, "{steps} steps");
        while server.poll_transmit().is_some() {
            server.mark_sent();
        }
    };
    for number in 0..HANDLES as u64 {
        message(REQUEST, number_of(number), WRITE);
    }
    for number in 0..HANDLES as u64 {
        message(CLOSE, number_of(number), WRITE);
    }
    assert_eq!(server.handle_usage().0, 0);
}

/// Returns the process whose revoked lease has been awaited for the longest time.
fn first_revoked(server: &Server<'_>) -> Option<u32> {
    server.first_revocation().map(|(_, process)| process.get())
}

#[test]
fn revoked_lease_has_a_limit_only_while_another_client_waits_for_it() {
    const HANDLE: u64 = 1;
    with(|server| {
        let ask = |server: &mut Server<'_>, process, state| {
            receive(server, process, REQUEST, HANDLE, state).unwrap();
        };
        ask(server, 2, WRITE);
        assert_eq!(first_revoked(server), None);
        ask(server, 3, WRITE);
        assert_eq!(first_revoked(server), Some(2));
        let first = server.last_revocation();
        // A request that is withdrawn, even if the lease stays revoked.
        ask(server, 3, NOTHING);
        assert_eq!(first_revoked(server), None);
        // The limit begins again with the next request.
        ask(server, 4, READ);
        assert_eq!(first_revoked(server), Some(2));
        assert!(server.last_revocation() > first);
        receive(server, 2, CONFIRM, HANDLE, NOTHING).unwrap();
        assert_eq!(first_revoked(server), None);
        // Readers are revoked together, and in their order.
        ask(server, 2, READ);
        ask(server, 3, WRITE);
        let readers = [first_revoked(server).unwrap(), {
            let first = first_revoked(server).unwrap();
            receive(server, first, CONFIRM, HANDLE, NOTHING).unwrap();
            first_revoked(server).unwrap()
        }];
        assert_ne!(readers[0], readers[1]);
        assert!(readers.iter().all(|reader| [2, 4].contains(reader)));
        // A client whose process has ended takes its lease with it.
        server.reclaim(vmid(readers[1]));
        assert!(server.check_invariants());
        assert_eq!(first_revoked(server), None);
    });
}

#[test]
fn revoked_lease_of_the_leader_or_of_a_process_in_c_has_no_limit() {
    with(|server| {
        on_message_from_c(server, 2, REQUEST, WRITE, &[]);
        receive(server, 3, REQUEST, 1, WRITE).unwrap();
        assert_eq!(first_revoked(server), None, "it may be one in C");
    });
    with(|server| {
        receive(server, 1, REQUEST, 1, WRITE).unwrap();
        receive(server, 3, REQUEST, 1, WRITE).unwrap();
        assert_eq!(first_revoked(server), None, "it is the leader");
    });
}
