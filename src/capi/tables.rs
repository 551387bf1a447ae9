//! The structs of `include/libos_ipc.h`, which documents their members.

use core::ffi::{c_char, c_int, c_void};

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The functions of the platform.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct libos_ipc_platform {
    pub context: *mut c_void,
    pub memory: *mut c_void,
    pub memory_size: usize,
    pub allocate: Option<unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void>,
    pub release: Option<unsafe extern "C" fn(*mut c_void, *mut c_void)>,
    pub now: Option<unsafe extern "C" fn(*mut c_void) -> u64>,
    pub listen: Option<unsafe extern "C" fn(*mut c_void, u32) -> c_int>,
    pub connect: Option<unsafe extern "C" fn(*mut c_void, u32, *mut *mut c_void) -> c_int>,
    pub accept: Option<unsafe extern "C" fn(*mut c_void, *mut *mut c_void) -> c_int>,
    pub read: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void, usize) -> i64>,
    pub write: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, *const c_void, usize) -> i64>,
    pub close: Option<unsafe extern "C" fn(*mut c_void, *mut c_void)>,
    pub watch: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, u64, u32) -> c_int>,
    pub rewatch: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, u64, u32)>,
    pub unwatch: Option<unsafe extern "C" fn(*mut c_void, *mut c_void)>,
    pub watch_listener: Option<unsafe extern "C" fn(*mut c_void, bool)>,
    pub wait: Option<unsafe extern "C" fn(*mut c_void, *mut libos_ipc_ready, usize, u64) -> usize>,
    pub wake: Option<unsafe extern "C" fn(*mut c_void)>,
    pub event_create: Option<unsafe extern "C" fn(*mut c_void, *mut *mut c_void) -> c_int>,
    pub event_set: Option<unsafe extern "C" fn(*mut c_void, *mut c_void)>,
    pub event_clear: Option<unsafe extern "C" fn(*mut c_void, *mut c_void)>,
    pub event_is_set: Option<unsafe extern "C" fn(*mut c_void, *mut c_void) -> bool>,
    pub event_wait: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, u64)>,
    pub wait_readable:
        Option<unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void, u64) -> c_int>,
    pub thread_create:
        Option<unsafe extern "C" fn(*mut c_void, extern "C" fn(*mut c_void), *mut c_void) -> c_int>,
    pub r#yield: Option<unsafe extern "C" fn(*mut c_void)>,
}

/// A stream that is ready.
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
pub struct libos_ipc_ready {
    pub token: u64,
    pub readiness: u32,
    pub reserved: u32,
}

/// The callbacks of the library OS.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct libos_ipc_callbacks {
    pub signal: Option<unsafe extern "C" fn(*mut c_void, *const libos_ipc_pid_kill) -> c_int>,
    pub metadata: Option<unsafe extern "C" fn(*mut c_void, u32, u32, *mut c_void, usize) -> i64>,
    pub child_died: Option<unsafe extern "C" fn(*mut c_void, *const libos_ipc_cld_exit)>,
    pub disconnected: Option<unsafe extern "C" fn(*mut c_void, u32)>,
    pub is_zombie: Option<unsafe extern "C" fn(*mut c_void, u32) -> bool>,
    pub this_process: Option<unsafe extern "C" fn(*mut c_void, *mut libos_ipc_self)>,
    pub file_key:
        Option<unsafe extern "C" fn(*mut c_void, *const c_char, *mut c_char, usize) -> i64>,
    pub log: Option<unsafe extern "C" fn(*mut c_void, u32, *const c_char)>,
    pub fatal: Option<unsafe extern "C" fn(*mut c_void, *const c_char)>,
    pub parent_ended: Option<unsafe extern "C" fn(*mut c_void, u32)>,
    pub cut_off: Option<unsafe extern "C" fn(*mut c_void)>,
    pub leader_changed: Option<unsafe extern "C" fn(*mut c_void, u32, u32)>,
}

