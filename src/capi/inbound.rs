//! Messages that the library OS received itself. The node handles them as if a stream had delivered them.

use core::ffi::{c_int, c_void};

use heapless::VecView;

use super::ffi_copy::{append, append_string, with_copy};
use super::{node, state, status, vmid};
use crate::error::{Error, Invalid, Resource};
use crate::wire::{Expected, Frame, codes};

/// The layout of a payload. It tells where the payload ends, because C hands over a pointer without a length.
#[derive(Clone, Copy)]
enum Layout {
    /// A payload of constant length, in bytes.
    Fixed(usize),
    /// Fields of constant length, data whose length is in the fields at `size_at`, and padding.
    Sized {
        fields: usize,
        size_at: usize,
        padding: usize,
    },
    /// Fields of constant length, a path that ends with NUL, and padding.
    Path { fields: usize, padding: usize },
}

const SYNC: Layout = Layout::Sized {
    fields: 20,
    size_at: 8,
    padding: 4,
};
const LOCK: Layout = Layout::Path {
    fields: 41,
    padding: 7,
};
const META: Layout = Layout::Sized {
    fields: 12,
    size_at: 0,
    padding: 0,
};

/// Copies a payload from the caller's memory to `bytes`, which is empty.
///
/// # Safety
/// `data` is NULL or points to a payload with that layout.
unsafe fn copy_payload(
    bytes: &mut VecView<u8>,
    layout: Layout,
    data: *const c_void,
) -> Result<(), Error> {
    let fields = match layout {
        Layout::Fixed(length) => length,
        Layout::Sized { fields, .. } | Layout::Path { fields, .. } => fields,
    };
    // SAFETY: the caller keeps what `# Safety` requires.
    unsafe { append(bytes, data, fields) }?;
    let rest = data.cast::<u8>().wrapping_add(fields);
    let padding = match layout {
        Layout::Fixed(_) => 0,
        Layout::Sized {
            size_at, padding, ..
        } => {
            // The size is read from the copy, which no other thread can change.
            let size = bytes.get(size_at..).and_then(<[u8]>::first_chunk::<8>);
            let size = u64::from_le_bytes(*size.ok_or(Error::Invalid(Invalid::CArgument))?);
            let size = usize::try_from(size).map_err(|_| Error::Invalid(Invalid::CArgument))?;
            // SAFETY: the caller keeps what `# Safety` requires.
            unsafe { append(bytes, rest.cast(), size) }?;
            padding
        }
        Layout::Path { padding, .. } => {
            // SAFETY: the caller keeps what `# Safety` requires.
            unsafe { append_string(bytes, rest.cast()) }?;
            padding
        }
    };
    let full = Error::Full(Resource::FrameLength);
    for _ in 0..padding {
        bytes.push(0).map_err(|_| full)?;
    }
    Ok(())
}

/// Handles a message as if the process `src` had sent it over its stream. Returns 0 or a negative error number.
///
/// # Safety
/// As for [`copy_payload`].
unsafe fn inject(src: u32, code: u8, layout: Layout, data: *const c_void, seq: u64) -> c_int {
    // SAFETY: the caller keeps what `# Safety` requires.
    status(unsafe { handle(src, code, layout, data, seq) })
}

/// Like [`inject`], with a result.
///
/// # Safety
/// As for [`copy_payload`].
unsafe fn handle(
    src: u32,
    code: u8,
    layout: Layout,
    data: *const c_void,
    seq: u64,
) -> Result<(), Error> {
    let node = node()?;
    with_copy(
        // SAFETY: the caller keeps what `# Safety` requires.
        &|payload| unsafe { copy_payload(payload, layout, data) },
        &mut |payload| node.inject_frame(vmid(src)?, &Frame { seq, code, payload }),
    )
}

macro_rules! callbacks {
    ($($name:ident = $code:ident, $layout:expr;)*) => {
        $(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name(src: u32, data: *mut c_void, seq: u64) -> c_int {
                // SAFETY: the header requires NULL or the payload of that message.
                unsafe { inject(src, codes::$code, $layout, data, seq) }
            }
        )*
    };
}

callbacks! {
    libos_ipc_get_new_vmid_callback = GET_NEW_VMID, Layout::Fixed(0);
    libos_ipc_cld_exit_callback = CHILDEXIT, Layout::Fixed(20);
    libos_ipc_alloc_id_range_callback = ALLOC_ID_RANGE, Layout::Fixed(0);
    libos_ipc_release_id_range_callback = RELEASE_ID_RANGE, Layout::Fixed(8);
    libos_ipc_change_id_owner_callback = CHANGE_ID_OWNER, Layout::Fixed(8);
    libos_ipc_get_id_owner_callback = GET_ID_OWNER, Layout::Fixed(4);
    libos_ipc_pid_kill_callback = PID_KILL, Layout::Fixed(20);
    libos_ipc_pid_getmeta_callback = PID_GETMETA, Layout::Fixed(8);
    libos_ipc_sync_request_upgrade_callback = SYNC_REQUEST_UPGRADE, SYNC;
    libos_ipc_sync_request_downgrade_callback = SYNC_REQUEST_DOWNGRADE, SYNC;
    libos_ipc_sync_request_close_callback = SYNC_REQUEST_CLOSE, SYNC;
    libos_ipc_sync_confirm_upgrade_callback = SYNC_CONFIRM_UPGRADE, SYNC;
    libos_ipc_sync_confirm_downgrade_callback = SYNC_CONFIRM_DOWNGRADE, SYNC;
    libos_ipc_sync_confirm_close_callback = SYNC_CONFIRM_CLOSE, SYNC;
    libos_ipc_file_lock_set_callback = FILE_LOCK_SET, LOCK;
    libos_ipc_file_lock_get_callback = FILE_LOCK_GET, LOCK;
    libos_ipc_file_lock_clear_pid_callback = FILE_LOCK_CLEAR_PID, Layout::Fixed(4);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_response_callback(
    src: u32,
    data: *mut c_void,
    seq: u64,
) -> c_int {
    let outcome = node().and_then(|node| {
        let layout = match node.waiters.expected(vmid(src)?, seq) {
            None => return Ok(()),
            Some(Expected::Vmid | Expected::Owner | Expected::Status) => Layout::Fixed(4),
            Some(Expected::IdRange) => Layout::Fixed(8),
            Some(Expected::Lock) => Layout::Fixed(48),
            Some(Expected::Meta) => META,
            // The layout of a C process: an empty payload.
            Some(
                Expected::StatusOrEmpty
                | Expected::Process
                | Expected::End
                | Expected::Fencing
                | Expected::Rejoin
                | Expected::Leader,
            ) => Layout::Fixed(0),
        };
        // SAFETY: the header requires NULL or the payload of an answer to that message.
        unsafe { handle(src, codes::RESP, layout, data, seq) }
    });
    if let Some(platform) = state::platform().filter(|_| !data.is_null()) {
        // SAFETY: the header states that the caller gives `data` to the library.
        unsafe { platform.release(data) };
    }
    status(outcome)
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_child_disconnect_callback(gone: u32) {
    if let (Ok(node), Ok(gone)) = (node(), vmid(gone)) {
        node.handle_child_gone(gone);
        node.wake();
    }
}
