//! VMIDs, ID ranges and single IDs.

use core::ffi::c_int;

use super::ffi_copy::write;
use super::{CNode, node, node_any_phase, released, status, vmid, wait};
use crate::error::Error;
use crate::member::Purpose;
use crate::node::Wait;
use crate::number::Number;
use crate::wire::IdRange;
use crate::{Id, Vmid};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_get_new_vmid(out: *mut u32) -> c_int {
    let made = node().and_then(|node| node.new_vmid(wait()));
    // SAFETY: the header requires NULL or room for a value.
    status(made.map(|vmid| unsafe { write(out, vmid.get()) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_alloc_id_range(out_start: *mut u32, out_end: *mut u32) -> c_int {
    let range = node().and_then(|node| node.alloc_range(wait()));
    status(range.map(|range| {
        // SAFETY: the header requires NULL or room for a value.
        unsafe {
            write(out_start, range.start);
            write(out_end, range.end);
        }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_release_id_range(start: u32, end: u32) -> c_int {
    let range = IdRange { start, end };
    status(node().and_then(|node| node.release_range(range, wait())))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_change_id_owner(id: u32, new_owner: u32) -> c_int {
    status(node().and_then(|node| transfer(node, id, vmid(new_owner)?, wait())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_get_id_owner(id: u32, out_owner: *mut u32) -> c_int {
    let owner = node().and_then(|node| node.owner_of(id, wait()));
    // SAFETY: the header requires NULL or room for a value.
    status(owner.map(|owner| unsafe { write(out_owner, owner.map_or(0, Vmid::get)) }))
}

/// Transfers an ID to another process. If that process is not connected yet, it becomes a child of this one and the
/// ID its pid.
fn transfer(node: &CNode, id: Id, to: Vmid, wait: Wait<'_>) -> Result<(), Error> {
    let is_child = to != node.identity().vmid
        && node.peers.find(to).is_none()
        && node.children.lock().pid_of(to).is_none();
    if is_child {
        node.children.lock().add(id, to)?;
    }
    let transferred = match node.transfer_id(id, to, wait) {
        // `libos_ipc_get_new_id` did not allocate the ID.
        Err(Error::Invalid(_)) => node.change_owner(id, to, wait),
        transferred => transferred,
    };
    if transferred.is_err() && is_child {
        node.children.lock().remove(id);
    }
    transferred?;
    // The leader reports the ends of all children to a process that joined.
    if is_child && node.pid().is_some() {
        let announced = node.announce_child(to, id, wait);
        if announced.is_err() {
            // The leader takes the ID back.
            let _ = node.abandon_child(to);
        }
        return announced;
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_announce(announced: u32) -> c_int {
    status(node().and_then(|node| node.announce(vmid(announced)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_bury(dead: u32) -> c_int {
    status(node().and_then(|node| node.abandon_child_patiently(vmid(dead)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_init_id_ranges(preload_tid: u32) -> c_int {
    let node = match node() {
        Ok(node) if preload_tid != 0 => node,
        other => return status(other.map(|_| ())),
    };
    status(node.accept_id(preload_tid))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_get_new_id(move_ownership_to: u32) -> u32 {
    let id = node().and_then(|node| {
        let Some(to) = Vmid::new(move_ownership_to) else {
            return node.take_id(wait());
        };
        let wait = node.begin(wait());
        let id = node.take_for(Purpose::Child, wait)?;
        if let Err(error) = transfer(node, id, to, wait) {
            // This fails while it is unknown which process owns the ID. A late answer settles that.
            let _ = node.release_id(id, wait);
            return Err(error);
        }
        Ok(id)
    });
    id.unwrap_or_else(|error| {
        status(Err(error));
        crate::log::c::error(format_args!("no new ID: {}", error.errno()));
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_release_id(id: u32) {
    let outcome = node().and_then(|node| {
        // The end of the process releases its pid, and the leader may have to keep it for a group.
        if node.pid().is_some_and(|pid| pid.get() == id) {
            return Ok(());
        }
        node.release_id(id, wait())
    });
    match outcome {
        // The end of this process or of the leader has released the ID.
        Ok(()) | Err(Error::ShuttingDown | Error::LeaderGone | Error::CutOff) => {}
        Err(error) => {
            crate::log::c::debug(format_args!(
                "ID {} is not released: {}",
                Number(id.into()),
                error.errno()
            ));
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_release_idle_ranges() -> c_int {
    status(released(
        node().and_then(|node| node.release_idle_ranges(wait())),
    ))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_ids_in_use() -> usize {
    node_any_phase().map_or(0, CNode::ids_in_use)
}
