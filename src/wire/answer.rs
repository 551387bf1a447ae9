//! The answers to requests. The bytes of an answer do not contain its kind: the requester knows it
//! from the request.

use super::codes;
use super::error::{Malformed, TooSmall};
use super::frame::{HEADER_LENGTH, begin, fill, read_number, read_struct};
use super::kinds::{LockFamily, LockKind, ProcessState};
use super::layout;
use super::payload::{ChildExit, IdRange};
use crate::Id;
use crate::store::total;
use core::mem::size_of;
use core::num::NonZeroI32;
use zerocopy::{FromBytes, FromZeros};

/// The longest path of an answer, with its NUL, in bytes (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;

/// An answer. A status is 0 or a negative error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer<'a> {
    /// The request is done; the payload is empty.
    Empty,
    /// A new VMID.
    Vmid(u32),
    /// A new range of IDs, or [`IdRange::NONE`].
    IdRange(IdRange),
    /// The VMID of the owner of an ID; 0 if the ID has no owner.
    Owner(u32),
    /// The result of the request.
    Status(i32),
    /// The metadata of a pid.
    Meta {
        /// 0, or the error number if there are none.
        status: i32,
        /// User and group, or a path with its terminating NUL.
        data: &'a [u8],
    },
    /// The conflicting file lock, if there is one.
    Lock(LockAnswer),
    /// A process, or a negative error number.
    Process(Result<Process, NonZeroI32>),
    /// The exit report of a child, or a negative error number.
    End(Result<ChildExit, NonZeroI32>),
}

bitflags::bitflags! {
    /// The flags of a process.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct ProcessFlags: u32 {
        /// Orphans among its descendants become its children.
        const SUBREAPER = 1;
        /// It has executed another program than its parent was running at its start.
        const EXECUTED = 2;
        /// A signal has stopped it.
        const STOPPED = 4;
        /// Its group is orphaned: no member has a parent in the same session and in another group.
        const IN_ORPHANED_GROUP = 8;
    }
}

/// A process, as the leader's table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(not(feature = "testing"), non_exhaustive)]
pub struct Process {
    /// Its pid.
    pub pid: Id,
    /// The VMID of the member; 0 after its death.
    pub vmid: u32,
    /// Its parent's pid; 0 for none.
    pub parent: Id,
    /// Its process group.
    pub group: Id,
    /// Its session.
    pub session: Id,
    /// Its state.
    pub state: ProcessState,
    /// Its flags.
    pub flags: ProcessFlags,
    /// The sequence number of its start: later processes have higher numbers.
    pub start_seq: u64,
}

/// The answer to a test of a file lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockAnswer {
    /// The test failed, with a negative error number.
    Failed(NonZeroI32),
    /// There is no conflicting lock.
    Free,
    /// This lock conflicts.
    Held(HeldLock),
}

/// A file lock that a process or an open file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(not(feature = "testing"), non_exhaustive)]
pub struct HeldLock {
    /// The kind of the lock.
    pub family: LockFamily,
    /// Whether it excludes readers, too.
    pub write: bool,
    /// The first byte.
    pub start: u64,
    /// The last byte; all ones for the end of the file.
    pub end: u64,
    /// The pid of its holder.
    pub pid: Id,
    /// The open file that holds it, for [`LockFamily::Flock`].
    pub handle: u64,
}

/// The form that the answer to a request must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expected {
    /// [`Answer::Vmid`]
    Vmid,
    /// [`Answer::IdRange`]
    IdRange,
    /// [`Answer::Owner`]
    Owner,
    /// [`Answer::Status`]
    Status,
    /// [`Answer::Status`], or [`Answer::Empty`] for status 0.
    StatusOrEmpty,
    /// [`Answer::Meta`]
    Meta,
    /// [`Answer::Lock`]
    Lock,
    /// [`Answer::Process`]
    Process,
    /// [`Answer::End`]
    End,
}

