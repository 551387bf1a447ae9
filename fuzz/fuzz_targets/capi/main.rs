//! The functions of `include/libos_ipc.h`, in any order and with any arguments that the header
//! allows, in a process whose peers send anything. The target checks that nothing panics, every
//! call ends, the platform's resources are used correctly, and nothing is left afterwards.
//!
//! A process can be set up only once, so it is set up at the first input, as the leader or, with
//! `LIBOS_IPC_FUZZ_MEMBER` set, as a member; and after each input all resources are released, so
//! that the next input begins in the same state.
#![no_main]

mod c;
mod platform;
/// The structs of the library itself, so that these can't differ from the header's.
#[path = "../../../src/capi/tables.rs"]
#[allow(dead_code, non_camel_case_types)]
mod tables;

use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use zerocopy::FromZeros;
// The import links the library, for its functions.
use libos_ipc as _;

use c::*;
use platform::network;

const EINVAL: i32 = -22;

static SETUP: Once = Once::new();

fn set_up() {
    let is_member = std::env::var_os("LIBOS_IPC_FUZZ_MEMBER").is_some();
    let mut limits = MaybeUninit::uninit();
    unsafe {
        assert_eq!(libos_ipc_init(), EINVAL, "before it was set up");
        libos_ipc_default_limits(limits.as_mut_ptr());
        // Tables are small and waits short.
        let limits = libos_ipc_limits {
            peers: 4,
            strangers: 2,
            waiters: 6,
            frame_length: 816,
            send_queue: 8192,
            ranges: 24,
            own_ranges: 6,
            children: 4,
            answers: 1,
            locks: 24,
            locked_files: 3,
            waiting_for_locks: 4,
            lock_handles: 4,
            sync_handles: 3,
            sync_data: 16,
            served_handles: 2,
            sync_clients: 4,
            spin_us: 0,
            call_limit_ms: 2,
            connect_limit_ms: 1,
            wrap_ids: 1,
            delegated_files: 2,
            ..limits.assume_init()
        };
        let size = libos_ipc_memory_size(&limits, !is_member);
        let memory = vec![0_u128; size.div_ceil(16)].leak();
        let (platform, callbacks) = (platform::platform(memory), platform::callbacks());
        assert_eq!(libos_ipc_setup(&platform, &callbacks, &limits), 0);
        assert_eq!(libos_ipc_setup(&platform, &callbacks, &limits), -114);
        if is_member {
            libos_ipc_process_ids = libos_ipc_ids {
                self_vmid: 4,
                parent_vmid: 2,
                leader_vmid: 2,
            };
        }
        assert_eq!(libos_ipc_init(), 0);
        assert_eq!(libos_ipc_init(), -114);
        assert_eq!(libos_ipc_init_ids() + libos_ipc_init_worker(), 0);
    }
}

/// The rest of an input, read as numbers, most of them small.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => 1 << 40,
            253 => u64::from(u32::MAX),
            small => u64::from(small % 40),
        }
    }

    fn id(&mut self) -> u32 {
        self.number() as u32
    }

    fn int(&mut self) -> i32 {
        self.number() as i32
    }

    /// Returns that many bytes; zero after the end of the input.
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        let mut bytes = taken.to_vec();
        bytes.resize(count, 0);
        bytes
    }

    /// Returns a path with its NUL.
    fn path(&mut self) -> Vec<u8> {
        let mut path = match self.byte() {
            255 => vec![b'x'; 4095],
            254 => vec![b'y'; 800],
            name => vec![b'a' + name % 4],
        };
        path.push(0);
        path
    }

    fn lock(&mut self) -> libos_ipc_lock {
        libos_ipc_lock {
            family: self.id() % 5,
            kind: self.int() % 5,
            start: self.number(),
            end: self.number(),
            pid: self.id() % 6,
            padding: 0,
            handle_id: self.number() % 6,
        }
    }

    /// Returns a whole message with small numbers. It never waits for a lock for ever.
    fn message(&mut self) -> Vec<u8> {
        let (code, length) = (self.byte() % 128, usize::from(self.byte() % 72));
        let mut payload = self.bytes(length);
        for (at, byte) in payload.iter_mut().enumerate() {
            if at % 4 != 0 && at < 24 {
                *byte = 0;
            }
        }
        if let Some(wait) = payload.get_mut(40).filter(|_| code == 15) {
            *wait = 0;
        }
        let mut message = vec![0; 17];
        let size = 17 + payload.len();
        unsafe {
            if code == 0 {
                libos_ipc_init_response(message.as_mut_ptr(), u64::from(self.byte()), size);
            } else {
                libos_ipc_init_msg(message.as_mut_ptr(), code, size);
            }
        }
        message.extend(payload);
        message
    }
}

