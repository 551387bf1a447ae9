//! Connections, and messages that the library OS encodes itself.

use core::ffi::{c_int, c_void};
use core::time::Duration;

use zerocopy::IntoBytes;

use super::ffi_copy::{Bytes, allocate, append, read, write};
use super::processes::write_pointer;
use super::tables::{libos_ipc_msg, libos_ipc_msg_header, libos_ipc_pid_retmeta};
use super::{CNode, node, status, vmid, wait};
use crate::error::{Errno, Error, Invalid, Resource};
use crate::invariant::OrBroken;
use crate::node::ReplyData;
use crate::wire::{Answer, FileLock, Frame, HEADER_LENGTH, Message, SyncCode, codes};
use crate::{PATH_MAX, Vmid, Wait};

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

/// A message of the library OS, copied from its memory: in place, since the copy takes half of the stack that a call may
/// use.
struct CopiedMessage {
    code: u8,
    seq: u64,
    payload: Bytes,
}

impl CopiedMessage {
    const fn new() -> Self {
        CopiedMessage {
            code: 0,
            seq: 0,
            payload: Bytes::new(),
        }
    }

    /// # Safety
    /// `msg` is NULL or points to a message of the length that its header states.
    unsafe fn read(&mut self, msg: *const libos_ipc_msg) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        let header = unsafe { read(msg.cast::<libos_ipc_msg_header>()) }?;
        let length = header.size.checked_sub(HEADER_LENGTH);
        let from = msg.cast::<u8>().wrapping_add(HEADER_LENGTH);
        let length = length.ok_or(Error::Invalid(Invalid::CArgument))?;
        // SAFETY: the caller's promise.
        unsafe { append(&mut self.payload, from.cast(), length) }?;
        (self.code, self.seq) = (header.code, header.seq);
        Ok(())
    }

    /// The decoded message.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the protocol of C processes has no such message.
    fn message(&self) -> Result<Message<'_>, Error> {
        message_of(self.code, &self.payload)
    }
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
    status(node().and_then(|node| {
        let mut copied = CopiedMessage::new();
        // SAFETY: the header requires NULL or a whole message.
        unsafe { copied.read(msg) }?;
        send(node, vmid(dest)?, copied.seq, &copied.message()?)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_send_msg_and_get_response(
    dest: u32,
    msg: *mut libos_ipc_msg,
    resp: *mut *mut c_void,
) -> c_int {
    status(node().and_then(|node| {
        let mut copied = CopiedMessage::new();
        // SAFETY: the header requires NULL or a whole message.
        unsafe { copied.read(msg) }?;
        let dest = vmid(dest)?;
        let mut data = ReplyData::none();
        let answer = match copied.message()? {
            // Only the answer to this request has data. The request is shorter than its answer and has no data, so the
            // copy of the message makes room.
            Message::PidGetMeta { pid, code } => {
                let room = &mut copied.payload;
                room.clear();
                room.resize_default(PATH_MAX)
                    .map_err(|_| Error::Full(Resource::FrameLength))?;
                data.bytes = room;
                node.exchange(dest, &Message::PidGetMeta { pid, code }, &mut data, wait())?
            }
            message @ Message::FileLockSet(FileLock { wait: true, .. }) => {
                node.exchange(dest, &message, &mut data, Wait::FOREVER)?
            }
            message => node.exchange(dest, &message, &mut data, wait())?,
        };
        if resp.is_null() {
            return Ok(());
        }
        let data = data
            .bytes
            .get(..data.length)
            .ok_or(Error::Invalid(Invalid::CArgument))?;
        let answer = allocate_answer(&answer, data)?;
        // SAFETY: the header requires NULL or room for a pointer.
        unsafe { write_pointer(resp, answer) };
        Ok(())
    }))
}

/// Allocates the payload of an answer, which the caller frees.
fn allocate_answer(answer: &Answer<'_>, data: &[u8]) -> Result<*mut c_void, Error> {
    if let Answer::Meta(meta) = answer {
        let head = libos_ipc_pid_retmeta {
            datasize: data.len(),
            ret_val: Errno::status(meta),
        };
        return allocate(&[head.as_bytes(), data]);
    }
    let mut frame = [0; 128];
    let length = answer
        .encode(0, &mut frame)
        .map_err(|_| Error::Invalid(Invalid::CArgument))?;
    allocate(&[frame.get(HEADER_LENGTH..length).or_broken(&[])])
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_broadcast(msg: *mut libos_ipc_msg, exclude_vmid: u32) -> c_int {
    status(node().and_then(|node| {
        let mut copied = CopiedMessage::new();
        // SAFETY: the header requires NULL or a whole message.
        unsafe { copied.read(msg) }?;
        match node.broadcast_message(&copied.message()?, Vmid::new(exclude_vmid)) {
            (_, 0) => Ok(()),
            // EAGAIN
            _ => Err(Error::NoIds),
        }
    }))
}

/// Encodes the payload of a message about a sync handle to `payload`, which is empty.
///
/// # Safety
/// `data` is NULL or points to `size` bytes.
unsafe fn encode_sync(
    payload: &mut Bytes,
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
    // SAFETY: the caller's promise.
    unsafe { append(payload, data, size) }?;
    // The padding at the end of the C struct.
    payload.extend_from_slice(&[0; 4]).map_err(|_| too_long(()))
}

/// The code of a message about sync handles.
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
    status(node().and_then(|node| {
        let mut payload = Bytes::new();
        // SAFETY: the header requires NULL or `data_size` bytes.
        unsafe { encode_sync(&mut payload, id, state, data_size, data) }?;
        let message = message_of(sync_code(code)?, &payload)?;
        match (node.identity().leader, &message) {
            (Some(leader), _) => node.send_message(leader, &message, wait()),
            (None, Message::Sync(code, sync)) => node.on_own_sync_message(*code, sync),
            (None, _) => Err(Error::Invalid(Invalid::CArgument)),
        }
    }))
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
    status(node().and_then(|node| {
        let mut payload = Bytes::new();
        // SAFETY: the header requires NULL or `data_size` bytes.
        unsafe { encode_sync(&mut payload, id, state, data_size, data) }?;
        node.send_message(
            vmid(dest)?,
            &message_of(sync_code(code)?, &payload)?,
            wait(),
        )
    }))
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
