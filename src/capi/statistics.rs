//! Counters and pool usage.

use core::ffi::c_int;
use core::mem::offset_of;

use zerocopy::{Immutable, IntoBytes};

use super::ffi_copy::write;
use super::{node_any_phase, status};
use crate::invariant::OrBroken;
use crate::{Statistics, Usage, Vmid};

/// The usage of a pool.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub struct libos_ipc_fill {
    pub now: u64,
    pub most: u64,
    pub limit: u64,
}

/// The counters and the usage of every pool.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct libos_ipc_statistics {
    pub frames_in: u64,
    pub frames_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub accepted: u64,
    pub connected: u64,
    pub disconnects: u64,
    pub late_answers: u64,
    pub unknown_codes: u64,
    pub undone: u64,
    pub refused: u64,
    pub peers: libos_ipc_fill,
    pub waiters: libos_ipc_fill,
    pub ranges: libos_ipc_fill,
    pub own_ranges: libos_ipc_fill,
    pub children: libos_ipc_fill,
    pub locks: libos_ipc_fill,
    pub locked_files: libos_ipc_fill,
    pub waiting_for_locks: libos_ipc_fill,
    pub lock_handles: libos_ipc_fill,
    pub sync_handles: libos_ipc_fill,
    pub served_handles: libos_ipc_fill,
    pub sync_clients: libos_ipc_fill,
    pub send_queue: libos_ipc_fill,
    pub broken_invariants: u64,
    pub delegations: libos_ipc_fill,
    pub processes: libos_ipc_fill,
    pub refused_by_quota: u64,
    pub platform_faults: u64,
    pub successions: u64,
    pub epoch: u64,
    pub heir: u64,
    pub heir_lag_messages: u64,
    pub heir_lag_bytes: u64,
    pub last_outage_ns: u64,
}

/// Makes a table of copies from [`Statistics`] to the C struct: the offsets of the members to copy to and to copy from. A
/// table takes a third of the code of an assignment to each member.
macro_rules! copies {
    ($target:ty = $source:ty: $($to:ident = $($from:ident).+,)*) => {
        [$({
            let _: fn(&libos_ipc_statistics) -> &$target = |copied| &copied.$to;
            let _: fn(&Statistics) -> &$source = |counted| &counted.$($from).+;
            (short(offset_of!(libos_ipc_statistics, $to)), short(offset_of!(Statistics, $($from).+)))
        }),*]
    };
}

#[allow(clippy::cast_possible_truncation, reason = "checked")]
const fn short(offset: usize) -> u16 {
    assert!(offset <= u16::MAX as usize, "the structs are small");
    offset as u16
}

const COUNTERS: [(u16, u16); 16] = copies! { u64 = u64:
    frames_in = frames_in,
    frames_out = frames_out,
    bytes_in = bytes_in,
    bytes_out = bytes_out,
    accepted = accepted,
    connected = connected,
    disconnects = disconnects,
    late_answers = late_answers,
    unknown_codes = unknown_codes,
    undone = rejected_oneway,
    broken_invariants = broken_invariants,
    refused_by_quota = refused_by_quota,
    platform_faults = platform_faults,
    successions = successions,
    heir_lag_messages = succession.lag_ops,
    heir_lag_bytes = succession.lag_bytes,
};

const POOLS: [(u16, u16); 15] = copies! { libos_ipc_fill = Usage:
    peers = pools.peers,
    waiters = pools.waiters,
    ranges = pools.ranges,
    own_ranges = pools.own_ranges,
    children = pools.children,
    locks = pools.locks,
    locked_files = pools.locked_files,
    waiting_for_locks = pools.waiting_for_locks,
    lock_handles = pools.lock_handles,
    sync_handles = pools.sync_handles,
    served_handles = pools.served_handles,
    sync_clients = pools.sync_clients,
    send_queue = pools.send_queue,
    delegations = pools.delegations,
    processes = pools.processes,
};

const _: () = assert!(
    size_of::<libos_ipc_statistics>() == 8 * (COUNTERS.len() + 3 * POOLS.len() + 4),
    "with four members that are computed, each is copied"
);

/// Copies the statistics to the C struct.
///
/// # Safety
/// `to` points to room for the struct, which need not be aligned.
unsafe fn copy(counted: &Statistics, to: *mut libos_ipc_statistics) {
    let from = &raw const *counted;
    for &(at, from_at) in &COUNTERS {
        // SAFETY: the offsets are those of members of these types, and the caller promises the room.
        unsafe {
            let count = from.byte_add(from_at.into()).cast::<u64>().read();
            write(to.byte_add(at.into()).cast(), count);
        }
    }
    for &(at, from_at) in &POOLS {
        // SAFETY: as above.
        unsafe {
            let usage = &*from.byte_add(from_at.into()).cast::<Usage>();
            let fill = libos_ipc_fill {
                now: usage.now as u64,
                most: usage.peak as u64,
                limit: usage.limit as u64,
            };
            write(to.byte_add(at.into()).cast(), fill);
        }
    }
    let succession = &counted.succession;
    let outage = succession.last_outage.map(|outage| outage.as_nanos());
    let outage = outage.map_or(0, |outage| u64::try_from(outage).or_broken(u64::MAX));
    // SAFETY: as above.
    unsafe {
        write(&raw mut (*to).refused, counted.refused_total());
        write(&raw mut (*to).epoch, succession.epoch.into());
        write(&raw mut (*to).heir, Vmid::number(succession.heir).into());
        write(&raw mut (*to).last_outage_ns, outage);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_get_statistics(statistics: *mut libos_ipc_statistics) -> c_int {
    status(node_any_phase().map(|node| {
        let counted = node.statistics();
        if !statistics.is_null() {
            // SAFETY: the header requires NULL or room for the struct.
            unsafe { copy(&counted, statistics) };
        }
    }))
}
