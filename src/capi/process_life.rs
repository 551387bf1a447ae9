//! Joining the family, starting children, ending.

use core::ffi::c_int;
use core::ptr::null;

use super::call_limits::wait_within;
use super::ffi_copy::{read, write};
use super::library_os::this_process;
use super::setup::set_ids;
use super::tables::{libos_ipc_call_limit, libos_ipc_identity, libos_ipc_ids};
use super::{CNode, node, node_any_phase, status, wait};
use crate::error::{Error, Invalid};
use crate::sync::{AtomicU32, Ordering};
use crate::{Exit, Id, Identity, Pid, Vmid, Wait};

/// The pid of the parent, as `libos_ipc_join` has it.
static PARENT_PID: AtomicU32 = AtomicU32::new(0);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_join(pid: u32, parent_pid: u32, own_pid: *mut u32) -> c_int {
    let joined = node().and_then(|node| {
        if node.pid().is_some() {
            return Err(Error::Invalid(Invalid::Joined));
        }
        let wait = node.begin(wait());
        let pid = Pid::new(pid);
        if let Some(pid) = pid {
            separate(node, pid.get(), wait)?;
        }
        let pid = node.join_as(pid, wait)?.get();
        PARENT_PID.store(parent_pid, Ordering::Relaxed);
        Ok(pid)
    });
    // SAFETY: the header requires NULL or room for a number.
    status(joined.map(|pid| unsafe { write(own_pid, pid) }))
}

/// Gives a pid an ID range of its own at the leader, as the leader requires: the range stays allocated until the process is
/// reaped.
fn separate(node: &CNode, pid: Id, wait: Wait<'_>) -> Result<(), Error> {
    let us = node.identity().vmid;
    let separated = match node.transfer_id(pid, us, wait) {
        // Neither `libos_ipc_get_new_id` nor `libos_ipc_init_id_ranges` returned this ID.
        Err(Error::Invalid(_)) => node.change_owner(pid, us, wait),
        transferred => transferred,
    };
    match separated {
        // The leader refuses the change for a pid in its table, which has its own range already. If the ID belongs to
        // another process, joining fails.
        Err(Error::Invalid(_) | Error::Refused { .. } | Error::NoSuchProcess) => Ok(()),
        separated => separated,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_set_identity(identity: *const libos_ipc_identity) -> c_int {
    // SAFETY: the header requires NULL or a whole struct.
    let identity = unsafe { read(identity) };
    // SAFETY: the header requires that no other thread starts the library meanwhile.
    status(identity.and_then(|identity| unsafe { set_ids(identity.ids, identity.heir_vmid) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_get_identity(identity: *mut libos_ipc_identity) -> c_int {
    let numbers = node_any_phase().map(|node| libos_ipc_identity {
        pid: node.pid_or_zero(),
        parent_pid: PARENT_PID.load(Ordering::Relaxed),
        ..identity_of(&node.identity())
    });
    // SAFETY: the header requires NULL or room for the struct.
    status(numbers.map(|numbers| unsafe { write(identity, numbers) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_start_child(child: *mut libos_ipc_identity) -> c_int {
    // SAFETY: the header requires NULL or room for the struct.
    unsafe { libos_ipc_start_child_within(child, null()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_start_child_within(
    child: *mut libos_ipc_identity,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    // SAFETY: the header requires a limit that `wait_within` can read.
    let wait = unsafe { wait_within(limit, wait()) };
    let started = node().and_then(|node| node.start_child(wait));
    // SAFETY: the header requires NULL or room for the struct.
    status(started.map(|started| unsafe { write(child, identity_of(&started)) }))
}

fn identity_of(identity: &Identity) -> libos_ipc_identity {
    let [self_vmid, parent_vmid, leader_vmid, pid, parent_pid] = identity.numbers();
    let ids = libos_ipc_ids {
        self_vmid,
        parent_vmid,
        leader_vmid,
    };
    libos_ipc_identity {
        ids,
        pid,
        parent_pid,
        heir_vmid: Vmid::number(identity.heir),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_watch_parent(is_wanted: bool, parent_pid: *mut u32) -> c_int {
    let parent = node().and_then(|node| node.watch_parent(is_wanted, wait()));
    // SAFETY: the header requires NULL or room for a number.
    status(parent.map(|parent| unsafe { write(parent_pid, Pid::number(parent)) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_exit(uid: u32, exitcode: u32, term_signal: u32) -> c_int {
    let exit = Exit {
        uid,
        code: exitcode,
        signal: term_signal,
    };
    let parent_pid = match PARENT_PID.load(Ordering::Relaxed) {
        0 => this_process().ppid,
        pid => pid,
    };
    status(node().and_then(|node| node.exit_as(exit, Pid::new(parent_pid), wait())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_leave(limit: *const libos_ipc_call_limit) -> c_int {
    // SAFETY: the header requires a limit that `wait_within` can read.
    let wait = unsafe { wait_within(limit, Wait::FOREVER) };
    status(node_any_phase().and_then(|node| node.leave(wait)))
}
