//! Connections, and messages that the library OS encodes itself.

use core::ffi::{c_int, c_void};
use core::time::Duration;

use core::ptr::null_mut;

use heapless::VecView;

use super::ffi_copy::{allocate, append, read, with_copy, write};
use super::processes::{with_metadata, write_pointer};
use super::tables::{libos_ipc_msg, libos_ipc_msg_header};
use super::{CNode, log_limit, node, status, vmid, wait};
use crate::error::{Errno, Error, Invalid, Resource};
use crate::invariant::OrBroken;
use crate::node::ReplyData;
use crate::wire::{Answer, FileLock, Frame, HEADER_LENGTH, Message, SyncCode, codes};
use crate::{Vmid, Wait};

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_connect_to_process(dest: u32) -> c_int {
    status(node().and_then(|node| node.connect(vmid(dest)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_remove_outgoing_connection(dest: u32) {
    if let (Ok(node), Some(dest)) = (node(), Vmid::new(dest)) {
        node.disconnect(dest);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_init_msg(msg: *mut libos_ipc_msg, code: u8, size: usize) {
    let header = libos_ipc_msg_header { size, seq: 0, code };
    // SAFETY: the header requires NULL or room for the header of a message.
    unsafe { write(msg, libos_ipc_msg { header }) };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_init_response(msg: *mut libos_ipc_msg, seq: u64, size: usize) {
    let code = codes::RESP;
    let header = libos_ipc_msg_header { size, seq, code };
    // SAFETY: the header requires NULL or room for the header of a message.
    unsafe { write(msg, libos_ipc_msg { header }) };
}

/// The code and the sequence number of a message of the library OS.
type CodeAndSeq = (u8, u64);

/// Makes the call `then` with a message of the library OS, copied from its memory.
///
/// # Errors
/// [`Error::Invalid`] if the protocol of C processes has no such message; and those of `then`.
///
/// # Safety
/// `msg` is NULL or points to a message of the length that its header states.
unsafe fn with_message(
    msg: *const libos_ipc_msg,
    then: &mut dyn FnMut(CodeAndSeq, &Message<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    // SAFETY: the caller keeps what `# Safety` requires.
    let header = unsafe { read(msg.cast::<libos_ipc_msg_header>()) }?;
    let length = header.size.checked_sub(HEADER_LENGTH);
    let from = msg.cast::<u8>().wrapping_add(HEADER_LENGTH);
    let length = length.ok_or(Error::Invalid(Invalid::CArgument))?;
    with_copy(
        // SAFETY: the caller keeps what `# Safety` requires.
        &|payload| unsafe { append(payload, from.cast(), length) },
        &mut |payload| {
            then(
                (header.code, header.seq),
                &message_of(header.code, payload)?,
            )
        },
    )
}

/// Decodes a payload.
///
/// # Errors
/// [`Error::Invalid`] if the protocol of C processes has no such message.
pub(super) fn message_of(code: u8, payload: &[u8]) -> Result<Message<'_>, Error> {
    if code >= codes::FIRST_UNKNOWN {
        return Err(Error::Invalid(Invalid::CArgument));
    }
    let seq = 0;
    let frame = Frame { seq, code, payload };
    frame
        .message()
        .map_err(|_| Error::Invalid(Invalid::CArgument))
}

/// Sends a message. A response is sent as the answer to request `seq`.
fn send(node: &CNode, dest: Vmid, seq: u64, message: &Message<'_>) -> Result<(), Error> {
    match message {
        Message::Response(_) => {
            let peer = node.peers.find(dest).ok_or(Error::NoSuchProcess)?;
            node.put_answer(&peer, seq, message, wait())
        }
        _ => node.send_message(dest, message, wait()),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_send_message(dest: u32, msg: *mut libos_ipc_msg) -> c_int {
    let mut call =
        |(_, seq): CodeAndSeq, message: &Message<'_>| send(node()?, vmid(dest)?, seq, message);
    // SAFETY: the header requires NULL or a whole message.
    status(node().and_then(|_| unsafe { with_message(msg, &mut call) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_send_msg_and_get_response(
    dest: u32,
    msg: *mut libos_ipc_msg,
    resp: *mut *mut c_void,
) -> c_int {
    let mut call = |_: CodeAndSeq, message: &Message<'_>| {
        let answer = exchange(vmid(dest)?, message, resp.is_null())?;
        // SAFETY: the header requires NULL or room for a pointer.
        unsafe { write_pointer(resp, answer) };
        Ok(())
    };
    // SAFETY: the header requires NULL or a whole message.
    status(node().and_then(|_| unsafe { with_message(msg, &mut call) }))
}

/// Sends a request. Returns the payload of its answer, which the caller frees; NULL if it is `unwanted`.
fn exchange(dest: Vmid, message: &Message<'_>, unwanted: bool) -> Result<*mut c_void, Error> {
    let node = node()?;
    let wait = match message {
        Message::FileLockSet(FileLock { wait: true, .. }) => Wait::FOREVER,
        _ => wait(),
    };
    // Only the answer to this request has data.
    if let Message::PidGetMeta { .. } = message
        && !unwanted
    {
        return with_metadata(&mut |room| {
            let mut data = ReplyData::none();
            data.bytes = room;
            match node.exchange(dest, message, &mut data, wait)? {
                Answer::Meta(meta) => Ok((data.length, Errno::status(&meta))),
                _ => Err(Error::Invalid(Invalid::CArgument)),
            }
        });
    }
    let answer = node.exchange(dest, message, &mut ReplyData::none(), wait)?;
    if unwanted {
        return Ok(null_mut());
    }
    let mut frame = [0; 128];
    let length = answer
        .encode(0, &mut frame)
        .map_err(|_| Error::Invalid(Invalid::CArgument))?;
    allocate(&[frame.get(HEADER_LENGTH..length).or_broken(&[])])
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_broadcast(msg: *mut libos_ipc_msg, exclude_vmid: u32) -> c_int {
    let mut call = |_: CodeAndSeq, message: &Message<'_>| {
        let (_, missed) = node()?.broadcast_message(message, Vmid::new(exclude_vmid));
        if missed == 0 {
            return Ok(());
        }
        log_limit(Error::Full(Resource::SendQueue));
        Err(Error::Refused {
            errno: Errno::EAGAIN,
            by: None,
        })
    };
    // SAFETY: the header requires NULL or a whole message.
    status(node().and_then(|_| unsafe { with_message(msg, &mut call) }))
}

/// Encodes the payload of a message about a sync handle to `payload`, which is empty.
///
/// # Safety
/// `data` is NULL or points to `size` bytes.
unsafe fn encode_sync(
    payload: &mut VecView<u8>,
    id: u64,
    state: c_int,
    size: usize,
    data: *const c_void,
) -> Result<(), Error> {
    let too_long = |()| Error::Full(Resource::FrameLength);
    let parts = [
        &id.to_le_bytes()[..],
        &size.to_le_bytes(),
        &state.to_le_bytes(),
    ];
    for part in parts {
        payload.extend_from_slice(part).map_err(|_| too_long(()))?;
    }
    // SAFETY: the caller keeps what `# Safety` requires.
    unsafe { append(payload, data, size) }?;
    // The padding at the end of the C struct.
    payload.extend_from_slice(&[0; 4]).map_err(|_| too_long(()))
}

/// Returns the code of a message about sync handles.
///
/// # Errors
/// [`Error::Invalid`] for any other code.
fn sync_code(code: c_int) -> Result<u8, Error> {
    let mut known = SyncCode::ALL.iter().map(|known| known.number());
    known
        .find(|known| c_int::from(*known) == code)
        .ok_or(Error::Invalid(Invalid::CArgument))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_sync_client_send(
    code: c_int,
    id: u64,
    state: c_int,
    data_size: usize,
    data: *mut c_void,
) -> c_int {
    let mut call = |payload: &[u8]| {
        let node = node()?;
        let message = message_of(sync_code(code)?, payload)?;
        match (node.identity().leader, &message) {
            (Some(leader), _) => node.send_message(leader, &message, wait()),
            (None, Message::Sync(code, sync)) => node.on_own_sync_message(*code, sync),
            (None, _) => Err(Error::Invalid(Invalid::CArgument)),
        }
    };
    // SAFETY: the header requires NULL or `data_size` bytes.
    let encode =
        |payload: &mut VecView<u8>| unsafe { encode_sync(payload, id, state, data_size, data) };
    status(node().and_then(|_| with_copy(&encode, &mut call)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_sync_server_send(
    dest: u32,
    code: c_int,
    id: u64,
    state: c_int,
    data_size: usize,
    data: *mut c_void,
) -> c_int {
    let mut call = |payload: &[u8]| {
        let message = message_of(sync_code(code)?, payload)?;
        node()?.send_message(vmid(dest)?, &message, wait())
    };
    // SAFETY: the header requires NULL or `data_size` bytes.
    let encode =
        |payload: &mut VecView<u8>| unsafe { encode_sync(payload, id, state, data_size, data) };
    status(node().and_then(|_| with_copy(&encode, &mut call)))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_file_lock_set_send_response(
    dest: u32,
    seq: u64,
    result: c_int,
) -> c_int {
    status(node().and_then(|node| {
        let peer = node.peers.find(vmid(dest)?).ok_or(Error::NoSuchProcess)?;
        let answer = result.to_le_bytes();
        let message = Message::Response(&answer);
        node.put_answer(&peer, seq, &message, Wait::at_most(Duration::ZERO))
    }))
}
