//! The embedder of a C process: it calls the functions of `struct libos_ipc_callbacks`.

use core::ffi::CStr;

use super::CPal;
use super::callback_result;
use heapless::VecView;

use super::ffi_copy::TOO_LONG;
use super::state::SETUP;
use super::tables::{libos_ipc_callbacks, libos_ipc_pid_kill, libos_ipc_self};
use crate::error::{Errno, Error};
use crate::wire::{KillTarget, MetaCode};
use crate::{
    ChildExit, Embedder, Id, Metadata, MetadataReply, Node, PATH_MAX, Pid, Signal, SignalReply,
    Target, Vmid,
};

/// The callbacks that `libos_ipc_setup` stored.
pub(super) struct LibraryOs;

fn callbacks() -> Option<(&'static libos_ipc_callbacks, *mut core::ffi::c_void)> {
    let setup = SETUP.get()?;
    Some((&setup.callbacks, setup.platform.context))
}

/// Calls a callback, or returns the default if the library OS provides none.
macro_rules! callback {
    ($name:ident ($($argument:expr),*), $missing:expr) => {
        match callbacks().and_then(|(callbacks, context)| Some((callbacks.$name?, context))) {
            // SAFETY: `libos_ipc_setup` requires a function that does what the header states. The pointers are to
            // memory of this library that lives until the call returns.
            Some((function, context)) => unsafe { function(context, $($argument),*) },
            None => $missing,
        }
    };
}

/// Returns the pid, parent and user of this process, as the library OS states them.
pub(super) fn this_process() -> libos_ipc_self {
    let mut this = libos_ipc_self::default();
    callback!(this_process(&raw mut this), ());
    this
}

/// Returns true if the library OS keeps a zombie with that pid.
pub(super) fn is_zombie(pid: Id) -> bool {
    callback!(is_zombie(pid), false)
}

/// Writes the key that identifies a file for its locks to `key`, which is empty. `None` if the library OS has no such
/// callback: then the path is the key.
///
/// # Safety
/// `path` points to a string.
pub(super) unsafe fn file_key(
    path: *const core::ffi::c_char,
    key: &mut VecView<u8>,
) -> Option<Result<(), Error>> {
    callbacks()?.0.file_key?;
    if key.resize_default(PATH_MAX - 1).is_err() {
        return Some(Err(TOO_LONG));
    }
    let (to, room) = (key.as_mut_ptr().cast(), key.len());
    let length = callback!(file_key(path, to, room), 0);
    Some(match usize::try_from(length) {
        Ok(length) if length <= room => {
            key.truncate(length);
            Ok(())
        }
        Ok(_) => Err(TOO_LONG),
        Err(_) => Err(Error::Refused {
            errno: errno_of(length),
            by: None,
        }),
    })
}

/// Returns the error number for a negative length that a callback has returned.
fn errno_of(length: i64) -> Errno {
    let status = i32::try_from(length).ok();
    let errno = status.and_then(|status| Errno::check(status).err());
    errno.unwrap_or(Errno::EIO)
}

impl Embedder<CPal> for LibraryOs {
    fn signal(&self, node: &Node<'_, CPal>, signal: &Signal, reply: SignalReply) {
        let (pid, id, target) = match signal.target {
            Target::Thread { pid, tid } => (pid.get(), tid, KillTarget::Thread),
            Target::Process(pid) => (pid.get(), pid.get(), KillTarget::Process),
            Target::Group(group) => {
                let group = Pid::number(group);
                (group, group, KillTarget::Group)
            }
            Target::All => (0, 0, KillTarget::All),
        };
        let kill = libos_ipc_pid_kill {
            sender: Pid::number(signal.sender),
            pid,
            id,
            signum: signal.signal,
            target: target.number(),
        };
        let result = callback!(signal(&raw const kill), Errno::ENOSYS.negated());
        // A peer that is gone needs no answer.
        let _ = reply.send(node, callback_result(result));
    }

    fn metadata(&self, node: &Node<'_, CPal>, pid: Pid, what: MetaCode, reply: MetadataReply) {
        let mut short = [0; SHORT_METADATA];
        match ask_metadata(pid, what, &mut short) {
            Ok(length) if length > short.len() => reply_long(node, pid, what, reply),
            length => reply_with(node, what, reply, length, &short),
        }
    }

    fn child_ended(&self, node: &Node<'_, CPal>, exit: &ChildExit) {
        // A process that joined reaps its zombies with `libos_ipc_wait`. Any other keeps its zombies itself.
        if node.pid().is_none() && !node.children.lock().remove(exit.pid.get()) {
            // The table of children had no room for it, so no call will ask the leader for its exit status.
            node.counters.dropped_orphan_exits.add(1);
            node.forget_child(exit.pid.get());
        }
        let exit = super::children::exit_of(exit);
        callback!(child_died(&raw const exit), ());
    }

    fn parent_ended(&self, _: &Node<'_, CPal>, parent: Option<Pid>) {
        callback!(parent_ended(Pid::number(parent)), ());
    }

    fn cut_off(&self, _: &Node<'_, CPal>) {
        callback!(cut_off(), ());
    }

    fn leader_changed(&self, _: &Node<'_, CPal>, leader: Vmid, epoch: u32) {
        callback!(leader_changed(leader.get(), epoch), ());
    }

    fn member_left(&self, _: &Node<'_, CPal>, vmid: Vmid) {
        callback!(disconnected(vmid.get()), ());
    }
}

/// The longest metadata whose answer takes little stack. Few paths are longer.
const SHORT_METADATA: usize = 256;

/// Asks the library OS for metadata, and copies its beginning to `short`. Returns the whole length.
// Not inlined: the buffer is not part of the stack of the answer.
#[inline(never)]
fn ask_metadata(pid: Pid, what: MetaCode, short: &mut [u8]) -> Result<usize, Errno> {
    let mut data = [0; PATH_MAX];
    let length = call_metadata(pid, what, &mut data)?;
    for (to, from) in short.iter_mut().zip(&data) {
        *to = *from;
    }
    Ok(length)
}

#[inline(never)]
fn reply_long(node: &Node<'_, CPal>, pid: Pid, what: MetaCode, reply: MetadataReply) {
    let mut data = [0; PATH_MAX];
    let length = call_metadata(pid, what, &mut data);
    reply_with(node, what, reply, length, &data);
}

fn call_metadata(pid: Pid, what: MetaCode, data: &mut [u8]) -> Result<usize, Errno> {
    let (to, room) = (data.as_mut_ptr().cast(), data.len());
    let length = callback!(
        metadata(pid.get(), what.number(), to, room),
        i64::from(Errno::ENOSYS.negated())
    );
    usize::try_from(length).map_err(|_| errno_of(length))
}

fn reply_with(
    node: &Node<'_, CPal>,
    what: MetaCode,
    reply: MetadataReply,
    length: Result<usize, Errno>,
    data: &[u8],
) {
    let metadata =
        length.and_then(|length| read_metadata(what, data.get(..length)).ok_or(Errno::EIO));
    let _ = reply.send(node, metadata);
}

fn read_metadata(what: MetaCode, data: Option<&[u8]>) -> Option<Metadata<'_>> {
    let data = data?;
    if what == MetaCode::Credentials {
        let (uid, gid) = data.split_first_chunk()?;
        return Some(Metadata::Credentials {
            uid: u32::from_ne_bytes(*uid),
            gid: u32::from_ne_bytes(gid.try_into().ok()?),
        });
    }
    CStr::from_bytes_with_nul(data).ok().map(Metadata::Path)
}
