//! Memory of the library OS: copied in once before it is looked at, and copied out whole.

use core::ffi::{c_char, c_void};

use heapless::Vec;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::error::{Error, errno};

/// The longest path or message that comes in through a pointer, in bytes. Twice that is the most that a call
/// takes of the caller's stack for it.
pub(super) const LONGEST: usize = 4352;

/// Bytes that were copied in.
pub(super) type Bytes = Vec<u8, LONGEST>;

/// One byte of the caller's memory.
///
/// # Safety
/// The caller of the library vouches for the byte. Another of its threads may change it meanwhile.
unsafe fn byte(from: *const c_void, at: usize) -> u8 {
    let from = from.cast::<u8>().wrapping_add(at);
    // SAFETY: the caller's promise. Volatile, so that a byte is read once, whatever becomes of it.
    unsafe { from.read_volatile() }
}

/// Fills `to` with bytes of the caller's memory: no reference is made to them, for another thread
/// may change them meanwhile.
///
/// # Safety
/// `from` points to as many bytes as `to` has.
pub(super) unsafe fn copy_in(to: &mut [u8], from: *const c_void) {
    for (at, to) in to.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *to = unsafe { byte(from, at) };
    }
}

/// Copies a value in. The pointer need not be aligned.
///
/// # Errors
/// [`Error::Invalid`] for NULL.
///
/// # Safety
/// `from` is NULL or points to a whole value.
pub(super) unsafe fn read<T: FromBytes + IntoBytes>(from: *const T) -> Result<T, Error> {
    if from.is_null() {
        return Err(Error::Invalid);
    }
    let mut value = T::new_zeroed();
    // SAFETY: the caller's promise.
    unsafe { copy_in(value.as_mut_bytes(), from.cast()) };
    Ok(value)
}

/// Copies a value out; nothing if the pointer is NULL.
///
/// # Safety
/// `to` is NULL or points to room for a whole value.
pub(super) unsafe fn write<T: IntoBytes + Immutable>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: the caller's promise. The value has no padding, so nothing of our memory goes
        // along.
        unsafe { to.write_unaligned(value) }
    }
}

/// Appends `length` bytes from `from`, which is not NULL unless there are none.
///
/// # Errors
/// [`Error::Invalid`] for NULL, [`Error::Full`] if they are too many.
///
/// # Safety
/// `from` is NULL or points to `length` bytes.
pub(super) unsafe fn append(
    bytes: &mut Bytes,
    from: *const c_void,
    length: usize,
) -> Result<(), Error> {
    let too_long = Error::Full(crate::Resource::FrameLength);
    if length == 0 {
        return Ok(());
    }
    if from.is_null() {
        return Err(Error::Invalid);
    }
    if length > LONGEST.saturating_sub(bytes.len()) {
        return Err(too_long);
    }
    for at in 0..length {
        // SAFETY: the caller's promise.
        let byte = unsafe { byte(from, at) };
        bytes.push(byte).map_err(|_| too_long)?;
    }
    Ok(())
}

/// Appends a string with its NUL, which is looked for while it is copied.
///
/// # Errors
/// [`Error::Invalid`] for NULL, [`Error::Refused`] (`ENAMETOOLONG`) if it doesn't end in time.
///
/// # Safety
/// `from` is NULL or points to a string.
pub(super) unsafe fn append_string(bytes: &mut Bytes, from: *const c_char) -> Result<(), Error> {
    if from.is_null() {
        return Err(Error::Invalid);
    }
    let too_long = Error::Refused(errno::ENAMETOOLONG);
    for at in 0..crate::PATH_MAX {
        // SAFETY: the caller's promise; the NUL was not seen before here.
        let byte = unsafe { byte(from.cast(), at) };
        bytes.push(byte).map_err(|_| too_long)?;
        if byte == 0 {
            return Ok(());
        }
    }
    Err(too_long)
}

/// Copies bytes out, as many as there is room for; nothing if the pointer is NULL.
///
/// # Safety
/// `to` is NULL or points to that much room.
pub(super) unsafe fn copy_out(bytes: &[u8], to: *mut c_void, room: usize) {
    if !to.is_null() {
        let length = bytes.len().min(room);
        // SAFETY: the caller's promise; our bytes are elsewhere.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast(), length) };
    }
}

/// A result that the caller frees: the parts, one after the other.
///
/// # Errors
/// [`Error::Full`] if the library OS has no memory for it.
pub(super) fn allocate(parts: &[&[u8]]) -> Result<*mut c_void, Error> {
    let full = Error::Full(crate::Resource::Memory);
    let length = parts
        .iter()
        .fold(0_usize, |sum, part| sum.saturating_add(part.len()));
    let platform = super::state::platform().ok_or(full)?;
    let memory = platform.allocate(length.max(1)).ok_or(full)?;
    let mut at = 0_usize;
    for part in parts {
        let to = memory.cast::<u8>().wrapping_add(at);
        // SAFETY: `memory` has room for the parts before, this one and those after.
        unsafe { copy_out(part, to.cast(), part.len()) };
        at = at.saturating_add(part.len());
    }
    Ok(memory)
}
