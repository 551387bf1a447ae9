//! File locks.

use core::ffi::{c_char, c_int};
use core::ptr::null;

use super::call_limits::wait_within;
use heapless::VecView;

use super::ffi_copy::{Bytes, TOO_LONG, append_string, is_long, read, with_copy, write};
use super::library_os::file_key;
use super::setup::init_part;
use super::tables::{libos_ipc_call_limit, libos_ipc_lock};
use super::{node, released, status, vmid, wait};
use crate::Wait;
use crate::error::{Error, Invalid};
use crate::wire::{FileLock, HeldLock, LockFamily, LockKind};

/// How a string names a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeySource {
    /// A path, which the library OS converts to a key.
    Path,
    /// The key itself.
    Key,
}

/// Appends the key of a file to `key`, which is empty, without the NUL.
///
/// # Safety
/// `path` is NULL or points to a string.
unsafe fn read_key(
    path: *const c_char,
    source: KeySource,
    key: &mut VecView<u8>,
) -> Result<(), Error> {
    if source == KeySource::Path
        && !path.is_null()
        // SAFETY: the caller keeps what `# Safety` requires.
        && let Some(converted) = unsafe { convert_path(path, key) }
    {
        return converted;
    }
    // SAFETY: the caller keeps what `# Safety` requires.
    unsafe { append_string(key, path) }?;
    key.pop();
    Ok(())
}

/// Like [`file_key`].
///
/// # Safety
/// `path` points to a string.
unsafe fn convert_path(path: *const c_char, key: &mut VecView<u8>) -> Option<Result<(), Error>> {
    if is_long(key) {
        // SAFETY: the caller keeps what `# Safety` requires.
        return unsafe { file_key(path, key) };
    }
    // SAFETY: the caller keeps what `# Safety` requires.
    unsafe { convert_in_long(path, key) }
}

/// Like [`file_key`], with a buffer for the longest key, which is not part of the stack of the call that follows.
///
/// # Safety
/// `path` points to a string.
#[inline(never)]
unsafe fn convert_in_long(path: *const c_char, key: &mut VecView<u8>) -> Option<Result<(), Error>> {
    let mut longest = Bytes::new();
    // SAFETY: the caller keeps what `# Safety` requires.
    let converted = unsafe { file_key(path, &mut longest) }?;
    Some(converted.and_then(|()| key.extend_from_slice(&longest).map_err(|_| TOO_LONG)))
}

/// Makes the call `then` with the key of a file.
///
/// # Safety
/// `path` is NULL or points to a string.
unsafe fn with_key(
    path: *const c_char,
    source: KeySource,
    then: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    // SAFETY: the caller keeps what `# Safety` requires.
    with_copy(&|key| unsafe { read_key(path, source, key) }, then)
}

/// Converts a lock of the header to a lock of the protocol.
#[inline(never)]
fn lock_of<'k>(asked: &libos_ipc_lock, key: &'k [u8], wait: bool) -> Result<FileLock<'k>, Error> {
    let family = LockFamily::ALL.iter().find(|f| f.number() == asked.family);
    let kind = LockKind::ALL.iter().find(|k| k.number() == asked.kind);
    Ok(FileLock {
        family: *family.ok_or(Error::Invalid(Invalid::CArgument))?,
        kind: *kind.ok_or(Error::Invalid(Invalid::CArgument))?,
        start: asked.start,
        end: asked.end,
        pid: asked.pid,
        handle: asked.handle_id,
        wait,
        path: key,
    })
}

/// Sets or removes a lock. Returns 0 or a negative error number.
///
/// # Safety
/// `path` and `lock` are NULL or point to a string and a whole lock, and `limit` is as for [`wait_within`].
unsafe fn set(
    path: *const c_char,
    source: KeySource,
    lock: *const libos_ipc_lock,
    waits: bool,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    let mut call = |key: &[u8]| {
        // SAFETY: the caller keeps what `# Safety` requires.
        let asked = unsafe { read(lock) }?;
        let lock = lock_of(&asked, key, waits)?;
        // A wait for a lock has no limit: it lasts as long as other processes hold the lock.
        let wait = if waits { Wait::FOREVER } else { wait() };
        // SAFETY: the caller keeps what `# Safety` requires.
        let wait = unsafe { wait_within(limit, wait) };
        node()?.set_lock(&lock, wait)
    };
    // SAFETY: the caller keeps what `# Safety` requires.
    status(node().and_then(|_| unsafe { with_key(path, source, &mut call) }))
}

/// Looks for a conflicting lock, and writes it to `out`. Returns 0 or a negative error number.
///
/// # Safety
/// `path`, `lock` and `limit` are as for `set`, and `out` is NULL or points to room for a lock.
unsafe fn get(
    path: *const c_char,
    source: KeySource,
    lock: *const libos_ipc_lock,
    out: *mut libos_ipc_lock,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    let mut call = |key: &[u8]| {
        // SAFETY: the caller keeps what `# Safety` requires.
        let asked = unsafe { read(lock) }?;
        // SAFETY: the caller keeps what `# Safety` requires.
        let wait = unsafe { wait_within(limit, wait()) };
        let found = node()?.find_lock(&lock_of(&asked, key, false)?, wait)?;
        let found = found.map_or_else(|| unlocked(&asked), |held| held_lock(&held));
        // SAFETY: the caller keeps what `# Safety` requires.
        unsafe { write(out, found) };
        Ok(())
    };
    // SAFETY: the caller keeps what `# Safety` requires.
    status(node().and_then(|_| unsafe { with_key(path, source, &mut call) }))
}