impl Expected {
    /// Returns the form of the answer to a request with this code; `None` if the message has no
    /// answer.
    #[inline]
    pub const fn of(code: u8) -> Option<Expected> {
        Some(match code {
            codes::GET_NEW_VMID => Expected::Vmid,
            codes::ALLOC_ID_RANGE => Expected::IdRange,
            codes::CHANGE_ID_OWNER => Expected::StatusOrEmpty,
            codes::GET_ID_OWNER => Expected::Owner,
            codes::PID_KILL
            | codes::PID_KILL_ORDERED
            | codes::PID_KILL_PASSED
            | codes::FILE_LOCK_SET
            | codes::FILE_LOCK_OFD_SET
            | codes::FILE_LOCK_BORROW
            | codes::FILE_LOCK_CLEAR_PID
            | codes::FILE_HANDLE
            | codes::FILE_GIVEN
            | codes::PROCESS_START
            | codes::PROCESS_CHANGE => Expected::Status,
            codes::PROCESS_QUERY => Expected::Process,
            codes::PROCESS_END => Expected::End,
            codes::PID_GETMETA => Expected::Meta,
            codes::FILE_LOCK_GET | codes::FILE_LOCK_OFD_GET => Expected::Lock,
            _ => return None,
        })
    }
}

impl<'a> Answer<'a> {
    /// The length of the longest frame with metadata: the answer with the longest path.
    pub(crate) const LONGEST_META: usize = {
        let without_path = Answer::Meta {
            status: 0,
            data: &[],
        };
        without_path.length() + PATH_MAX
    };

    /// Returns the length of the whole frame in bytes. The sum saturates.
    #[inline]
    pub const fn length(&self) -> usize {
        let payload = match self {
            Answer::Empty => 0,
            Answer::Vmid(_) | Answer::Owner(_) => size_of::<layout::Number>(),
            Answer::IdRange(_) => size_of::<layout::IdRange>(),
            Answer::Status(_) => size_of::<layout::Status>(),
            Answer::Meta { data, .. } => total!(size_of::<layout::PidRetMeta>(), data.len()),
            Answer::Lock(_) => size_of::<layout::FileLockAnswer>(),
            Answer::Process(_) => size_of::<layout::ProcessAnswer>(),
            Answer::End(_) => size_of::<layout::EndAnswer>(),
        };
        total!(HEADER_LENGTH, payload)
    }

    /// Writes the answer as one frame to the start of the buffer and returns the frame's length.
    /// Padding is zero.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if the frame does not fit. Then the buffer is unchanged.
    #[inline]
    pub fn encode(&self, seq: u64, buffer: &mut [u8]) -> Result<usize, TooSmall> {
        let length = self.length();
        let to = begin(buffer, seq, codes::RESP, length)?;
        match *self {
            Answer::Empty => {}
            Answer::Vmid(number) | Answer::Owner(number) => {
                fill(
                    to,
                    &layout::Number {
                        number: number.into(),
                    },
                    &[],
                )?;
            }
            Answer::IdRange(range) => fill(to, &range.layout(), &[])?,
            Answer::Status(status) => {
                fill(
                    to,
                    &layout::Status {
                        status: status.into(),
                    },
                    &[],
                )?;
            }
            Answer::Meta { status, data } => {
                let data_size = (data.len() as u64).into();
                fill(
                    to,
                    &layout::PidRetMeta {
                        data_size,
                        status: status.into(),
                    },
                    data,
                )?;
            }
            Answer::Lock(lock) => fill(to, &lock.layout(), &[])?,
            Answer::Process(process) => fill(to, &process_layout(process), &[])?,
            Answer::End(end) => {
                let mut body = layout::EndAnswer::new_zeroed();
                match end {
                    Err(status) => body.status = status.get().into(),
                    Ok(exit) => body.exit = exit.layout(),
                }
                fill(to, &body, &[])?;
            }
        }
        Ok(length)
    }