/// The resources that were opened and not released.
#[derive(Default)]
struct Open {
    handles: Vec<Pointer>,
    ids: Vec<u32>,
    ranges: Vec<(u32, u32)>,
}

fuzz_target!(|bytes: &[u8]| {
    SETUP.call_once(set_up);
    let mut input = Input(bytes);
    let mut open = Open::default();
    network().listening = u32::from(input.byte() % 32);
    while !input.0.is_empty() {
        step(&mut input, &mut open);
    }
    clean_up(&open);
});

/// Makes one call, or lets a peer do something.
fn step(input: &mut Input<'_>, open: &mut Open) {
    let peer = 2 + u32::from(input.byte() % 3);
    let byte = input.byte();
    if byte >= 240 {
        return newer_call(byte, peer, input, open);
    }
    let mut out = null_mut();
    let (mut one, mut two) = (0, 0);
    unsafe {
        match byte % 40 {
            0 => drop(network().stream_of(peer)),
            1..4 => {
                let message = input.message();
                network().stream_of(peer).bytes.extend(message);
            }
            4 => {
                let count = usize::from(input.byte() % 32);
                let bytes = input.bytes(count);
                network().stream_of(peer).bytes.extend(bytes);
            }
            5 => network().end(peer),
            6 => network().read_all(peer),
            7 => network().listening ^= 1 << peer,
            8 => drop(libos_ipc_turn(0)),
            9 => drop(libos_ipc_connect_to_process(input.id())),
            10 => libos_ipc_remove_outgoing_connection(input.id()),
            11 => drop(libos_ipc_send_message(peer, input.message().as_mut_ptr())),
            12 => {
                let got = libos_ipc_send_msg_and_get_response(
                    peer,
                    input.message().as_mut_ptr(),
                    &mut out,
                );
                assert!(got == 0 || out.is_null());
            }
            13 => drop(libos_ipc_broadcast(
                input.message().as_mut_ptr(),
                input.id(),
            )),
            14 => drop(libos_ipc_get_new_vmid(&mut one)),
            15 => {
                if libos_ipc_alloc_id_range(&mut one, &mut two) == 0 {
                    assert!(one <= two && two - one < 32 && one > 0, "{one} to {two}");
                    open.ranges.push((one, two));
                }
            }
            16 => drop(libos_ipc_release_id_range(input.id(), input.id())),
            17 => drop(libos_ipc_change_id_owner(input.id(), input.id())),
            18 => drop(libos_ipc_get_id_owner(input.id(), &mut one)),
            19 => drop(libos_ipc_bury(input.id())),
            20 => drop(libos_ipc_init_id_ranges(input.id())),
            21 => open.ids.push(libos_ipc_get_new_id(
                [0, peer][usize::from(input.byte() & 1)],
            )),
            22 => libos_ipc_release_id(input.id()),
            23 => drop(libos_ipc_cld_exit_send(input.id(), input.id())),
            24 => drop(libos_ipc_kill_process(input.id(), input.id(), input.int())),
            25 => drop(libos_ipc_kill_thread(
                input.id(),
                input.id(),
                input.id(),
                input.int(),
            )),
            26 => drop(libos_ipc_kill_pgroup(input.id(), input.id(), input.int())),
            27 => drop(libos_ipc_kill_all(input.id(), input.int())),
            28 => drop(libos_ipc_pid_getmeta(input.id(), input.id(), &mut out)),
            29 => {
                let mut handle = null_mut();
                if libos_ipc_sync_create(&mut handle, input.number() % 8) == 0 {
                    assert_ne!(libos_ipc_sync_id(handle), 0);
                    open.handles.push(handle);
                }
            }
            30 => libos_ipc_sync_destroy(handle(input, open)),
            31 => {
                let mut data = [0; 20];
                let size = usize::from(input.byte()) % data.len();
                let handle = handle(input, open);
                libos_ipc_sync_lock(handle, input.int(), data.as_mut_ptr(), size, &mut one);
            }
            32 => {
                let mut data = input.bytes(20);
                let size = usize::from(input.byte()) % data.len();
                let handle = handle(input, open);
                libos_ipc_sync_unlock(handle, data.as_mut_ptr(), size);
            }
            33 => {
                let (path, mut lock) = (input.path(), input.lock());
                libos_ipc_file_lock_set(path.as_ptr(), &mut lock, false);
            }
            34 => {
                let (path, mut lock) = (input.path(), input.lock());
                let mut found = libos_ipc_lock::new_zeroed();
                libos_ipc_file_lock_get(path.as_ptr(), &mut lock, &mut found);
            }
            35 => drop(libos_ipc_file_lock_clear_pid(input.id())),
            36 => send_sync_message(peer, input),
            37 => drop(libos_ipc_file_lock_set_send_response(
                peer,
                input.number(),
                input.int(),
            )),
            38 => receive_message(peer, input),
            _ => {
                receive_answer(peer, input);
                libos_ipc_child_disconnect_callback(input.id());
            }
        }
    }
    if !out.is_null() {
        platform::release(null_mut(), out);
    }
}

