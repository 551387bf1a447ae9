//! The functions of `include/libos_ipc.h` that this target calls.

use std::ffi::{c_int, c_void};
use std::ptr::null;

pub use crate::tables::*;

pub type Pointer = *mut c_void;

/// No limit of a call.
pub const NO_LIMIT: *const libos_ipc_call_limit = null();

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub now: u64,
    pub most: u64,
    pub limit: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics {
    pub counters: [u64; 11],
    pub peers: Usage,
    pub waiters: Usage,
    pub ranges: Usage,
    pub own_ranges: Usage,
    pub children: Usage,
    pub locks: Usage,
    pub locked_files: Usage,
    pub waiting_for_locks: Usage,
    pub lock_handles: Usage,
    pub sync_handles: Usage,
    pub served_handles: Usage,
    pub sync_clients: Usage,
    pub send_queue: Usage,
    /// The other members, and room for those that later versions add.
    pub others: [u64; 32],
}

macro_rules! inbound {
    ($($name:ident)*) => {
        unsafe extern "C" { $(fn $name(src: u32, data: *mut u8, seq: u64) -> c_int;)* }
        /// The functions that take a received message.
        pub const INBOUND: [unsafe extern "C" fn(u32, *mut u8, u64) -> c_int; 17] = [$($name),*];
    };
}

inbound! {
    libos_ipc_get_new_vmid_callback libos_ipc_cld_exit_callback libos_ipc_alloc_id_range_callback
    libos_ipc_release_id_range_callback libos_ipc_change_id_owner_callback libos_ipc_get_id_owner_callback
    libos_ipc_pid_kill_callback libos_ipc_pid_getmeta_callback libos_ipc_sync_request_upgrade_callback
    libos_ipc_sync_request_downgrade_callback libos_ipc_sync_request_close_callback
    libos_ipc_sync_confirm_upgrade_callback libos_ipc_sync_confirm_downgrade_callback
    libos_ipc_sync_confirm_close_callback libos_ipc_file_lock_set_callback libos_ipc_file_lock_get_callback
    libos_ipc_file_lock_clear_pid_callback
}

