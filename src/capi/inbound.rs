//! Messages that the library OS moved itself, taken in as if they had come over a stream.

use core::ffi::{c_int, c_void};

use super::ffi_copy::{Bytes, append, append_string};
use super::{node, state, status, vmid};
use crate::error::{Error, Resource};
use crate::wire::{Expected, Frame, codes};

/// How a payload is laid out, so that its length is known from its beginning.
#[derive(Clone, Copy)]
enum Layout {
    /// That many bytes.
    Fixed(usize),
    /// The first bytes, up to data whose length stands at `size_at`; then spare bytes.
    Sized {
        head: usize,
        size_at: usize,
        spare: usize,
    },
    /// The first bytes, up to a path; then spare bytes.
    Path { head: usize, spare: usize },
}

const SYNC: Layout = Layout::Sized {
    head: 20,
    size_at: 8,
    spare: 4,
};
const LOCK: Layout = Layout::Path { head: 41, spare: 7 };
const META: Layout = Layout::Sized {
    head: 12,
    size_at: 0,
    spare: 0,
};

/// Copies a payload in.
///
/// # Safety
/// `data` is NULL or points to a payload that is laid out like that.
unsafe fn payload(layout: Layout, data: *const c_void) -> Result<Bytes, Error> {
    let mut bytes = Bytes::new();
    let head = match layout {
        Layout::Fixed(length) => length,
        Layout::Sized { head, .. } | Layout::Path { head, .. } => head,
    };
    // SAFETY: the caller's promise.
    unsafe { append(&mut bytes, data, head) }?;
    let rest = data.cast::<u8>().wrapping_add(head);
    let spare = match layout {
        Layout::Fixed(_) => 0,
        Layout::Sized { size_at, spare, .. } => {
            // That which was copied, so that it can't be another by now.
            let size = bytes.get(size_at..).and_then(<[u8]>::first_chunk::<8>);
            let size = u64::from_le_bytes(*size.ok_or(Error::Invalid)?);
            let size = usize::try_from(size).map_err(|_| Error::Invalid)?;
            // SAFETY: the caller's promise.
            unsafe { append(&mut bytes, rest.cast(), size) }?;
            spare
        }
        Layout::Path { spare, .. } => {
            // SAFETY: the caller's promise.
            unsafe { append_string(&mut bytes, rest.cast()) }?;
            spare
        }
    };
    let full = Error::Full(Resource::FrameLength);
    for _ in 0..spare {
        bytes.push(0).map_err(|_| full)?;
    }
    Ok(bytes)
}

/// Takes a message in.
///
/// # Safety
/// As for `payload`.
unsafe fn take(src: u32, code: u8, layout: Layout, data: *const c_void, seq: u64) -> c_int {
    status(node().and_then(|node| {
        // SAFETY: the caller's promise.
        let payload = unsafe { payload(layout, data) }?;
        let frame = Frame {
            seq,
            code,
            payload: &payload,
        };
        node.inject_frame(vmid(src)?, &frame)
    }))
}

macro_rules! callbacks {
    ($($name:ident = $code:ident, $layout:expr;)*) => {
        $(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name(src: u32, data: *mut c_void, seq: u64) -> c_int {
                // SAFETY: the header asks for the payload of that message.
                unsafe { take(src, codes::$code, $layout, data, seq) }
            }
        )*
    };
}

callbacks! {
    ipc_get_new_vmid_callback = GET_NEW_VMID, Layout::Fixed(0);
    ipc_cld_exit_callback = CHILDEXIT, Layout::Fixed(20);
    ipc_alloc_id_range_callback = ALLOC_ID_RANGE, Layout::Fixed(0);
    ipc_release_id_range_callback = RELEASE_ID_RANGE, Layout::Fixed(8);
    ipc_change_id_owner_callback = CHANGE_ID_OWNER, Layout::Fixed(8);
    ipc_get_id_owner_callback = GET_ID_OWNER, Layout::Fixed(4);
    ipc_pid_kill_callback = PID_KILL, Layout::Fixed(20);
    ipc_pid_getmeta_callback = PID_GETMETA, Layout::Fixed(8);
    ipc_sync_request_upgrade_callback = SYNC_REQUEST_UPGRADE, SYNC;
    ipc_sync_request_downgrade_callback = SYNC_REQUEST_DOWNGRADE, SYNC;
    ipc_sync_request_close_callback = SYNC_REQUEST_CLOSE, SYNC;
    ipc_sync_confirm_upgrade_callback = SYNC_CONFIRM_UPGRADE, SYNC;
    ipc_sync_confirm_downgrade_callback = SYNC_CONFIRM_DOWNGRADE, SYNC;
    ipc_sync_confirm_close_callback = SYNC_CONFIRM_CLOSE, SYNC;
    ipc_file_lock_set_callback = FILE_LOCK_SET, LOCK;
    ipc_file_lock_get_callback = FILE_LOCK_GET, LOCK;
    ipc_file_lock_clear_pid_callback = FILE_LOCK_CLEAR_PID, Layout::Fixed(4);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_response_callback(src: u32, data: *mut c_void, seq: u64) -> c_int {
    let taken = node().and_then(|node| {
        let src = vmid(src)?;
        let layout = match node.waiters.expected(src, seq) {
            None => return Ok(()),
            Some(Expected::Vmid | Expected::Owner | Expected::Status) => Layout::Fixed(4),
            Some(Expected::IdRange) => Layout::Fixed(8),
            Some(Expected::Lock) => Layout::Fixed(48),
            Some(Expected::Meta) => META,
            // A process in C is answered without a word.
            Some(
                Expected::StatusOrEmpty | Expected::Anything | Expected::Process | Expected::End,
            ) => Layout::Fixed(0),
        };
        // SAFETY: the header asks for the payload of an answer to that message.
        let payload = unsafe { payload(layout, data) }?;
        let frame = Frame {
            seq,
            code: codes::RESP,
            payload: &payload,
        };
        node.inject_frame(src, &frame)
    });
    if let Some(platform) = state::platform().filter(|_| !data.is_null()) {
        // SAFETY: the header says that `data` is the library's from now on.
        unsafe { platform.release(data) };
    }
    status(taken)
}

#[unsafe(no_mangle)]
pub extern "C" fn ipc_child_disconnect_callback(gone: u32) {
    if let (Ok(node), Ok(gone)) = (node(), vmid(gone)) {
        node.handle_child_gone(gone);
        node.wake();
    }
}