/// Sends a message about a sync handle, as a client or as the server.
fn send_sync_message(peer: u32, input: &mut Input<'_>) {
    let mut data = input.bytes(20);
    let size = usize::from(input.byte()) % data.len();
    let (code, id, state) = (input.int(), input.number() % 8, input.int());
    // A client sends these codes to its server only. The library does not report when the slot of a handle is free that
    // it has open itself, so messages of other servers about such a handle are excluded.
    let is_to_server = matches!(code, 9 | 11 | 13);
    unsafe {
        if input.byte() & 1 == 0 && !is_to_server {
            libos_ipc_sync_client_send(code, id, state, size, data.as_mut_ptr());
        } else {
            libos_ipc_sync_server_send(peer, code, id, state, size, data.as_mut_ptr());
        }
    }
}

/// Passes the data of a received message to one of the functions for that.
fn receive_message(peer: u32, input: &mut Input<'_>) {
    let index = usize::from(input.byte()) % INBOUND.len();
    // Sizes and strings in the data end within them.
    let mut data = input.bytes(64);
    for at in (1..24).filter(|at| at % 4 != 0) {
        data[at] = 0;
    }
    data[8] %= 20;
    data[60] = 0;
    unsafe {
        INBOUND[index](peer, data.as_mut_ptr(), input.number());
    }
}

/// Passes a received answer, in memory of the platform, to the library.
fn receive_answer(peer: u32, input: &mut Input<'_>) {
    let mut memory = input.bytes(64);
    memory[0] %= 40;
    memory[1..8].fill(0);
    let address = memory.as_mut_ptr();
    network().allocated.insert(address as usize, memory);
    unsafe {
        libos_ipc_response_callback(peer, address, u64::from(input.byte()));
    }
}

