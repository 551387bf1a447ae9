//! The platform of a C process: a [`Pal`] that calls the functions of `struct libos_ipc_platform`.

use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr::null_mut;

use super::callback_result;
use super::callbacks::{MISSING, call};
use super::event::CEvent;
use super::state::platform;
use super::tables::{libos_ipc_platform, libos_ipc_ready};
use crate::Vmid;
use crate::error::Errno;
use crate::invariant::{Count, OrBroken};
use crate::pal::fault::{PlatformFault, checked_read, checked_write, report_fault};
use crate::pal::{
    AcceptError, ConnectError, Deadline, Interest, OutOfResources, Pal, READY_AT_ONCE, ReadyList,
    Stream, StreamError, Time, Token,
};
use crate::store::copy;

impl libos_ipc_platform {
    /// Returns the first required member that the table does not have.
    pub(super) fn first_missing(&self) -> Option<&'static str> {
        // One text takes less memory than an array of texts. The members that may be NULL have no name.
        const WIDTH: usize = 14;
        const NAMES: &str = concat!(
            "              ", // context
            "memory        ",
            "              ", // memory_size
            "              ", // allocate
            "              ", // release
            "now           ",
            "listen        ",
            "connect       ",
            "accept        ",
            "read          ",
            "write         ",
            "close         ",
            "watch         ",
            "rewatch       ",
            "unwatch       ",
            "watch_listener",
            "wait          ",
            "wake          ",
            "event_create  ",
            "event_set     ",
            "event_clear   ",
            "              ", // event_is_set
            "event_wait    ",
        );
        const MEMBERS: usize = NAMES.len() / WIDTH;
        const _: () = assert!(
            offset_of!(libos_ipc_platform, wait_readable)
                == MEMBERS.wrapping_mul(size_of::<usize>())
        );
        // SAFETY: the table begins with that many members, each of them a number or a pointer that may be NULL.
        let members = unsafe { &*(&raw const *self).cast::<[*const c_void; MEMBERS]>() };
        let names = NAMES.as_bytes().chunks_exact(WIDTH);
        let missing = members
            .iter()
            .zip(names)
            .position(|(member, name)| member.is_null() && !name.starts_with(b" "))?;
        let at = missing.wrapping_mul(WIDTH);
        let name = NAMES.get(at..at.plus(WIDTH))?;
        Some(name.trim_ascii_end())
    }

    pub(super) fn allocate(&self, size: usize) -> Option<*mut c_void> {
        let memory = call!(self, allocate(size), null_mut());
        (!memory.is_null()).then_some(memory)
    }

    /// Frees memory of the library OS.
    ///
    /// # Safety
    /// The library OS allocated `memory` and gave it to the library.
    pub(super) unsafe fn release(&self, memory: *mut c_void) {
        call!(self, release(memory), ());
    }
}

/// The platform of the process's node.
pub(super) struct CPlatform(pub(super) &'static libos_ipc_platform);

// SAFETY: the header states that all functions may be called from any thread.
unsafe impl Send for CPlatform {}
// SAFETY: as above.
unsafe impl Sync for CPlatform {}

/// A stream of the platform.
pub(super) struct CStream {
    stream: *mut c_void,
    table: &'static libos_ipc_platform,
}

// SAFETY: as for the platform; the pointer is only passed back to its functions.
unsafe impl Send for CStream {}
// SAFETY: as above.
unsafe impl Sync for CStream {}

impl CStream {
    /// Converts the return value of `read` or `write`.
    fn moved(count: i64) -> Result<usize, StreamError> {
        const AGAIN: i64 = Errno::EAGAIN.negated() as i64;
        const INTERRUPTED: i64 = Errno::EINTR.negated() as i64;
        match count {
            AGAIN => Err(StreamError::WouldBlock),
            INTERRUPTED => Err(StreamError::Interrupted),
            _ => usize::try_from(count).map_err(|_| StreamError::Closed),
        }
    }
}

impl Drop for CStream {
    #[cfg_attr(static_library, inline(never))]
    fn drop(&mut self) {
        call!(self.table, close(self.stream), ());
    }
}

impl Stream for CStream {
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let room = buffer.len();
        let to = buffer.as_mut_ptr().cast();
        let count = call!(self.table, read(self.stream, to, room), i64::from(MISSING));
        checked_read(Self::moved(count), room)
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        let mut joined = [0; JOINED];
        let mut parts = parts.iter().copied().filter(|part| !part.is_empty());
        let bytes = match (parts.next(), parts.next()) {
            (Some(first), Some(second)) if first.len() < JOINED => {
                // A VMID goes out together with the HELLO behind it: a leader that has no room for this process answers
                // only a HELLO. The next write has the bytes that do not fit.
                if let Some((to_first, to_second)) = joined.split_at_mut_checked(first.len()) {
                    copy(to_first, first);
                    copy(to_second, second);
                }
                let length = first.len().plus(second.len()).min(JOINED);
                joined.get(..length).or_broken(first)
            }
            (Some(first), _) => first,
            (None, _) => return Ok(0),
        };
        let count = call!(
            self.table,
            write(self.stream, bytes.as_ptr().cast(), bytes.len()),
            i64::from(MISSING)
        );
        checked_write(Self::moved(count), bytes.len())
    }
}

