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

fn vmid(who: usize) -> Vmid {
    Vmid::new(who as u32 + 2).expect("not 0")
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
    let mut has = None;
    let mut waits = None;
    for step in bytes.chunks_exact(3) {
        let [what, how, length] = *step else { return };
        let code = SyncCode::ALL[usize::from(what >> 2) % SyncCode::ALL.len()];
        let state = SyncState::ALL[usize::from(how) % 4];
        let sync = Sync {
            id: u64::from(how >> 2) % 3,
            state,
            data: &[7; 12][..usize::from(length) % 12],
        };
        let write = if how & 4 == 0 {
            SyncState::Shared
        } else {
            SyncState::Exclusive
        };
        match what & 3 {
            0 => {
                // A client that violates the protocol is removed.
                let who = usize::from(length >> 4) % 3 + 1;
                if server.on_message(vmid(who), code, &sync) == Err(RequestError::ProtocolViolation)
                {
                    server.reclaim(vmid(who));
                }
            }
            1 => {
                let who = usize::from(how) % 3 + 1;
                server.reclaim(vmid(who));
            }
            2 => {
                if code.is_for_server() {
                    use_it(&mut flooded, write, length);
                } else if flooded.on_message(code, &Sync { id: 0, ..sync }).is_err() {
                    return;
                }
            }
            _ => match (has, waits) {
                (None, None) => {
                    honest.change_waiters(write, 1);
                    waits = Some(write);
                }
                (Some(state), _) => {
                    honest.release(state);
                    has = None;
                }
                (None, Some(_)) => {}
            },
        }
        run(&mut server, &mut honest, &mut has, &mut waits);
        assert!(server.check_invariants());
    }
    // When all others have ended the well-behaved client gets its lease.
    for who in 1..=3 {
        server.reclaim(vmid(who));
    }
    run(&mut server, &mut honest, &mut has, &mut waits);
    assert_eq!(waits, None);
    if let Some(state) = has {
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
    has: &mut Option<SyncState>,
    waits: &mut Option<SyncState>,
) {
    loop {
        if let Some(state) = *waits {
            match honest.acquire(state, true) {
                Acquisition::Acquired => {
                    honest.change_waiters(state, -1);
                    (*has, *waits) = (Some(state), None);
                }
                Acquisition::NoRoom => {
                    honest.change_waiters(state, -1);
                    *waits = None;
                }
                _ => {}
            }
        }
        let mut quiet = true;
        while let Some(say) = honest.poll_transmit() {
            quiet = false;
            if honest.forwards_owner_death() {
                server.on_owner_died(vmid(0), honest.id()).expect("it fits");
                honest.mark_owner_death_sent();
            }
            let handled = server.on_message(vmid(0), say.code, &honest.payload(say));
            honest.mark_sent(say);
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
                Err(RequestError::ProtocolViolation) => panic!("{say:?}"),
            }
        }
        while let Some((to, message)) = server.poll_transmit() {
            quiet = false;
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
        if quiet {
            return;
        }
    }
}

/// Uses the value: whatever the server sends, one thread writes or many read.
fn use_it(client: &mut Client<'_>, state: SyncState, how: u8) {
    match how % 5 {
        0 => {
            if client.acquire(state, true) == Acquisition::Acquired {
                let others = [SyncState::Shared, SyncState::Exclusive].map(|of| client.is_held(of));
                assert!(others != [true, true]);
                if how & 0x10 != 0 {
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
            while let Some(say) = client.poll_transmit() {
                assert!(client.payload(say).data.len() <= 8);
                client.mark_sent(say);
            }
        }
    }
}