/// A signal to deliver.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct libos_ipc_pid_kill {
    pub sender: u32,
    pub pid: u32,
    pub id: u32,
    pub signum: i32,
    pub target: u32,
}

/// How a child ended.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct libos_ipc_cld_exit {
    pub ppid: u32,
    pub pid: u32,
    pub uid: u32,
    pub exitcode: u32,
    pub term_signal: u32,
}

/// The pid, parent and user of this process.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct libos_ipc_self {
    pub pid: u32,
    pub ppid: u32,
    pub uid: u32,
}

/// The identity of a process in its family.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
#[allow(clippy::struct_field_names, reason = "the header's names")]
pub struct libos_ipc_ids {
    pub self_vmid: u32,
    pub parent_vmid: u32,
    pub leader_vmid: u32,
}

/// The limits.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct libos_ipc_limits {
    pub peers: u32,
    pub strangers: u32,
    pub waiters: u32,
    pub frame_length: u32,
    pub send_queue: u32,
    pub ranges: u32,
    pub own_ranges: u32,
    pub children: u32,
    pub answers: u32,
    pub locks: u32,
    pub locked_files: u32,
    pub waiting_for_locks: u32,
    pub lock_handles: u32,
    pub sync_handles: u32,
    pub sync_data: u32,
    pub served_handles: u32,
    pub sync_clients: u32,
    pub spin_us: u32,
    pub call_limit_ms: u32,
    pub connect_limit_ms: u32,
    /// A `bool` in C. It is a `u8` here because C may store any value in it.
    pub wrap_ids: u8,
    /// As `wrap_ids`.
    pub require_secure: u8,
    pub padding: [u8; 2],
    pub delegated_files: u32,
    /// A value of `enum libos_ipc_quota`.
    pub quota: u32,
    pub lease_limit_ms: u32,
    /// A value of `enum libos_ipc_admission`.
    pub admission: u32,
    pub silence_limit_ms: u32,
    /// A value of `enum libos_ipc_heirs`.
    pub heirs: u32,
    pub listed_heirs: [u32; 4],
    pub heir_patience_ms: u32,
    pub stall_limit_ms: u32,
    pub succession_limit_ms: u32,
    /// A value of `enum libos_ipc_adoption`.
    pub adoption: u32,
}

/// The header of a message.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, packed)]
pub struct libos_ipc_msg_header {
    pub size: usize,
    pub seq: u64,
    pub code: u8,
}

/// A message. Its payload follows in memory.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, packed)]
pub struct libos_ipc_msg {
    pub header: libos_ipc_msg_header,
}

/// The metadata of a pid. The data follows in memory.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, packed)]
pub struct libos_ipc_pid_retmeta {
    pub datasize: usize,
    pub ret_val: c_int,
}

/// A file lock. Its padding is a member, so that no uninitialised byte is copied out.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct libos_ipc_lock {
    pub family: u32,
    pub kind: i32,
    pub start: u64,
    pub end: u64,
    pub pid: u32,
    pub padding: u32,
    pub handle_id: u64,
}

/// The numbers with which a process joins its family.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct libos_ipc_identity {
    pub ids: libos_ipc_ids,
    pub pid: u32,
    pub parent_pid: u32,
    pub heir_vmid: u32,
}

/// A process in the leader's table.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct libos_ipc_process {
    pub start_seq: u64,
    pub pid: u32,
    pub vmid: u32,
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    pub state: u32,
    pub flags: u32,
    pub reserved: u32,
}

/// The storage of an [`Interrupt`](crate::Interrupt).
#[repr(C)]
pub struct libos_ipc_interrupt {
    storage: [u64; 2],
}

/// The time limit of a call, and its interrupt.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct libos_ipc_call_limit {
    pub timeout_ns: u64,
    pub interrupt: *mut libos_ipc_interrupt,
}

/// An opaque type: a pointer to it encodes a handle and is never followed.
#[repr(C)]
pub struct libos_ipc_sync_handle {
    opaque: [u8; 0],
}
