//! The limits of the process's node, as the header declares them.

use core::time::Duration;

use zerocopy::{FromZeros, IntoBytes};

use super::ffi_copy::{copy_in, write};
use super::tables::libos_ipc_limits;
use crate::node::MAX_SET_ASIDE;
use crate::store::total;
use crate::{
    Admission, Adoption, Capacities, Config, Driving, Heirs, LeaseLimits, LockLimits, Quota, Vmid,
    parts,
};

/// `LIBOS_IPC_QUOTA_FAIR`.
const QUOTA_FAIR: u32 = 0;
/// `LIBOS_IPC_QUOTA_OFF`.
const QUOTA_OFF: u32 = 1;
/// `LIBOS_IPC_ADMIT_ANY`.
const ADMIT_ANY: u32 = 0;
/// `LIBOS_IPC_ADMIT_KNOWN`.
const ADMIT_KNOWN: u32 = 1;

/// `LIBOS_IPC_HEIRS_NONE`.
const HEIRS_NONE: u32 = 0;
/// `LIBOS_IPC_HEIRS_ANY`.
const HEIRS_ANY: u32 = 1;
/// `LIBOS_IPC_HEIRS_LISTED`.
const HEIRS_LISTED: u32 = 2;
/// `LIBOS_IPC_ADOPTED_BY_NOBODY`.
const ADOPTED_BY_NOBODY: u32 = 0;
/// `LIBOS_IPC_ADOPTED_BY_LEADER`.
const ADOPTED_BY_LEADER: u32 = 1;

/// `libos_ipc_limits.peers` if it is 0, in a process that leads the family.
const PEERS_OF_LEADER: u32 = 256;
/// `libos_ipc_limits.peers` if it is 0, in any other process.
const PEERS_OF_MEMBER: u32 = 64;

/// The limits for a family of up to 256 processes.
static DEFAULT: libos_ipc_limits = limits_of(&Config::DEFAULT);

#[allow(
    clippy::cast_possible_truncation,
    reason = "all limits of the default configuration are small"
)]
const fn limits_of(config: &Config) -> libos_ipc_limits {
    let Capacities {
        unidentified,
        waiters,
        frame_length,
        send_queue,
        ranges,
        own_ranges,
        children,
        reply_buffers,
        locks,
        delegated_files,
        sync_handles,
        sync_data,
        leases,
        ..
    } = config.capacities;
    libos_ipc_limits {
        peers: 0,
        strangers: unidentified as u32,
        waiters: waiters as u32,
        frame_length: frame_length as u32,
        send_queue: send_queue as u32,
        ranges: ranges as u32,
        own_ranges: own_ranges as u32,
        children: children as u32,
        answers: reply_buffers as u32,
        locks: locks.locks as u32,
        locked_files: locks.files as u32,
        waiting_for_locks: locks.waiting as u32,
        lock_handles: locks.open_files as u32,
        sync_handles: sync_handles as u32,
        sync_data: sync_data as u32,
        served_handles: leases.handles as u32,
        sync_clients: leases.clients as u32,
        spin_us: 0,
        call_limit_ms: 0,
        connect_limit_ms: config.connect_limit.as_millis() as u32,
        wrap_ids: config.wrap_ids as u8,
        require_secure: config.require_secure as u8,
        padding: [0; 2],
        delegated_files: delegated_files as u32,
        quota: QUOTA_FAIR,
        lease_limit_ms: 0,
        admission: ADMIT_ANY,
        silence_limit_ms: 0,
        heirs: HEIRS_NONE,
        listed_heirs: [0; Heirs::MOST],
        heir_patience_ms: config.heir_patience.as_millis() as u32,
        stall_limit_ms: 0,
        succession_limit_ms: config.succession_limit.as_millis() as u32,
        adoption: ADOPTED_BY_NOBODY,
    }
}

/// Returns the configuration of a node with these limits.
pub(super) fn config_of(limits: &libos_ipc_limits, is_leader: bool, driving: Driving) -> Config {
    let peers = match limits.peers {
        0 if is_leader => PEERS_OF_LEADER,
        0 => PEERS_OF_MEMBER,
        peers => peers,
    };
    // The limit is for calls that other processes can make wait.
    let waiters = total!(limits.waiters as usize, MAX_SET_ASIDE);
    Config {
        capacities: Capacities {
            peers: peers as usize,
            unidentified: limits.strangers as usize,
            waiters,
            frame_length: limits.frame_length as usize,
            send_queue: limits.send_queue as usize,
            ranges: limits.ranges as usize,
            own_ranges: limits.own_ranges as usize,
            // The leader keeps these for members that joined.
            processes: if parts::PROCESSES {
                peers.saturating_mul(4).saturating_add(8) as usize
            } else {
                0
            },
            queued_signals: Capacities::DEFAULT.queued_signals,
            children: limits.children as usize,
            reply_buffers: limits.answers as usize,
            locks: LockLimits {
                locks: limits.locks as usize,
                files: limits.locked_files as usize,
                waiting: limits.waiting_for_locks as usize,
                open_files: limits.lock_handles as usize,
            },
            delegated_files: limits.delegated_files as usize,
            sync_handles: limits.sync_handles as usize,
            sync_data: limits.sync_data as usize,
            leases: LeaseLimits {
                handles: limits.served_handles as usize,
                clients: limits.sync_clients as usize,
            },
            events: Capacities::DEFAULT.events,
        },
        driving,
        spin: Duration::from_micros(limits.spin_us.into()),
        wrap_ids: limits.wrap_ids != 0,
        require_secure: limits.require_secure != 0,
        quota: if limits.quota == QUOTA_OFF {
            Quota::Off
        } else {
            Quota::Fair
        },
        admission: if limits.admission == ADMIT_KNOWN {
            Admission::Known
        } else {
            Admission::Any
        },
        connect_limit: Duration::from_millis(limits.connect_limit_ms.into()),
        lease_limit: (limits.lease_limit_ms > 0)
            .then_some(Duration::from_millis(limits.lease_limit_ms.into())),
        silence_limit: match limits.silence_limit_ms {
            0 => Config::DEFAULT.silence_limit,
            u32::MAX => None,
            limit => Some(Duration::from_millis(limit.into())),
        },
        heirs: match limits.heirs {
            HEIRS_ANY => Heirs::Any,
            HEIRS_LISTED => Heirs::Listed(limits.listed_heirs.map(Vmid::new)),
            _ => Heirs::None,
        },
        heir_patience: Duration::from_millis(limits.heir_patience_ms.into()),
        stall_limit: Duration::from_millis(limits.stall_limit_ms.into()),
        succession_limit: Duration::from_millis(limits.succession_limit_ms.into()),
        adoption: if limits.adoption == ADOPTED_BY_LEADER {
            Adoption::NewLeader
        } else {
            Adoption::None
        },
        ..Config::DEFAULT
    }
}

/// Reads limits; the default ones for NULL.
///
/// # Safety
/// `limits` is NULL or points to a whole struct.
#[inline(never)]
pub(super) unsafe fn limits_at(limits: *const libos_ipc_limits) -> libos_ipc_limits {
    let from = if limits.is_null() {
        &raw const DEFAULT
    } else {
        limits
    };
    let mut limits = libos_ipc_limits::new_zeroed();
    // SAFETY: the caller keeps what `# Safety` requires.
    unsafe { copy_in(limits.as_mut_bytes(), from.cast()) };
    limits
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_default_limits(limits: *mut libos_ipc_limits) {
    // SAFETY: the header requires NULL or room for the limits.
    unsafe { write(limits, DEFAULT) };
}