/// Makes a call that the C implementation does not have.
fn newer_call(byte: u8, peer: u32, input: &mut Input<'_>, open: &mut Open) {
    let (mut group, mut count) = (0, 0);
    let mut process = libos_ipc_process::new_zeroed();
    unsafe {
        match byte {
            240 => {
                libos_ipc_leader();
                libos_ipc_dump_events();
                libos_ipc_dump_calls();
            }
            241 => assert!(libos_ipc_ids_in_use() < 1 << 16),
            242 => drop(libos_ipc_release_idle_ranges()),
            243 => drop(libos_ipc_get_process(input.id(), &mut process)),
            244 => {
                process.start_seq = input.number();
                libos_ipc_next_process(&mut process);
            }
            245 => drop(libos_ipc_getpgid(input.id(), &mut group)),
            246 => drop(libos_ipc_sync_upgrade(handle(input, open), NO_LIMIT)),
            247 => drop(libos_ipc_sync_changes(handle(input, open), &mut count)),
            248 => drop(libos_ipc_sync_fencing(handle(input, open), &mut count)),
            249 => drop(libos_ipc_close_file(input.path().as_ptr(), input.id() % 6)),
            250 => {
                let (path, lock) = (input.path(), input.lock());
                libos_ipc_file_lock_fencing(path.as_ptr(), &lock, &mut count);
            }
            251 => drop(libos_ipc_hold_open_file(input.number() % 6)),
            252 => drop(libos_ipc_give_open_file(input.number() % 6, peer)),
            253 => drop(libos_ipc_take_back_open_file(input.number() % 6, peer)),
            _ => drop(libos_ipc_close_open_file(input.number() % 6)),
        }
    }
}

/// Returns a handle that was opened, or none.
fn handle(input: &mut Input<'_>, open: &Open) -> Pointer {
    match input.byte() {
        255 => null_mut(),
        254 => 77 as Pointer,
        index => {
            let count = open.handles.len().max(1);
            let handle = open.handles.get(usize::from(index) % count);
            handle.copied().unwrap_or(null_mut())
        }
    }
}

/// Releases all, and checks that nothing is left.
fn clean_up(open: &Open) {
    unsafe {
        for handle in &open.handles {
            for _ in 0..2 {
                libos_ipc_sync_unlock(*handle, null_mut(), 0);
            }
        }
        for peer in 0..40 {
            network().end(peer);
        }
        for _ in 0..8 {
            libos_ipc_turn(0);
        }
        for peer in 0..40 {
            libos_ipc_remove_outgoing_connection(peer);
        }
        libos_ipc_shutdown_sync_client();
        for _ in 0..8 {
            libos_ipc_turn(0);
        }
        for id in 0..40 {
            libos_ipc_file_lock_clear_pid(id);
            libos_ipc_bury(id);
        }
        for id in &open.ids {
            libos_ipc_release_id(*id);
        }
        for (start, end) in &open.ranges {
            libos_ipc_release_id_range(*start, *end);
        }
        for handle_id in 0..6 {
            for peer in 2..5 {
                libos_ipc_take_back_open_file(handle_id, peer);
            }
            libos_ipc_close_open_file(handle_id);
        }
        for path in 0..4 {
            for handle_id in 0..6 {
                let mut lock = libos_ipc_lock {
                    family: 2,
                    kind: 2,
                    end: u64::MAX,
                    handle_id,
                    ..libos_ipc_lock::new_zeroed()
                };
                libos_ipc_file_lock_set([b'a' + path, 0].as_ptr(), &mut lock, false);
            }
        }
        for _ in 0..8 {
            libos_ipc_turn(0);
        }
        let mut statistics = Statistics::default();
        assert_eq!(libos_ipc_get_statistics(&mut statistics), 0);
        let pools = [
            statistics.peers,
            statistics.waiters,
            statistics.waiting_for_locks,
            statistics.sync_handles,
            statistics.served_handles,
            statistics.sync_clients,
            statistics.send_queue,
        ];
        assert!(pools.iter().all(|pool| pool.now == 0), "{statistics:?}");
    }
    network().reset();
}
