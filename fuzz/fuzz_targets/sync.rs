//! The server of sync handles against clients that say anything, and a client against a server that
//! does: neither gives to two what only one can have, and who behaves is served in the end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libos_ipc::Vmid;
use libos_ipc::shared_state::{Client, LeaseLimits, Refused, Server, Take, Told};
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
    // One client that behaves, towards the server.
    let mut data = [0; 8];
    let mut honest = Client::new(&mut data);
    honest.open(0, true);
    // One that is talked to.
    let mut other_data = [0; 8];
    let mut talked_to = Client::new(&mut other_data);
    talked_to.open(0, true);
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
                // A client that says anything is out when it says what does not fit.
                let who = usize::from(length >> 4) % 3 + 1;
                if server.hear(vmid(who), code, &sync) == Err(Refused::Unfitting) {
                    server.left(vmid(who));
                }
            }
            1 => {
                let who = usize::from(how) % 3 + 1;
                server.left(vmid(who));
            }
            2 => {
                if code.is_for_server() {
                    use_it(&mut talked_to, write, length);
                } else if talked_to.hear(code, &Sync { id: 0, ..sync }).is_err() {
                    return;
                }
            }
            _ => match (has, waits) {
                (None, None) => {
                    honest.wait(write, 1);
                    waits = Some(write);
                }
                (Some(state), _) => {
                    honest.give(state);
                    has = None;
                }
                (None, Some(_)) => {}
            },
        }
        run(&mut server, &mut honest, &mut has, &mut waits);
        assert!(server.is_sound());
    }
    // When all others are gone the one that behaves gets what it waits for.
    for who in 1..=3 {
        server.left(vmid(who));
    }
    run(&mut server, &mut honest, &mut has, &mut waits);
    assert_eq!(waits, None);
    if let Some(state) = has {
        honest.give(state);
    }
    assert!(honest.close() || !honest.is_open());
    run(&mut server, &mut honest, &mut None, &mut None);
    assert!(honest.is_free());
    assert_eq!(server.clients_fill().0, 0);
    assert_eq!(server.fill().0, 0);
});

/// All that the one that behaves and the server have to say to each other.
fn run(
    server: &mut Server<'_>,
    honest: &mut Client<'_>,
    has: &mut Option<SyncState>,
    waits: &mut Option<SyncState>,
) {
    loop {
        if let Some(state) = *waits {
            match honest.take(state) {
                Take::Taken => {
                    honest.wait(state, -1);
                    (*has, *waits) = (Some(state), None);
                }
                Take::NoRoom => {
                    honest.wait(state, -1);
                    *waits = None;
                }
                _ => {}
            }
        }
        let mut quiet = true;
        while let Some(say) = honest.next() {
            quiet = false;
            if honest.passes_death_on() {
                server.hear_owner_died(vmid(0), honest.id()).expect("it fits");
                honest.said_owner_died();
            }
            let heard = server.hear(vmid(0), say.code, &honest.message(say));
            honest.said(say);
            match heard {
                Ok(()) => {}
                Err(Refused::NoRoom) => honest.hear_no_room(),
                Err(Refused::Closed) => {
                    let (id, state, data) = (honest.id(), SyncState::Invalid, &[][..]);
                    let closed = Sync { id, state, data };
                    honest.hear(SyncCode::ConfirmClose, &closed).expect("it fits");
                }
                Err(Refused::Unfitting) => panic!("{say:?}"),
            }
        }
        while let Some((to, told)) = server.next() {
            quiet = false;
            if to == vmid(0) {
                match told {
                    Told::Message(code, sync) => honest.hear(code, &sync).expect("it fits"),
                    Told::OwnerDied(_) => honest.hear_owner_died(),
                }
            }
            server.said(true);
        }
        if quiet {
            return;
        }
    }
}

/// Whatever the server says, one writes or many read.
fn use_it(client: &mut Client<'_>, state: SyncState, how: u8) {
    match how % 5 {
        0 => {
            if client.take(state) == Take::Taken {
                let others =
                    [SyncState::Shared, SyncState::Exclusive].map(|of| client.is_taken(of));
                assert!(others != [true, true]);
                if how & 0x10 != 0 {
                    client.give(state);
                }
            }
        }
        1 => {
            if client.is_taken(state) {
                client.give(state);
            }
        }
        2 => {
            client.wait(state, 1);
            client.wait(state, -1);
        }
        3 => {
            if client.is_taken(SyncState::Shared) && client.upgrade(true) != Take::Taken {
                client.stop_upgrade();
            }
        }
        _ => {
            while let Some(say) = client.next() {
                assert!(client.message(say).data.len() <= 8);
                client.said(say);
            }
        }
    }
}
