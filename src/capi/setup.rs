//! Set-up, start and end of the process's node.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::time::Duration;

use zerocopy::{FromZeros, IntoBytes};

use super::callbacks::call;
use super::ffi_copy::{copy_in, write};
use super::library_os::LibraryOs;
use super::platform::CPlatform;
use super::state::{NODE, SETUP, Setup, platform};
use super::tables::{libos_ipc_callbacks, libos_ipc_ids, libos_ipc_limits, libos_ipc_platform};
use super::{CNode, node, node_any_phase, status};
use crate::error::{Errno, Error, Invalid};
use crate::node::MOST_SET_ASIDE;
use crate::pal::{Deadline, Time};
use crate::store::total;
use crate::sync::{AtomicU32, Ordering};
use crate::{
    Admission, Adoption, Capacities, Config, Driving, Heirs, Identity, LeaseLimits, LockLimits,
    Node, Quota, StartError, Vmid, parts,
};

/// How long `libos_ipc_terminate_worker` may take to send queued messages.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);

static LIBRARY_OS: LibraryOs = LibraryOs;

/// The identity of this process. The library OS sets it before `libos_ipc_init`.
#[unsafe(no_mangle)]
pub static mut libos_ipc_process_ids: libos_ipc_ids = libos_ipc_ids {
    self_vmid: 0,
    parent_vmid: 0,
    leader_vmid: 0,
};

/// The process that is to lead next, as the parent of this one knew it; 0 for none.
static HEIR: AtomicU32 = AtomicU32::new(0);

/// Sets the identity of this process.
///
/// # Errors
/// [`Error::Refused`] with `EALREADY` after `libos_ipc_init`.
///
/// # Safety
/// No other thread uses `libos_ipc_process_ids` meanwhile.
pub(super) unsafe fn set_ids(ids: libos_ipc_ids, heir: u32) -> Result<(), Error> {
    if NODE.get().is_some() {
        return Err(Error::Refused {
            errno: Errno::EALREADY,
            by: None,
        });
    }
    let slot = &raw mut libos_ipc_process_ids;
    // SAFETY: the caller's promise.
    unsafe { slot.write(ids) };
    HEIR.store(heir, Ordering::Relaxed);
    Ok(())
}

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

