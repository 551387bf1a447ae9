//! Counters and pool usage.

use core::ffi::c_int;

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

impl From<Usage> for libos_ipc_fill {
    // It would be there sixteen times.
    #[inline(never)]
    fn from(usage: Usage) -> Self {
        libos_ipc_fill {
            now: usage.now as u64,
            most: usage.peak as u64,
            limit: usage.limit as u64,
        }
    }
}

/// The counters and the usage of every pool.
#[derive(Clone, Copy, IntoBytes, Immutable)]
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

impl From<&Statistics> for libos_ipc_statistics {
    fn from(counted: &Statistics) -> Self {
        let pools = &counted.pools;
        let succession = &counted.succession;
        let outage = succession.last_outage.map(|outage| outage.as_nanos());
        libos_ipc_statistics {
            frames_in: counted.frames_in,
            frames_out: counted.frames_out,
            bytes_in: counted.bytes_in,
            bytes_out: counted.bytes_out,
            accepted: counted.accepted,
            connected: counted.connected,
            disconnects: counted.disconnects,
            late_answers: counted.late_answers,
            unknown_codes: counted.unknown_codes,
            undone: counted.rejected_oneway,
            refused: counted.refused_total(),
            peers: pools.peers.into(),
            waiters: pools.waiters.into(),
            ranges: pools.ranges.into(),
            own_ranges: pools.own_ranges.into(),
            children: pools.children.into(),
            locks: pools.locks.into(),
            locked_files: pools.locked_files.into(),
            waiting_for_locks: pools.waiting_for_locks.into(),
            lock_handles: pools.lock_handles.into(),
            sync_handles: pools.sync_handles.into(),
            served_handles: pools.served_handles.into(),
            sync_clients: pools.sync_clients.into(),
            send_queue: pools.send_queue.into(),
            broken_invariants: counted.broken_invariants,
            delegations: pools.delegations.into(),
            processes: pools.processes.into(),
            refused_by_quota: counted.refused_by_quota,
            platform_faults: counted.platform_faults,
            successions: counted.successions,
            epoch: succession.epoch.into(),
            heir: Vmid::number(succession.heir).into(),
            heir_lag_messages: succession.lag_ops,
            heir_lag_bytes: succession.lag_bytes,
            last_outage_ns: outage.map_or(0, |outage| u64::try_from(outage).or_broken(u64::MAX)),
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_get_statistics(statistics: *mut libos_ipc_statistics) -> c_int {
    let counted = node_any_phase().map(|node| (&node.statistics()).into());
    // SAFETY: the header requires NULL or room for the struct.
    status(counted.map(|counted| unsafe { write(statistics, counted) }))
}