    /// Reads the payload of an answer to a request that expects this form.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the payload has another form.
    #[inline]
    pub fn decode(expected: Expected, payload: &'a [u8]) -> Result<Answer<'a>, Malformed> {
        Ok(match expected {
            Expected::Vmid => Answer::Vmid(read_number(payload)?),
            Expected::IdRange => Answer::IdRange(IdRange::read(payload)?),
            Expected::Owner => Answer::Owner(read_number(payload)?),
            Expected::StatusOrEmpty if payload.is_empty() => Answer::Empty,
            Expected::Status | Expected::StatusOrEmpty => {
                Answer::Status(read_struct::<layout::Status>(payload)?.status.get())
            }
            Expected::Meta => {
                let (body, data) = layout::PidRetMeta::ref_from_prefix(payload)
                    .map_err(|_| Malformed::PayloadLength)?;
                if body.data_size.get() != data.len() as u64 {
                    return Err(Malformed::LengthsDisagree);
                }
                Answer::Meta {
                    status: body.status.get(),
                    data,
                }
            }
            Expected::Lock => Answer::Lock(LockAnswer::read(payload)?),
            Expected::Process => Answer::Process(read_process(payload)?),
            Expected::End => {
                let body: &layout::EndAnswer = read_struct(payload)?;
                Answer::End(match NonZeroI32::new(body.status.get()) {
                    Some(status) => Err(status),
                    None => Ok(ChildExit::of(&body.exit)),
                })
            }
        })
    }
}

fn process_layout(process: Result<Process, NonZeroI32>) -> layout::ProcessAnswer {
    let mut body = layout::ProcessAnswer::new_zeroed();
    match process {
        Err(status) => body.status = status.get().into(),
        Ok(process) => {
            body.pid = process.pid.into();
            body.vmid = process.vmid.into();
            body.parent = process.parent.into();
            body.group = process.group.into();
            body.session = process.session.into();
            body.state = process.state.number().into();
            body.flags = process.flags.bits().into();
            body.start_seq = process.start_seq.into();
        }
    }
    body
}

fn read_process(payload: &[u8]) -> Result<Result<Process, NonZeroI32>, Malformed> {
    let body: &layout::ProcessAnswer = read_struct(payload)?;
    if let Some(status) = NonZeroI32::new(body.status.get()) {
        return Ok(Err(status));
    }
    Ok(Ok(Process {
        pid: body.pid.get(),
        vmid: body.vmid.get(),
        parent: body.parent.get(),
        group: body.group.get(),
        session: body.session.get(),
        state: ProcessState::read(body.state.get())?,
        flags: ProcessFlags::from_bits_truncate(body.flags.get()),
        start_seq: body.start_seq.get(),
    }))
}

impl LockAnswer {
    /// Returns the answer that holds only a status: [`Failed`](LockAnswer::Failed), or
    /// [`Free`](LockAnswer::Free) for 0.
    pub const fn from_status(status: i32) -> LockAnswer {
        match NonZeroI32::new(status) {
            Some(status) => LockAnswer::Failed(status),
            None => LockAnswer::Free,
        }
    }

    /// Returns 0 or a negative error number.
    pub const fn status(&self) -> i32 {
        match self {
            LockAnswer::Failed(status) => status.get(),
            LockAnswer::Free | LockAnswer::Held(_) => 0,
        }
    }

    fn layout(self) -> layout::FileLockAnswer {
        let mut body = layout::FileLockAnswer::new_zeroed();
        match self {
            LockAnswer::Failed(status) => body.status = status.get().into(),
            LockAnswer::Free => body.kind = LockKind::Unlock.number().into(),
            LockAnswer::Held(lock) => {
                body.family = lock.family.number().into();
                body.kind = lock.kind().number().into();
                body.start = lock.start.into();
                body.end = lock.end.into();
                body.pid = lock.pid.into();
                body.handle = lock.handle.into();
            }
        }
        body
    }

    fn read(payload: &[u8]) -> Result<LockAnswer, Malformed> {
        let body: &layout::FileLockAnswer = read_struct(payload)?;
        // A peer fills in the other fields only if there is a lock.
        if let Some(status) = NonZeroI32::new(body.status.get()) {
            return Ok(LockAnswer::Failed(status));
        }
        let write = match LockKind::read(body.kind.get())? {
            LockKind::Unlock => return Ok(LockAnswer::Free),
            LockKind::Write => true,
            LockKind::Read => false,
        };
        let family = LockFamily::read(body.family.get())?;
        // A lock of an open file is reported as a record lock without a process, as the kernel
        // does.
        if matches!(family, LockFamily::Ofd) {
            return Err(Malformed::BadValue);
        }
        Ok(LockAnswer::Held(HeldLock {
            family,
            write,
            start: body.start.get(),
            end: body.end.get(),
            pid: body.pid.get(),
            handle: body.handle.get(),
        }))
    }
}

impl From<Option<HeldLock>> for LockAnswer {
    /// Makes the answer that names the conflicting lock, if there is one.
    fn from(held: Option<HeldLock>) -> LockAnswer {
        held.map_or(LockAnswer::Free, LockAnswer::Held)
    }
}

impl HeldLock {
    /// Returns the lock's kind, [`LockKind::Read`] or [`LockKind::Write`].
    pub const fn kind(&self) -> LockKind {
        if self.write {
            LockKind::Write
        } else {
            LockKind::Read
        }
    }
}
