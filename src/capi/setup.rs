//! Set-up, start and end of the process's node.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::time::Duration;

use super::callbacks::call;
use super::library_os::LibraryOs;
use super::limits::{config_of, limits_at};
use super::platform::CPlatform;
use super::state::{NODE, SETUP, Setup, platform};
use super::tables::{libos_ipc_callbacks, libos_ipc_ids, libos_ipc_limits, libos_ipc_platform};
use super::{CNode, node, node_any_phase, status};
use crate::error::{Errno, Error, Invalid};
use crate::pal::{Deadline, Time};
use crate::sync::{AtomicU32, Ordering};
use crate::{Config, Driving, Identity, Node, StartError, Vmid};

/// The time for which `libos_ipc_terminate_worker` waits until queued messages are sent.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(500);

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
    // SAFETY: the caller keeps what `# Safety` requires.
    unsafe { slot.write(ids) };
    HEIR.store(heir, Ordering::Relaxed);
    Ok(())
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
            // `SETUP` is initialised once, so the sink is set once, too.
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

/// Returns the leader of the family; 0 before the node is made.
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
    // The check comes before the platform listens, so that the library OS can set the key and try again.
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

/// Returns the result of a function that starts a part of the library, which `libos_ipc_init` starts: success, also
/// before `libos_ipc_init`.
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
        node.shut_down(SHUTDOWN_LIMIT);
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
