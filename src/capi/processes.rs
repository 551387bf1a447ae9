//! Exit notices, signals and process metadata.

use core::ffi::{c_int, c_void};

use zerocopy::IntoBytes;

use super::call_limits::wait_within;
use super::ffi_copy::{allocate, read, write};
use super::library_os::{is_zombie, this_process};
use super::tables::{libos_ipc_call_limit, libos_ipc_pid_kill, libos_ipc_pid_retmeta};
use super::{node, status, wait};
use crate::error::{Error, Invalid};
use crate::wire::{ExitReport, KillTarget, Message, MetaCode};
use crate::{PATH_MAX, Pid, Target, Wait};

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_cld_exit_send(exitcode: u32, term_signal: u32) -> c_int {
    let node = match node() {
        Ok(node) => node,
        Err(error) => return status(Err(error)),
    };
    let this = this_process();
    if node.pid().is_some() {
        return super::process_life::libos_ipc_exit(this.uid, exitcode, term_signal);
    }
    let Some(parent) = node.identity().parent else {
        return 0;
    };
    let notice = Message::ChildExit(ExitReport {
        parent_pid: this.ppid,
        pid: this.pid,
        uid: this.uid,
        code: exitcode,
        signal: term_signal,
    });
    status(node.send_message(parent, &notice, wait()))
}

/// Sends a signal. A target of `None` is process 0, which does not exist.
fn kill(sender: u32, target: Option<Target>, signal: c_int, wait: Wait<'_>) -> c_int {
    let killed = node().and_then(|node| {
        let target = target.ok_or(Error::NoSuchProcess)?;
        node.kill_as(sender, target, signal, wait)
    });
    // A signal to a zombie or its main thread succeeds, as in kill(2).
    let zombie = match target {
        Some(Target::Process(pid)) => Some(pid.get()),
        Some(Target::Thread { pid, tid }) => (pid.get() == tid).then_some(tid),
        Some(Target::Group(_) | Target::All) | None => None,
    };
    match killed {
        Err(Error::NoSuchProcess) if zombie.is_some_and(is_zombie) => {
            let is_signal = crate::leader::is_signal(signal);
            status(
                is_signal
                    .then_some(())
                    .ok_or(Error::Invalid(Invalid::CArgument)),
            )
        }
        killed => status(killed),
    }
}

/// Returns the process as a target; `None` for pid 0.
fn process(pid: u32) -> Option<Target> {
    Pid::new(pid).map(Target::Process)
}

fn thread(pid: u32, tid: u32) -> Option<Target> {
    Pid::new(pid).map(|pid| Target::Thread { pid, tid })
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_kill_process(sender: u32, target: u32, sig: c_int) -> c_int {
    kill(sender, process(target), sig, wait())
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_kill_thread(
    sender: u32,
    dest_pid: u32,
    target: u32,
    sig: c_int,
) -> c_int {
    kill(sender, thread(dest_pid, target), sig, wait())
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_kill_pgroup(sender: u32, pgid: u32, sig: c_int) -> c_int {
    kill(sender, Some(Target::Group(Pid::new(pgid))), sig, wait())
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_kill_all(sender: u32, sig: c_int) -> c_int {
    kill(sender, Some(Target::All), sig, wait())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_kill(
    signal: *const libos_ipc_pid_kill,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    // SAFETY: the header requires NULL or whole structs, and an interrupt that lives until the call returns.
    let (signal, wait) = unsafe { (read(signal), wait_within(limit, wait())) };
    let signal = match signal {
        Ok(signal) => signal,
        Err(error) => return status(Err(error)),
    };
    let kind = KillTarget::ALL
        .iter()
        .find(|kind| kind.number() == signal.target);
    let target = match kind {
        Some(KillTarget::Thread) => thread(signal.pid, signal.id),
        Some(KillTarget::Process) => process(signal.id),
        Some(KillTarget::Group) => Some(Target::Group(Pid::new(signal.id))),
        Some(KillTarget::All) => Some(Target::All),
        None => return status(Err(Error::Invalid(Invalid::CArgument))),
    };
    kill(signal.sender, target, signal.signum, wait)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_pid_getmeta(
    pid: u32,
    code: u32,
    out: *mut *mut libos_ipc_pid_retmeta,
) -> c_int {
    let answer = request_metadata(pid, code);
    // SAFETY: the header requires NULL or room for a pointer.
    status(answer.map(|answer| unsafe { write_pointer(out, answer) }))
}

fn request_metadata(pid: u32, code: u32) -> Result<*mut c_void, Error> {
    let known = MetaCode::ALL.iter().find(|known| known.number() == code);
    let code = *known.ok_or(Error::Invalid(Invalid::CArgument))?;
    let node = node()?;
    let pid = Pid::new(pid).ok_or(Error::NoSuchProcess)?;
    with_metadata(&mut |data| Ok((node.metadata(pid, code, data, wait())?, 0)))
}

/// The length of metadata, and the status of the answer.
type LengthAndStatus = (usize, c_int);

/// The longest metadata whose request takes little stack. Few paths are longer; they are requested twice.
const SHORT_METADATA: usize = 256;

/// A request that writes the metadata to a buffer, as far as they fit.
type MetadataRequest<'a> = &'a mut dyn FnMut(&mut [u8]) -> Result<LengthAndStatus, Error>;

/// Allocates a result that the caller frees, with the metadata that `request` returns.
pub(super) fn with_metadata(request: MetadataRequest<'_>) -> Result<*mut c_void, Error> {
    let mut data = [0; SHORT_METADATA];
    match request(&mut data)? {
        (length, _) if length > data.len() => with_long_metadata(request),
        found => allocate_metadata(found, &data),
    }
}

#[inline(never)]
fn with_long_metadata(request: MetadataRequest<'_>) -> Result<*mut c_void, Error> {
    let mut data = [0; PATH_MAX];
    allocate_metadata(request(&mut data)?, &data)
}

fn allocate_metadata(
    (length, ret_val): LengthAndStatus,
    data: &[u8],
) -> Result<*mut c_void, Error> {
    let data = data
        .get(..length)
        .ok_or(Error::Invalid(Invalid::CArgument))?;
    let fields = libos_ipc_pid_retmeta {
        datasize: data.len(),
        ret_val,
    };
    allocate(&[fields.as_bytes(), data])
}

/// Writes the address of a result through a pointer.
///
/// # Safety
/// `out` is NULL or points to room for a pointer.
pub(super) unsafe fn write_pointer<T>(out: *mut *mut T, result: *mut c_void) {
    // SAFETY: the caller keeps what `# Safety` requires.
    unsafe { write(out.cast::<usize>(), result.expose_provenance()) };
}