unsafe extern "C" {
    pub static mut libos_ipc_process_ids: libos_ipc_ids;
    pub fn libos_ipc_default_limits(limits: *mut libos_ipc_limits);
    pub fn libos_ipc_memory_size(limits: *const libos_ipc_limits, is_leader: bool) -> usize;
    pub fn libos_ipc_setup(
        platform: *const libos_ipc_platform,
        callbacks: *const libos_ipc_callbacks,
        limits: *const libos_ipc_limits,
    ) -> c_int;
    pub fn libos_ipc_init() -> c_int;
    pub fn libos_ipc_init_ids() -> c_int;
    pub fn libos_ipc_init_worker() -> c_int;
    pub fn libos_ipc_turn(until: u64) -> bool;
    pub fn libos_ipc_get_statistics(out: *mut Statistics) -> c_int;
    pub fn libos_ipc_connect_to_process(dest: u32) -> c_int;
    pub fn libos_ipc_remove_outgoing_connection(dest: u32);
    pub fn libos_ipc_init_msg(msg: *mut u8, code: u8, size: usize);
    pub fn libos_ipc_init_response(msg: *mut u8, seq: u64, size: usize);
    pub fn libos_ipc_send_message(dest: u32, msg: *mut u8) -> c_int;
    pub fn libos_ipc_send_msg_and_get_response(
        dest: u32,
        msg: *mut u8,
        resp: *mut Pointer,
    ) -> c_int;
    pub fn libos_ipc_broadcast(msg: *mut u8, exclude: u32) -> c_int;
    pub fn libos_ipc_get_new_vmid(out: *mut u32) -> c_int;
    pub fn libos_ipc_alloc_id_range(start: *mut u32, end: *mut u32) -> c_int;
    pub fn libos_ipc_release_id_range(start: u32, end: u32) -> c_int;
    pub fn libos_ipc_change_id_owner(id: u32, owner: u32) -> c_int;
    pub fn libos_ipc_get_id_owner(id: u32, owner: *mut u32) -> c_int;
    pub fn libos_ipc_bury(vmid: u32) -> c_int;
    pub fn libos_ipc_init_id_ranges(preload: u32) -> c_int;
    pub fn libos_ipc_get_new_id(to: u32) -> u32;
    pub fn libos_ipc_release_id(id: u32);
    pub fn libos_ipc_cld_exit_send(code: u32, signal: u32) -> c_int;
    pub fn libos_ipc_kill_process(sender: u32, target: u32, signal: c_int) -> c_int;
    pub fn libos_ipc_kill_thread(sender: u32, pid: u32, target: u32, signal: c_int) -> c_int;
    pub fn libos_ipc_kill_pgroup(sender: u32, group: u32, signal: c_int) -> c_int;
    pub fn libos_ipc_kill_all(sender: u32, signal: c_int) -> c_int;
    pub fn libos_ipc_pid_getmeta(pid: u32, code: u32, out: *mut Pointer) -> c_int;
    pub fn libos_ipc_shutdown_sync_client() -> c_int;
    pub fn libos_ipc_sync_create(handle: *mut Pointer, id: u64) -> c_int;
    pub fn libos_ipc_sync_id(handle: Pointer) -> u64;
    pub fn libos_ipc_sync_destroy(handle: Pointer);
    pub fn libos_ipc_sync_lock(
        handle: Pointer,
        state: c_int,
        data: *mut u8,
        size: usize,
        news: *mut u32,
    ) -> c_int;
    pub fn libos_ipc_sync_unlock(handle: Pointer, data: *mut u8, size: usize);
    pub fn libos_ipc_file_lock_set(path: *const u8, lock: *mut libos_ipc_lock, wait: bool)
    -> c_int;
    pub fn libos_ipc_file_lock_get(
        path: *const u8,
        lock: *mut libos_ipc_lock,
        out: *mut libos_ipc_lock,
    ) -> c_int;
    pub fn libos_ipc_file_lock_clear_pid(pid: u32) -> c_int;
    pub fn libos_ipc_sync_client_send(
        code: c_int,
        id: u64,
        state: c_int,
        size: usize,
        data: *mut u8,
    ) -> c_int;
    pub fn libos_ipc_sync_server_send(
        dest: u32,
        code: c_int,
        id: u64,
        state: c_int,
        size: usize,
        data: *mut u8,
    ) -> c_int;
    pub fn libos_ipc_file_lock_set_send_response(vmid: u32, seq: u64, result: c_int) -> c_int;
    pub fn libos_ipc_response_callback(src: u32, data: *mut u8, seq: u64) -> c_int;
    pub fn libos_ipc_child_disconnect_callback(vmid: u32);
    pub fn libos_ipc_leader() -> u32;
    pub fn libos_ipc_dump_events() -> c_int;
    pub fn libos_ipc_dump_calls() -> c_int;
    pub fn libos_ipc_ids_in_use() -> usize;
    pub fn libos_ipc_release_idle_ranges() -> c_int;
    pub fn libos_ipc_get_process(pid: u32, out: *mut libos_ipc_process) -> c_int;
    pub fn libos_ipc_next_process(process: *mut libos_ipc_process) -> c_int;
    pub fn libos_ipc_getpgid(pid: u32, group: *mut u32) -> c_int;
    pub fn libos_ipc_sync_upgrade(handle: Pointer, limit: *const libos_ipc_call_limit) -> c_int;
    pub fn libos_ipc_sync_changes(handle: Pointer, count: *mut u64) -> c_int;
    pub fn libos_ipc_sync_fencing(handle: Pointer, number: *mut u64) -> c_int;
    pub fn libos_ipc_close_file(path: *const u8, pid: u32) -> c_int;
    pub fn libos_ipc_file_lock_fencing(
        path: *const u8,
        lock: *const libos_ipc_lock,
        number: *mut u64,
    ) -> c_int;
    pub fn libos_ipc_give_open_file(handle_id: u64, to: u32) -> c_int;
    pub fn libos_ipc_take_back_open_file(handle_id: u64, from: u32) -> c_int;
    pub fn libos_ipc_hold_open_file(handle_id: u64) -> c_int;
    pub fn libos_ipc_close_open_file(handle_id: u64) -> c_int;
}