/// Returns the result of a look-up that found no conflicting lock.
fn unlocked(asked: &libos_ipc_lock) -> libos_ipc_lock {
    libos_ipc_lock {
        kind: LockKind::Unlock.number(),
        padding: 0,
        ..*asked
    }
}

fn held_lock(held: &HeldLock) -> libos_ipc_lock {
    let kind = if held.write {
        LockKind::Write
    } else {
        LockKind::Read
    };
    libos_ipc_lock {
        family: held.family.number(),
        kind: kind.number(),
        start: held.start,
        end: held.end,
        pid: held.pid,
        padding: 0,
        handle_id: held.handle,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_init_fs_lock() -> c_int {
    init_part()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_file_lock_set_within(
    path: *const c_char,
    file_lock: *const libos_ipc_lock,
    wait: bool,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    // SAFETY: the header requires what this function requires.
    unsafe { set(path, KeySource::Path, file_lock, wait, limit) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_file_lock_fencing(
    path: *const c_char,
    file_lock: *const libos_ipc_lock,
    number: *mut u64,
) -> c_int {
    let mut call = |key: &[u8]| {
        // SAFETY: the header requires NULL or a whole lock.
        let asked = unsafe { read(file_lock) }?;
        let found = node()?.fencing_number(&lock_of(&asked, key, false)?, wait())?;
        // SAFETY: the header requires NULL or room for a number.
        unsafe { write(number, found.unwrap_or_default()) };
        Ok(())
    };
    // SAFETY: the header requires NULL or a string.
    status(node().and_then(|_| unsafe { with_key(path, KeySource::Path, &mut call) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_close_file(path: *const c_char, pid: u32) -> c_int {
    // SAFETY: the header requires NULL or a string.
    unsafe { libos_ipc_close_file_within(path, pid, null()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_close_file_within(
    path: *const c_char,
    pid: u32,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    // SAFETY: the header requires a limit that `wait_within` can read.
    let wait = unsafe { wait_within(limit, wait()) };
    let mut call = |key: &[u8]| node()?.close_file(key, pid, wait);
    // SAFETY: the header requires NULL or a string.
    let closed = node().and_then(|_| unsafe { with_key(path, KeySource::Path, &mut call) });
    status(released(closed))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_file_lock_set(
    path: *const c_char,
    file_lock: *mut libos_ipc_lock,
    wait: bool,
) -> c_int {
    // SAFETY: the header requires what this function requires.
    unsafe { set(path, KeySource::Path, file_lock, wait, null()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_file_lock_get(
    path: *const c_char,
    file_lock: *mut libos_ipc_lock,
    out_file_lock: *mut libos_ipc_lock,
) -> c_int {
    // SAFETY: the header requires what this function requires.
    unsafe { get(path, KeySource::Path, file_lock, out_file_lock, null()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_file_lock_get_within(
    path: *const c_char,
    file_lock: *const libos_ipc_lock,
    out_file_lock: *mut libos_ipc_lock,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    // SAFETY: the header requires what this function requires.
    unsafe { get(path, KeySource::Path, file_lock, out_file_lock, limit) }
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_file_lock_clear_pid(pid: u32) -> c_int {
    status(released(
        node().and_then(|node| node.clear_locks(pid, wait())),
    ))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_give_open_file(handle_id: u64, to: u32) -> c_int {
    // SAFETY: there is no limit to read.
    unsafe { libos_ipc_give_open_file_within(handle_id, to, null()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_give_open_file_within(
    handle_id: u64,
    to: u32,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    // SAFETY: the header requires a limit that `wait_within` can read.
    let wait = unsafe { wait_within(limit, wait()) };
    status(node().and_then(|node| node.give_open_file(vmid(to)?, handle_id, wait)))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_take_back_open_file(handle_id: u64, from: u32) -> c_int {
    // SAFETY: there is no limit to read.
    unsafe { libos_ipc_take_back_open_file_within(handle_id, from, null()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_take_back_open_file_within(
    handle_id: u64,
    from: u32,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    // SAFETY: the header requires a limit that `wait_within` can read.
    let wait = unsafe { wait_within(limit, wait()) };
    status(node().and_then(|node| node.take_back_open_file(vmid(from)?, handle_id, wait)))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_hold_open_file(handle_id: u64) -> c_int {
    // SAFETY: there is no limit to read.
    unsafe { libos_ipc_hold_open_file_within(handle_id, null()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_hold_open_file_within(
    handle_id: u64,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    // SAFETY: the header requires a limit that `wait_within` can read.
    let wait = unsafe { wait_within(limit, wait()) };
    status(node().and_then(|node| node.hold_open_file(handle_id, wait)))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_close_open_file(handle_id: u64) -> c_int {
    // SAFETY: there is no limit to read.
    unsafe { libos_ipc_close_open_file_within(handle_id, null()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_close_open_file_within(
    handle_id: u64,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    // SAFETY: the header requires a limit that `wait_within` can read.
    let wait = unsafe { wait_within(limit, wait()) };
    status(released(
        node().and_then(|node| node.close_open_file(handle_id, wait)),
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_file_lock_set_key(
    path: *const c_char,
    file_lock: *mut libos_ipc_lock,
    wait: bool,
) -> c_int {
    // SAFETY: the header requires what this function requires.
    unsafe { set(path, KeySource::Key, file_lock, wait, null()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_file_lock_get_key(
    path: *const c_char,
    file_lock: *mut libos_ipc_lock,
    out_file_lock: *mut libos_ipc_lock,
) -> c_int {
    // SAFETY: the header requires what this function requires.
    unsafe { get(path, KeySource::Key, file_lock, out_file_lock, null()) }
}