fn config_of(limits: &libos_ipc_limits, is_leader: bool, driving: Driving) -> Config {
    let peers = match limits.peers {
        0 if is_leader => PEERS_OF_LEADER,
        0 => PEERS_OF_MEMBER,
        peers => peers,
    };
    // The limit is for calls that other processes can make wait.
    let waiters = total!(limits.waiters as usize, MOST_SET_ASIDE);
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
unsafe fn limits_at(limits: *const libos_ipc_limits) -> libos_ipc_limits {
    let from = if limits.is_null() {
        &raw const DEFAULT
    } else {
        limits
    };
    let mut limits = libos_ipc_limits::new_zeroed();
    // SAFETY: the caller's promise.
    unsafe { copy_in(limits.as_mut_bytes(), from.cast()) };
    limits
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_default_limits(limits: *mut libos_ipc_limits) {
    // SAFETY: the header requires NULL or room for the limits.
    unsafe { write(limits, DEFAULT) };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_memory_size(
    limits: *const libos_ipc_limits,
    is_leader: bool,
) -> usize {
    // SAFETY: the header requires NULL or a whole struct.
    let limits = unsafe { limits_at(limits) };
    let identity = if is_leader {
        Identity::LEADER
    } else {
        Identity::child(Vmid::LEADER, Vmid::LEADER)
    };
    CNode::memory(&identity, &config_of(&limits, is_leader, Driving::Worker)).total()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_setup(
    platform: *const libos_ipc_platform,
    callbacks: *const libos_ipc_callbacks,
    limits: *const libos_ipc_limits,
) -> c_int {
    if platform.is_null() || callbacks.is_null() {
        return Errno::EINVAL.negated();
    }
    if SETUP.get().is_some() {
        return Errno::EALREADY.negated();
    }
    // SAFETY: the header requires NULL or a whole struct.
    let limits = unsafe { limits_at(limits) };
    let call_limit =
        (limits.call_limit_ms != 0).then(|| Duration::from_millis(limits.call_limit_ms.into()));
    // If two threads call this at once, one of them succeeds.
    let made = SETUP.try_init(|slot| {
        let setup = slot.write(Setup {
            // SAFETY: the header requires pointers to whole tables. Their members are numbers and pointers that may be NULL,
            // so every bit pattern is a valid value.
            platform: unsafe { platform.read_unaligned() },
            // SAFETY: as above.
            callbacks: unsafe { callbacks.read_unaligned() },
            call_limit,
            limits,
        });
        let Some(missing) = setup.platform.first_missing() else {
            return Ok(setup);
        };
        // The log names the missing function, which -EINVAL does not.
        if let Some(log) = setup.callbacks.log {
            super::log::missing(log, setup.platform.context, missing);
        }
        Err(Errno::EINVAL)
    });
    match made {
        None => Errno::EALREADY.negated(),
        Some(Err(errno)) => errno.negated(),
        Some(Ok(_)) => {
            // The setup is set once, so this is, too.
            crate::log::c::SINK.set(super::log::write_line);
            0
        }
    }
}

/// Reads and checks `libos_ipc_process_ids`. The first process becomes the leader.
fn identity() -> Result<Identity, Error> {
    let slot = &raw mut libos_ipc_process_ids;
    // SAFETY: every bit pattern is a valid value of the static. The header requires that C writes it only before
    // this call.
    let mut ids = unsafe { slot.read() };
    if ids.self_vmid == 0 && ids.parent_vmid == 0 && ids.leader_vmid == 0 {
        ids.self_vmid = Vmid::LEADER.get();
        // SAFETY: as above; no other thread writes it while the process starts.
        unsafe { slot.write(ids) };
    }
    let numbers = [ids.self_vmid, ids.parent_vmid, ids.leader_vmid, 0, 0];
    let identity = Identity::from_numbers(numbers).ok_or(Error::Invalid(Invalid::CArgument))?;
    let leads_itself = identity.leader == Some(identity.vmid);
    let is_orphan = identity.parent.is_none() && !identity.is_leader();
    if leads_itself || is_orphan || identity.parent == Some(identity.vmid) {
        return Err(Error::Invalid(Invalid::CArgument));
    }
    Ok(Identity {
        heir: Vmid::new(HEIR.load(Ordering::Relaxed)),
        ..identity
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_init_ids() -> c_int {
    status(identity().map(|_| ()))
}

/// The leader of the family; 0 before the node is made.
#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_leader() -> u32 {
    node_any_phase().map_or(0, |node| node.leader().get())
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_init() -> c_int {
    // If two threads call this at once, one of them makes the node.
    match NODE.try_init(make_node) {
        Some(made) => status(made.map(|_| ())),
        None => Errno::EALREADY.negated(),
    }
}

/// Makes the node. [`Once`](crate::store::Once) runs this in one thread at a time, until it succeeds.
fn make_node(slot: &mut MaybeUninit<CNode>) -> Result<&mut CNode, Error> {
    let setup = SETUP.get().ok_or(Error::Invalid(Invalid::NotStarted))?;
    let identity = identity()?;
    let platform = &setup.platform;
    let driving = if platform.thread_create.is_some() {
        Driving::Worker
    } else {
        Driving::Caller
    };
    let config = config_of(&setup.limits, identity.is_leader(), driving);
    // Before the platform listens, so that the library OS can set the key and try again.
    let is_secure = !config.require_secure || super::secure::has_key();
    CNode::check_start(&identity, &config, platform.memory_size, is_secure).map_err(not_made)?;
    let listening = call!(
        platform,
        listen(identity.vmid.get()),
        Errno::ENOSYS.negated()
    );
    let peer = identity.vmid;
    super::callback_result(listening).map_err(|errno| Error::Refused {
        errno,
        by: Some(peer),
    })?;
    construct(slot, platform, identity, config)
}

/// Logs why the node could not be made, which the error number does not tell.
fn not_made(error: StartError) -> Error {
    crate::log::c::error(format_args!("{error}"));
    error.into()
}

/// Makes the node in its slot. The stack of this function is not in use while the platform begins to listen.
#[inline(never)]
fn construct<'s>(
    slot: &'s mut MaybeUninit<CNode>,
    platform: &'static libos_ipc_platform,
    identity: Identity,
    config: Config,
) -> Result<&'s mut CNode, Error> {
    // SAFETY: the header gives this memory, of `memory_size` bytes, to the library for good. Only this function takes
    // it, in one thread at a time, and a node that could not be made keeps no reference to it.
    let memory =
        unsafe { core::slice::from_raw_parts_mut(platform.memory.cast(), platform.memory_size) };
    let pal = CPlatform(platform);
    #[cfg(feature = "secure")]
    let pal = super::secure::pal(pal, identity.vmid)?;
    let made = Node::new_in(pal, identity, config, memory, |node| slot.write(node));
    let node = made.map_err(not_made)?;
    node.embedder = &LIBRARY_OS;
    node.never_joins = true;
    Ok(node)
}

/// The result of a function that starts a part of the library, which `libos_ipc_init` starts: success, also before `libos_ipc_init`.
pub(super) fn init_part() -> c_int {
    match node() {
        Err(error @ Error::ShuttingDown) => status(Err(error)),
        Ok(_) | Err(_) => 0,
    }
}

extern "C" fn run_worker(_: *mut c_void) {
    if let Ok(node) = node_any_phase() {
        node.work();
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_init_worker() -> c_int {
    let (Ok(_), Some(platform)) = (node(), platform()) else {
        return Errno::EINVAL.negated();
    };
    call!(
        platform,
        thread_create(run_worker, core::ptr::null_mut()),
        0
    )
    .min(0)
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_terminate_worker() {
    if let Ok(node) = node_any_phase() {
        node.shut_down(LEAVE_LIMIT);
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_turn(until: u64) -> bool {
    let until = match until {
        0 => Deadline::Now,
        u64::MAX => Deadline::Never,
        until => Deadline::At(Time(until)),
    };
    node_any_phase().is_ok_and(|node| node.poll(until))
}
