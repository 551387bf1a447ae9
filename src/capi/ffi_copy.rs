//! Copies between memory of the library OS and memory of this library.
//!
//! Input is copied once, before it is checked, so that another thread of the program cannot change it between check
//! and use.

use core::ffi::{c_char, c_void};
use core::mem::MaybeUninit;

use heapless::{Vec, VecView};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::error::{Errno, Error, Invalid};
use crate::invariant::Count;

/// The longest path or message that is read through a pointer, in bytes.
pub(super) const MAX_LENGTH: usize = 4352;

/// The longest path or message for which a call takes little stack. Few are longer.
const SHORT_LENGTH: usize = 256;

/// The error for a string that is longer than its limit.
pub(super) const TOO_LONG: Error = Error::Refused {
    errno: Errno::ENAMETOOLONG,
    by: None,
};

/// Bytes that were copied from the caller's memory.
pub(super) type Bytes = Vec<u8, MAX_LENGTH>;

/// Makes the call `then` with the bytes that `copy` appends to an empty buffer. The buffer is short if they fit: one for the
/// longest input takes half of the stack that a call uses.
pub(super) fn with_copy(
    copy: &dyn Fn(&mut VecView<u8>) -> Result<(), Error>,
    then: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut bytes = Vec::<u8, SHORT_LENGTH>::new();
    match copy(&mut bytes) {
        Err(TOO_LONG | Error::Full(_)) => with_long_copy(copy, then),
        Err(error) => Err(error),
        Ok(()) => then(&bytes),
    }
}

/// Like [`with_copy`], with a buffer for the longest input. The library OS provides its memory; if it provides none, the
/// buffer is on the stack.
#[inline(never)]
fn with_long_copy(
    copy: &dyn Fn(&mut VecView<u8>) -> Result<(), Error>,
    then: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let platform = super::state::platform().filter(|platform| platform.release.is_some());
    let memory = platform.and_then(|platform| platform.allocate(size_of::<Bytes>()));
    let (Some(platform), Some(memory)) = (platform, memory) else {
        return with_copy_on_stack(copy, then);
    };
    // SAFETY: `allocate` is as malloc(3): it returns memory of that size which is aligned for any type, and which nobody else
    // uses until it is released.
    let room = unsafe { &mut *memory.cast::<MaybeUninit<Bytes>>() };
    let bytes = room.write(Bytes::new());
    let outcome = copy(bytes).and_then(|()| then(bytes));
    // SAFETY: the memory is from `allocate`, and nothing refers to it any more.
    unsafe { platform.release(memory) };
    outcome
}

#[inline(never)]
fn with_copy_on_stack(
    copy: &dyn Fn(&mut VecView<u8>) -> Result<(), Error>,
    then: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut bytes = Bytes::new();
    copy(&mut bytes)?;
    then(&bytes)
}

/// Returns true if the buffer has room for the longest input.
pub(super) fn is_long(bytes: &VecView<u8>) -> bool {
    bytes.capacity() >= MAX_LENGTH
}

/// Reads one byte of the caller's memory.
///
/// # Safety
/// The byte is readable. Another thread of the program may change it during the call.
unsafe fn byte(from: *const c_void, at: usize) -> u8 {
    let from = from.cast::<u8>().wrapping_add(at);
    // SAFETY: the caller keeps what `# Safety` requires. The read is volatile, so the byte is read exactly once even if another thread
    // changes it.
    unsafe { from.read_volatile() }
}

/// Fills `to` with bytes of the caller's memory. It makes no reference to them, because another thread may change
/// them during the call.
///
/// # Safety
/// `from` points to as many bytes as `to` has.
pub(super) unsafe fn copy_in(to: &mut [u8], from: *const c_void) {
    for (at, to) in to.iter_mut().enumerate() {
        // SAFETY: the caller keeps what `# Safety` requires.
        *to = unsafe { byte(from, at) };
    }
}

/// Reads a value through a pointer, which need not be aligned.
///
/// # Errors
/// [`Error::Invalid`] for NULL.
///
/// # Safety
/// `from` is NULL or points to a whole value.
pub(super) unsafe fn read<T: FromBytes + IntoBytes>(from: *const T) -> Result<T, Error> {
    if from.is_null() {
        return Err(Error::Invalid(Invalid::CArgument));
    }
    let mut value = T::new_zeroed();
    // SAFETY: the caller keeps what `# Safety` requires.
    unsafe { copy_in(value.as_mut_bytes(), from.cast()) };
    Ok(value)
}

/// Writes a value through a pointer. A NULL pointer is ignored.
///
/// # Safety
/// `to` is NULL or points to room for a whole value.
pub(super) unsafe fn write<T: IntoBytes + Immutable>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: the caller keeps what `# Safety` requires. `IntoBytes` rules out padding, so no other memory of this process is copied.
        unsafe { to.write_unaligned(value) }
    }
}

/// Appends `length` bytes from `from`. `from` may be NULL if `length` is 0.
///
/// # Errors
/// [`Error::Invalid`] for NULL, [`Error::Full`] if the bytes do not fit.
///
/// # Safety
/// `from` is NULL or points to `length` bytes.
pub(super) unsafe fn append(
    bytes: &mut VecView<u8>,
    from: *const c_void,
    length: usize,
) -> Result<(), Error> {
    let too_long = Error::Full(crate::Resource::FrameLength);
    if length == 0 {
        return Ok(());
    }
    if from.is_null() {
        return Err(Error::Invalid(Invalid::CArgument));
    }
    if length > bytes.capacity().minus(bytes.len()) {
        return Err(too_long);
    }
    for at in 0..length {
        // SAFETY: the caller keeps what `# Safety` requires.
        let byte = unsafe { byte(from, at) };
        bytes.push(byte).map_err(|_| too_long)?;
    }
    Ok(())
}

/// Appends a string and its NUL. It searches for the NUL while it copies.
///
/// # Errors
/// [`Error::Invalid`] for NULL, [`TOO_LONG`] if there is no NUL within `PATH_MAX` bytes, or within the room.
///
/// # Safety
/// `from` is NULL or points to a string.
pub(super) unsafe fn append_string(
    bytes: &mut VecView<u8>,
    from: *const c_char,
) -> Result<(), Error> {
    if from.is_null() {
        return Err(Error::Invalid(Invalid::CArgument));
    }
    for at in 0..crate::PATH_MAX {
        // SAFETY: the caller keeps what `# Safety` requires; no earlier byte was the NUL.
        let byte = unsafe { byte(from.cast(), at) };
        bytes.push(byte).map_err(|_| TOO_LONG)?;
        if byte == 0 {
            return Ok(());
        }
    }
    Err(TOO_LONG)
}

/// Copies at most `room` bytes to the caller. A NULL pointer is ignored.
///
/// # Safety
/// `to` is NULL or points to `room` writable bytes.
pub(super) unsafe fn copy_out(bytes: &[u8], to: *mut c_void, room: usize) {
    if !to.is_null() {
        let length = bytes.len().min(room);
        // SAFETY: the caller keeps what `# Safety` requires; `bytes` is memory of this library, so the two do not overlap.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast(), length) };
    }
}

/// Allocates a result that the caller frees, and copies the parts into it, one after the other.
///
/// # Errors
/// [`Error::Full`] if the library OS provides no memory.
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
        // SAFETY: `memory` has room for all parts, and `at` is the length of the parts before this one.
        unsafe { copy_out(part, to.cast(), part.len()) };
        at = at.plus(part.len());
    }
    Ok(memory)
}