/// The greatest number of bytes of two parts that are copied together, so that one call writes them.
const JOINED: usize = 64;

fn deadline(until: Deadline) -> u64 {
    until.time().map_or(u64::MAX, |until| until.0)
}

impl Pal for CPlatform {
    type Stream = CStream;
    type Event = CEvent;

    const SUPPORTS_CALLER_READ: bool = true;
    const CLOCK_IS_CHEAP: bool = false;

    fn supports_caller_read(&self) -> bool {
        self.0.wait_readable.is_some()
    }
    const MAY_BE_SECURE: bool = false;

    fn event(&self) -> Result<CEvent, OutOfResources> {
        Ok(CEvent::new(self.0))
    }

    fn connect(&self, peer: Vmid) -> Result<CStream, ConnectError> {
        let mut stream = null_mut();
        let connected = call!(self.0, connect(peer.get(), &raw mut stream), MISSING);
        match callback_result(connected) {
            Ok(()) => Ok(CStream {
                stream,
                table: self.0,
            }),
            Err(Errno::EAGAIN) => Err(ConnectError::Busy),
            Err(Errno::EACCES) => Err(ConnectError::NotAllowed),
            Err(_) => Err(ConnectError::NotListening),
        }
    }

    fn accept(&self) -> Result<CStream, AcceptError> {
        let mut stream = null_mut();
        let accepted = call!(self.0, accept(&raw mut stream), MISSING);
        match callback_result(accepted) {
            Ok(()) => Ok(CStream {
                stream,
                table: self.0,
            }),
            Err(Errno::EAGAIN) => Err(AcceptError::WouldBlock),
            Err(Errno::EACCES) => Err(AcceptError::NotAllowed),
            Err(_) => Err(AcceptError::Exhausted),
        }
    }

    fn watch_listener(&self, on: bool) {
        call!(self.0, watch_listener(on), ());
    }

    fn watch(
        &self,
        stream: &CStream,
        token: Token,
        interest: Interest,
    ) -> Result<(), OutOfResources> {
        let interest = u32::from(interest.bits());
        let watched = call!(self.0, watch(stream.stream, token.0, interest), MISSING);
        callback_result(watched).map_err(|_| OutOfResources)
    }

    fn rewatch(&self, stream: &CStream, token: Token, interest: Interest) {
        let interest = u32::from(interest.bits());
        call!(self.0, rewatch(stream.stream, token.0, interest), ());
    }

    fn unwatch(&self, stream: &CStream) {
        call!(self.0, unwatch(stream.stream), ());
    }

    fn wait(&self, ready: &mut ReadyList, until: Deadline) {
        let nothing = libos_ipc_ready {
            token: 0,
            readiness: 0,
            reserved: 0,
        };
        let mut found = [nothing; READY_AT_ONCE];
        let to = found.as_mut_ptr();
        let count = call!(self.0, wait(to, READY_AT_ONCE, deadline(until)), 0);
        if count > READY_AT_ONCE {
            report_fault(PlatformFault::ReadyCount);
        }
        for found in found.iter().take(count) {
            // A bit that no interest has goes to the node, which reports the fault.
            let bits = u8::try_from(found.readiness).map_or(u8::MAX, |bits| bits);
            let readiness = Interest::from_bits_retain(bits);
            let _ = ready.push((Token(found.token), readiness));
        }
    }

    fn wake(&self) {
        call!(self.0, wake(), ());
    }

    fn wait_event(&self, event: &CEvent, until: Deadline) {
        event.wait(|inner| {
            call!(self.0, event_wait(inner, deadline(until)), ());
            false
        });
    }

    fn wait_readable(&self, stream: &CStream, event: &CEvent, until: Deadline) -> bool {
        event.wait_or_readable(stream.stream, deadline(until))
    }

    #[cfg_attr(static_library, inline(never))]
    fn now(&self) -> Time {
        Time(call!(self.0, now(), 0))
    }

    /// A process has one table, so the hook finds it without a platform.
    fn contended(_: u32) {
        if let Some(table) = platform() {
            call!(table, r#yield(), core::hint::spin_loop());
        }
    }
}
