//! Sync handles: shared values with reader and writer locks.

use core::ffi::{c_int, c_void};
use core::ptr::without_provenance_mut;

use super::call_limits::wait_within;
use super::ffi_copy::{copy_in, copy_out, write};
use super::processes::write_pointer;
use super::setup::init_part;
use super::tables::{libos_ipc_call_limit, libos_ipc_sync_handle};
use super::{CNode, log_limit, node, released, status, wait};
use crate::error::{Error, Invalid, Resource};
use crate::invariant::Count;
use crate::log::Text;
use crate::wire::SyncState;
use crate::{SyncHandle, Wait};

/// The bits of `enum libos_ipc_sync_news`.
const UPDATED: u32 = 1;
const OWNER_DIED: u32 = 2;

/// Encodes a handle as a pointer that is never followed: its slot plus 1, and the generation of the slot. It is never
/// NULL.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a pointer has 64 bits, which `mod.rs` asserts"
)]
fn to_pointer(handle: SyncHandle) -> *mut c_void {
    let (slot, generation) = handle.slot_and_generation();
    let slot = u64::from(slot).plus(1);
    without_provenance_mut((u64::from(generation) << 32 | slot) as usize)
}

/// Decodes a pointer that [`to_pointer`] made.
///
/// # Errors
/// [`Error::Invalid`] if no handle with this slot and generation is open.
fn find_handle(node: &CNode, pointer: *mut libos_ipc_sync_handle) -> Result<SyncHandle, Error> {
    let code = pointer.addr() as u64;
    let numbers = u32::try_from(code >> 32).ok().zip(
        u32::try_from(code & u64::from(u32::MAX))
            .ok()
            .and_then(|slot| slot.checked_sub(1)),
    );
    let (generation, slot) = numbers.ok_or(Error::Invalid(Invalid::HandleClosed))?;
    node.sync_at((slot, generation))
        .ok_or(Error::Invalid(Invalid::HandleClosed))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_init_sync_server() -> c_int {
    match node() {
        Ok(node) if !node.identity().is_leader() => status(Err(Error::Invalid(Invalid::Message))),
        _ => init_part(),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_init_sync_client() -> c_int {
    init_part()
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_shutdown_sync_client() -> c_int {
    status(released(
        node().and_then(|node| node.close_all_syncs(wait())),
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_sync_create(
    out: *mut *mut libos_ipc_sync_handle,
    id: u64,
) -> c_int {
    status(node().and_then(|node| {
        let handle = node.open_sync(Some(id).filter(|id| *id != 0))?;
        // SAFETY: the header requires NULL or room for a pointer.
        unsafe { write_pointer(out, to_pointer(handle)) };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_sync_id(handle: *mut libos_ipc_sync_handle) -> u64 {
    let handle = node().and_then(|node| find_handle(node, handle));
    handle.map_or(0, |handle| handle.id())
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_sync_destroy(handle: *mut libos_ipc_sync_handle) {
    report("closed", close(handle, wait()));
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_sync_destroy_within(
    handle: *mut libos_ipc_sync_handle,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    // SAFETY: the header requires a limit that `wait_within` can read.
    status(close(handle, unsafe { wait_within(limit, wait()) }))
}

fn close(handle: *mut libos_ipc_sync_handle, wait: Wait<'_>) -> Result<(), Error> {
    released(node().and_then(|node| node.close_sync(find_handle(node, handle)?, wait)))
}

/// Logs why a call that returns nothing has failed.
fn report(what: &str, outcome: Result<(), Error>) {
    if let Err(error) = outcome {
        log_limit(error);
        crate::log::c::error(format_args!(
            "a sync handle is not {}: {}",
            Text(what),
            error.errno()
        ));
    }
}

/// Locks a sync handle and copies its value to `data`. Returns the bits of `enum libos_ipc_sync_news`.
///
/// # Safety
/// `data` is NULL or points to `data_size` bytes of room.
unsafe fn lock(
    handle: *mut libos_ipc_sync_handle,
    state: c_int,
    data: *mut c_void,
    data_size: usize,
    reports_owner_death: bool,
    wait: Wait<'_>,
) -> Result<u32, Error> {
    let node = node()?;
    let state = SyncState::ALL.iter().find(|known| known.number() == state);
    let state = *state.ok_or(Error::Invalid(Invalid::SyncState))?;
    let handle = find_handle(node, handle)?;
    let value_status = node.lock_sync_alone(handle, state, reports_owner_death, wait, |new| {
        // SAFETY: the caller keeps what `# Safety` requires.
        unsafe { copy_out(new, data, data_size) };
    })?;
    let mut news = 0;
    if value_status.changed {
        news |= UPDATED;
    }
    if value_status.owner_died {
        news |= OWNER_DIED;
    }
    Ok(news)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_sync_lock(
    handle: *mut libos_ipc_sync_handle,
    state: c_int,
    data: *mut c_void,
    data_size: usize,
    news: *mut u32,
) -> c_int {
    // SAFETY: the header requires NULL or room for `data_size` bytes.
    let locked = unsafe { lock(handle, state, data, data_size, true, wait()) };
    // SAFETY: the header requires NULL or room for a number.
    status(locked.map(|bits| unsafe { write(news, bits) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_sync_lock_within(
    handle: *mut libos_ipc_sync_handle,
    state: c_int,
    data: *mut c_void,
    data_size: usize,
    news: *mut u32,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    // SAFETY: the header requires NULL or room for `data_size` bytes, and a limit that `wait_within` can read.
    let locked = unsafe {
        let wait = wait_within(limit, wait());
        lock(handle, state, data, data_size, true, wait)
    };
    // SAFETY: the header requires NULL or room for a number.
    status(locked.map(|bits| unsafe { write(news, bits) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_sync_upgrade(
    handle: *mut libos_ipc_sync_handle,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    // SAFETY: the header requires a limit that `wait_within` can read.
    let wait = unsafe { wait_within(limit, wait()) };
    status(node().and_then(|node| node.upgrade_sync(find_handle(node, handle)?, wait)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_sync_fencing(
    handle: *mut libos_ipc_sync_handle,
    number: *mut u64,
) -> c_int {
    status(node().and_then(|node| {
        let found = node.sync_fencing_number(find_handle(node, handle)?, wait())?;
        // SAFETY: the header requires NULL or room for a number.
        unsafe { write(number, found.unwrap_or_default()) };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_sync_changes(
    handle: *mut libos_ipc_sync_handle,
    count: *mut u64,
) -> c_int {
    let changes = node().and_then(|node| node.sync_changes(find_handle(node, handle)?));
    // SAFETY: the header requires NULL or room for a number.
    status(changes.map(|changes| unsafe { write(count, changes) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_sync_wait(
    handle: *mut libos_ipc_sync_handle,
    seen: u64,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    // SAFETY: the header requires a limit that `wait_within` can read.
    let wait = unsafe { wait_within(limit, Wait::FOREVER) };
    status(node().and_then(|node| node.wait_sync(find_handle(node, handle)?, seen, wait)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_sync_lock_updated(
    handle: *mut libos_ipc_sync_handle,
    state: c_int,
    data: *mut c_void,
    data_size: usize,
) -> bool {
    // SAFETY: the header requires NULL or room for `data_size` bytes.
    match unsafe { lock(handle, state, data, data_size, false, wait()) } {
        Ok(news) => {
            if news & OWNER_DIED != 0 {
                crate::log::c::warn(format_args!(
                    "a process died while it could change a sync handle that is locked now"
                ));
            }
            news & UPDATED != 0
        }
        Err(error) => {
            report("locked", Err(error));
            false
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_sync_unlock(
    handle: *mut libos_ipc_sync_handle,
    data: *mut c_void,
    data_size: usize,
) {
    // SAFETY: the header requires NULL or `data_size` bytes.
    report(
        "given back",
        released(unsafe { unlock(handle, data, data_size) }),
    );
}

/// Unlocks a sync handle. If it is locked to be changed, its value becomes `data`.
///
/// # Safety
/// `data` is NULL or points to `data_size` bytes.
unsafe fn unlock(
    handle: *mut libos_ipc_sync_handle,
    data: *mut c_void,
    data_size: usize,
) -> Result<(), Error> {
    let node = node()?;
    let handle = find_handle(node, handle)?;
    let length = (!data.is_null()).then_some(data_size);
    // SAFETY: the caller keeps what `# Safety` requires. `room` has `length` bytes.
    let fill = |room: &mut [u8]| unsafe { copy_in(room, data) };
    let unlock = |state, length| node.unlock_sync_with(handle, state, length, fill);
    match unlock(SyncState::Exclusive, length) {
        Err(Error::Invalid(Invalid::ValueLength)) => Err(Error::Full(Resource::SyncData)),
        // The handle may be locked as shared.
        Err(Error::Invalid(_)) => unlock(SyncState::Shared, None),
        given => given,
    }
}
