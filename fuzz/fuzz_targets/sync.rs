//! The server of sync handles against clients that send anything, and a client against a server
//! that sends anything: neither grants two exclusive leases, and a well-behaved client is served at
//! the end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libos_ipc::Vmid;
use libos_ipc::shared_state::{
    Acquisition, Client, LeaseLimits, RequestError, Server, ServerMessage,
};
use libos_ipc::store::Arena;
use libos_ipc::wire::{Sync, SyncCode, SyncState};

const LIMITS: LeaseLimits = LeaseLimits {
    handles: 2,
    clients: 5,
};

/// Returns the VMID of a client. Client 0 is the one that behaves well.
fn vmid(number: usize) -> Vmid {
    Vmid::new(number as u32 + 2).expect("not 0")
}

fuzz_target!(|bytes: &[u8]| {
    let mut memory = Box::new_uninit_slice(Server::bytes(&LIMITS, 8));
    let mut server = Server::new(&mut Arena::new(&mut memory), &LIMITS, 8).expect("enough");
    // One client that behaves well towards the server.
    let mut data = [0; 8];
    let mut honest = Client::new(&mut data);
    honest.open(0, true);
    // One client whose server sends anything.
    let mut other_data = [0; 8];
    let mut flooded = Client::new(&mut other_data);
    flooded.open(0, true);
    // The lease of the well-behaved client, and the one that it waits for.
    let mut held = None;
    let mut wanted = None;
    for step in bytes.chunks_exact(3) {
        let [action, variant, length] = *step else {
            return;
        };
        let code = SyncCode::ALL[usize::from(action >> 2) % SyncCode::ALL.len()];
        let state = SyncState::ALL[usize::from(variant) % 4];
        let sync = Sync {
            id: u64::from(variant >> 2) % 3,
            state,
            data: &[7; 12][..usize::from(length) % 12],
        };
        let wish = if variant & 4 == 0 {
            SyncState::Shared
        } else {
            SyncState::Exclusive
        };
        match action & 3 {
            0 => {
                // A client that violates the protocol is removed.
                let number = usize::from(length >> 4) % 3 + 1;
                if server.on_message(vmid(number), code, &sync)
                    == Err(RequestError::ProtocolViolation)
                {
                    server.reclaim(vmid(number));
                }
            }
            1 => {
                let number = usize::from(variant) % 3 + 1;
                server.reclaim(vmid(number));
            }
            2 => {
                if code.is_for_server() {
                    use_value(&mut flooded, wish, length);
                } else if flooded.on_message(code, &Sync { id: 0, ..sync }).is_err() {
                    return;
                }
            }
            _ => match (held, wanted) {
                (None, None) => {
                    honest.change_waiters(wish, 1);
                    wanted = Some(wish);
                }
                (Some(state), _) => {
                    honest.release(state);
                    held = None;
                }
                (None, Some(_)) => {}
            },
        }
        run(&mut server, &mut honest, &mut held, &mut wanted);
        assert!(server.check_invariants());
    }
    // When all others have ended the well-behaved client gets its lease.
    for number in 1..=3 {
        server.reclaim(vmid(number));
    }
    run(&mut server, &mut honest, &mut held, &mut wanted);
    assert_eq!(wanted, None);
    if let Some(state) = held {
        honest.release(state);
    }
    assert!(honest.close() || !honest.is_open());
    run(&mut server, &mut honest, &mut None, &mut None);
    assert!(honest.is_free());
    assert_eq!(server.client_usage().0, 0);
    assert_eq!(server.handle_usage().0, 0);
});

/// Exchanges all messages between the well-behaved client and the server.
fn run(
    server: &mut Server<'_>,
    honest: &mut Client<'_>,
    held: &mut Option<SyncState>,
    wanted: &mut Option<SyncState>,
) {
    loop {
        if let Some(state) = *wanted {
            match honest.acquire(state, true) {
                Acquisition::Acquired => {
                    honest.change_waiters(state, -1);
                    (*held, *wanted) = (Some(state), None);
                }
                Acquisition::NoRoom => {
                    honest.change_waiters(state, -1);
                    *wanted = None;
                }
                _ => {}
            }
        }
        let mut is_idle = true;
        while let Some(message) = honest.poll_transmit() {
            is_idle = false;
            if honest.forwards_owner_death() {
                server.on_owner_died(vmid(0), honest.id()).expect("it fits");
                honest.mark_owner_death_sent();
            }
            let handled = server.on_message(vmid(0), message.code, &honest.payload(message));
            honest.mark_sent(message);
            match handled {
                Ok(()) => {}
                Err(RequestError::NoRoom) => honest.on_no_room(),
                Err(RequestError::Closed) => {
                    let (id, state, data) = (honest.id(), SyncState::Invalid, &[][..]);
                    let closed = Sync { id, state, data };
                    honest
                        .on_message(SyncCode::ConfirmClose, &closed)
                        .expect("it fits");
                }
                Err(RequestError::ProtocolViolation) => panic!("{message:?}"),
            }
        }
        while let Some((to, message)) = server.poll_transmit() {
            is_idle = false;
            if to == vmid(0) {
                match message {
                    ServerMessage::Sync(code, sync) => {
                        honest.on_message(code, &sync).expect("it fits")
                    }
                    ServerMessage::OwnerDied(_) => honest.on_owner_died(),
                }
            }
            server.mark_sent();
        }
        if is_idle {
            return;
        }
    }
}

/// Uses the value, and checks that, whatever the server sends, one thread writes or many read.
fn use_value(client: &mut Client<'_>, state: SyncState, action: u8) {
    match action % 5 {
        0 => {
            if client.acquire(state, true) == Acquisition::Acquired {
                let held =
                    [SyncState::Shared, SyncState::Exclusive].map(|state| client.is_held(state));
                assert!(held != [true, true]);
                if action & 0x10 != 0 {
                    client.release(state);
                }
            }
        }
        1 => {
            if client.is_held(state) {
                client.release(state);
            }
        }
        2 => {
            client.change_waiters(state, 1);
            client.change_waiters(state, -1);
        }
        3 => {
            if client.is_held(SyncState::Shared) && client.upgrade(true) != Acquisition::Acquired {
                client.cancel_upgrade();
            }
        }
        _ => {
            while let Some(message) = client.poll_transmit() {
                assert!(client.payload(message).data.len() <= 8);
                client.mark_sent(message);
            }
        }
    }
}
