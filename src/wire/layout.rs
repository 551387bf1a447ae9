//! The header and every payload as structs of bytes.
//!
//! The fields follow the C structs of x86-64, padding included, and the assertions below compare
//! each size and offset with the protocol's table. All fields are little-endian and unaligned, so a
//! struct can be read at any offset of a buffer and has the same meaning on every machine.

use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{I32, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Derives for each struct the traits for reading and writing bytes, and checks its size and its
/// offsets at compile time.
macro_rules! layouts {
    ($($(#[$doc:meta])* $name:ident: $size:literal { $($field:ident: $kind:ty = $offset:literal,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, KnownLayout, Immutable)]
            #[repr(C)]
            pub(super) struct $name { $(pub(super) $field: $kind,)* }

            const _: () = assert!(size_of::<$name>() == $size);
            $(const _: () = assert!(offset_of!($name, $field) == $offset);)*
        )*
    };
}

layouts! {
    /// The header of every frame. `size` includes the header.
    Header: 17 {
        size: U64 = 0,
        seq: U64 = 8,
        code: u8 = 16,
    }

    /// A payload of one number: an ID, a VMID or an owner.
    Number: 4 {
        number: U32 = 0,
    }

    /// A payload of one long number: a delegation, a sequence number or a mark.
    LongNumber: 8 {
        number: U64 = 0,
    }

    /// A payload of one result: 0 or a negative error number.
    Status: 4 {
        status: I32 = 0,
    }

    /// `id_range`
    IdRange: 8 {
        start: U32 = 0,
        end: U32 = 4,
    }

    /// `id_owner`
    IdOwner: 8 {
        id: U32 = 0,
        owner: U32 = 4,
    }

    /// `cld_exit`
    ChildExit: 20 {
        parent_pid: U32 = 0,
        pid: U32 = 4,
        uid: U32 = 8,
        exit_code: U32 = 12,
        term_signal: U32 = 16,
    }

    /// `pid_kill`
    PidKill: 20 {
        sender: U32 = 0,
        pid: U32 = 4,
        id: U32 = 8,
        signal: I32 = 12,
        target: U32 = 16,
    }

    /// `pid_getmeta`
    PidGetMeta: 8 {
        pid: U32 = 0,
        code: U32 = 4,
    }

    /// `pid_retmeta`, without the data after it
    PidRetMeta: 12 {
        data_size: U64 = 0,
        status: I32 = 8,
    }

    /// `sync` up to its data. The data begin in the struct's tail padding in C.
    Sync: 20 {
        id: U64 = 0,
        data_size: U64 = 8,
        state: I32 = 16,
    }

    /// `file_lock` up to its path. The path begins in the struct's tail padding in C.
    FileLock: 41 {
        family: U32 = 0,
        kind: I32 = 4,
        start: U64 = 8,
        end: U64 = 16,
        pid: U32 = 24,
        pad: [u8; 4] = 28,
        handle: U64 = 32,
        wait: u8 = 40,
    }

    /// `HELLO`
    Hello: 16 {
        version: U32 = 0,
        features: U32 = 4,
        pid: U32 = 8,
        parent: U32 = 12,
    }

    /// `PROCESS_START`
    ProcessStart: 8 {
        vmid: U32 = 0,
        pid: U32 = 4,
    }

    /// `PROCESS_CHANGE`
    ProcessChange: 12 {
        what: U32 = 0,
        pid: U32 = 4,
        value: U32 = 8,
    }

    /// `PROCESS_QUERY`
    ProcessQuery: 24 {
        pid: U32 = 0,
        group: U32 = 4,
        parent: U32 = 8,
        pad: [u8; 4] = 12,
        after: U64 = 16,
    }

    /// The answer to `PROCESS_QUERY`
    ProcessAnswer: 40 {
        status: I32 = 0,
        pid: U32 = 4,
        vmid: U32 = 8,
        parent: U32 = 12,
        group: U32 = 16,
        session: U32 = 20,
        state: U32 = 24,
        flags: U32 = 28,
        start_seq: U64 = 32,
    }

    /// `PROCESS_END`
    ProcessEnd: 8 {
        pid: U32 = 0,
        group: U32 = 4,
    }

    /// The answer to `PROCESS_END`
    EndAnswer: 24 {
        status: I32 = 0,
        exit: ChildExit = 4,
    }

    /// `PROCESS_NOTE`
    ProcessNote: 12 {
        note: U32 = 0,
        pid: U32 = 4,
        vmid: U32 = 8,
    }

    /// `HEARTBEAT`
    Heartbeat: 16 {
        sent_at: U64 = 0,
        limit: U64 = 8,
    }

    /// `FENCING_BLOCK`
    FencingBlock: 16 {
        holding: U32 = 0,
        pad: [u8; 4] = 4,
        number: U64 = 8,
    }

    /// The answer to `FENCING_NUMBER` and `FENCING_BLOCK`
    FencingAnswer: 16 {
        status: I32 = 0,
        pad: [u8; 4] = 4,
        number: U64 = 8,
    }

    /// `FILE_HANDLE`
    FileHandle: 16 {
        handle: U64 = 0,
        held: U32 = 8,
        vmid: U32 = 12,
    }

    /// `FILE_GIVEN`
    FileGiven: 12 {
        handle: U64 = 0,
        vmid: U32 = 8,
    }

    /// `FILE_LOCK_RETURN` up to its locks
    DelegationReturn: 16 {
        delegation: U64 = 0,
        count: U64 = 8,
    }

    /// One lock of a `FILE_LOCK_RETURN`
    DelegatedLock: 24 {
        start: U64 = 0,
        end: U64 = 8,
        pid: U32 = 16,
        kind: I32 = 20,
    }

    /// `SYNC_NOTE`
    SyncNote: 12 {
        id: U64 = 0,
        note: U32 = 8,
    }

    /// `LIMITS` up to the fields of later versions
    Limits: 16 {
        version: U32 = 0,
        flags: U32 = 4,
        frame_length: U32 = 8,
        sync_data: U32 = 12,
    }

    /// `PID_KILL_ORDERED`
    OrderedKill: 24 {
        sender: U32 = 0,
        pid: U32 = 4,
        id: U32 = 8,
        signal: I32 = 12,
        target: U32 = 16,
        always: U32 = 20,
    }

    /// `HEIRS`
    Heirs: 32 {
        epoch: U32 = 0,
        config: U32 = 4,
        reserved: U32 = 8,
        count: U32 = 12,
        list: [U32; 4] = 16,
    }

    /// `HEIR_READY`
    HeirReady: 16 {
        op: U64 = 0,
        digest: U64 = 8,
    }

    /// `RESIGN`
    Resign: 16 {
        epoch: U32 = 0,
        heir: U32 = 4,
        op: U64 = 8,
    }

    /// `LEADER`, and the answer to `WHO_LEADS`
    Leader: 16 {
        epoch: U32 = 0,
        config: U32 = 4,
        vmid: U32 = 8,
        mode: U32 = 12,
    }

    /// `REJOIN`
    Rejoin: 32 {
        epoch: U32 = 0,
        config: U32 = 4,
        pid: U32 = 8,
        waiting: U32 = 12,
        sent: U64 = 16,
        received: U64 = 24,
    }

    /// The answer to `REJOIN`
    RejoinAnswer: 16 {
        status: I32 = 0,
        epoch: U32 = 4,
        taken: U64 = 8,
    }

    /// `DISMISS`
    Dismiss: 8 {
        reason: U32 = 0,
        epoch: U32 = 4,
    }

    /// `file_lock_resp`
    FileLockAnswer: 48 {
        status: I32 = 0,
        family: U32 = 4,
        kind: I32 = 8,
        pad_before_start: [u8; 4] = 12,
        start: U64 = 16,
        end: U64 = 24,
        pid: U32 = 32,
        pad_before_handle: [u8; 4] = 36,
        handle: U64 = 40,
    }
}

/// Reserved bytes after the data of a `sync`: the frame is as long as if the data began at 24.
pub(super) const SYNC_SPARE: usize = 4;
const _: () = assert!(size_of::<Sync>() + SYNC_SPARE == 24);

/// Reserved bytes after the terminated path of a `file_lock`: the frame is as long as if the path
/// began at 48.
pub(super) const FILE_LOCK_SPARE: usize = 7;
const _: () = assert!(size_of::<FileLock>() + FILE_LOCK_SPARE == 48);
