//! The answers to requests. The bytes of an answer do not contain its kind: the requester knows it
//! from the request.

use super::codes;
use super::error::{Malformed, TooSmall};
use super::frame::{HEADER_LENGTH, begin, fill, read_number, read_struct};
use super::kinds::{LockFamily, LockKind, ProcessState};
use super::layout;
use super::payload::{ExitReport, IdRange};
use super::succession::{NewLeader, Rejoined};
use crate::error::Errno;
use crate::parts;
use crate::store::total;
use crate::{Id, Pid, Vmid};
use core::mem::size_of;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros};

/// The longest path of an answer, with its NUL, in bytes (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;

/// An answer. On the wire an error is a negative status.
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
    /// The result of the request. A success has a number, which is 0 for most requests and at most [`i32::MAX`].
    Status(Result<u32, Errno>),
    /// The metadata of a pid: user and group, or a path with its terminating NUL.
    Meta(Result<&'a [u8], Errno>),
    /// The conflicting file lock, if there is one.
    Lock(Result<Option<HeldLock>, Errno>),
    /// A process.
    Process(Result<Process, Errno>),
    /// The exit report of a child.
    End(Result<ExitReport, Errno>),
    /// A fencing number, or the first one of a block.
    Fencing(Result<u64, Errno>),
    /// How far the old leader had come with the frames of the member.
    Rejoin(Rejoined),
    /// The process that leads the family.
    Leader(NewLeader),
}

bitflags::bitflags! {
    /// The flags of a process.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct ProcessFlags: u32 {
        /// Orphans among its descendants become its children.
        const SUBREAPER = 1;
        /// The process has executed another program than its parent was running at its start.
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
    pub pid: Pid,
    /// The VMID of the member; `None` after its death.
    pub vmid: Option<Vmid>,
    /// Its parent's pid, if it has a parent.
    pub parent: Option<Pid>,
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
    /// Its state.
    pub state: ProcessState,
    /// Its flags.
    pub flags: ProcessFlags,
    /// The sequence number of its start: later processes have higher numbers.
    pub start_seq: u64,
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
    /// [`Answer::Fencing`]
    Fencing,
    /// [`Answer::Rejoin`]
    Rejoin,
    /// [`Answer::Leader`]
    Leader,
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
            | codes::FILE_LOCK_DELEGATE
            | codes::FILE_LOCK_CLEAR_PID
            | codes::FILE_HANDLE
            | codes::FILE_GIVEN
            | codes::PROCESS_START
            | codes::PROCESS_CHANGE => Expected::Status,
            codes::PROCESS_QUERY => Expected::Process,
            codes::PROCESS_END => Expected::End,
            codes::FENCING_NUMBER | codes::FENCING_BLOCK => Expected::Fencing,
            codes::REJOIN => Expected::Rejoin,
            codes::WHO_LEADS => Expected::Leader,
            codes::PID_GETMETA => Expected::Meta,
            codes::FILE_LOCK_GET | codes::FILE_LOCK_OFD_GET => Expected::Lock,
            _ => return None,
        })
    }
}

impl<'a> Answer<'a> {
    /// The length of the longest frame with metadata: the answer with the longest path.
    pub(crate) const LONGEST_META: usize = Answer::Meta(Ok(&[])).length() + PATH_MAX;

    /// The answer for a request that is done.
    pub const DONE: Answer<'static> = Answer::Status(Ok(0));

    /// Returns the length of the whole frame in bytes. The sum saturates.
    #[inline]
    pub const fn length(&self) -> usize {
        let payload = match self {
            Answer::Empty => 0,
            Answer::Vmid(_) | Answer::Owner(_) => size_of::<layout::Number>(),
            Answer::IdRange(_) => size_of::<layout::IdRange>(),
            Answer::Status(_) => size_of::<layout::Status>(),
            Answer::Meta(Ok(data)) => total!(size_of::<layout::PidRetMeta>(), data.len()),
            Answer::Meta(Err(_)) => size_of::<layout::PidRetMeta>(),
            Answer::Lock(_) => size_of::<layout::FileLockAnswer>(),
            Answer::Process(_) => size_of::<layout::ProcessAnswer>(),
            Answer::End(_) => size_of::<layout::EndAnswer>(),
            Answer::Fencing(_) => size_of::<layout::FencingAnswer>(),
            Answer::Rejoin(_) => size_of::<layout::RejoinAnswer>(),
            Answer::Leader(_) => size_of::<layout::Leader>(),
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
                let status = match status {
                    Ok(number) => number.min(i32::MAX.cast_unsigned()).cast_signed(),
                    Err(errno) => errno.negated(),
                };
                fill(
                    to,
                    &layout::Status {
                        status: status.into(),
                    },
                    &[],
                )?;
            }
            Answer::Meta(meta) => {
                let data = meta.unwrap_or_default();
                fill(
                    to,
                    &layout::PidRetMeta {
                        data_size: (data.len() as u64).into(),
                        status: Errno::status(&meta).into(),
                    },
                    data,
                )?;
            }
            Answer::Lock(lock) => fill(to, &lock_layout(lock), &[])?,
            Answer::Process(process) => fill(to, &process_layout(process), &[])?,
            Answer::End(end) => {
                let mut body = layout::EndAnswer::new_zeroed();
                body.status = Errno::status(&end).into();
                if let Ok(exit) = end {
                    body.exit = exit.layout();
                }
                fill(to, &body, &[])?;
            }
            Answer::Fencing(number) => {
                let body = layout::FencingAnswer {
                    status: Errno::status(&number).into(),
                    pad: [0; 4],
                    number: number.unwrap_or_default().into(),
                };
                fill(to, &body, &[])?;
            }
            Answer::Rejoin(rejoined) => fill(to, &rejoined.layout(), &[])?,
            Answer::Leader(leader) => fill(to, &leader.layout(), &[])?,
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
                let status = read_struct::<layout::Status>(payload)?.status.get();
                Answer::Status(Errno::check(status))
            }
            Expected::Meta => {
                let (body, data) = layout::PidRetMeta::ref_from_prefix(payload)
                    .map_err(|_| Malformed::PayloadLength)?;
                if body.data_size.get() != data.len() as u64 {
                    return Err(Malformed::LengthsDisagree);
                }
                Answer::Meta(Errno::check_status(body.status.get()).map(|()| data))
            }
            Expected::Lock => Answer::Lock(read_lock(payload)?),
            Expected::Process if parts::PROCESSES => Answer::Process(read_process(payload)?),
            Expected::End if parts::PROCESSES => {
                let body: &layout::EndAnswer = read_struct(payload)?;
                Answer::End(
                    Errno::check_status(body.status.get()).map(|()| ExitReport::of(&body.exit)),
                )
            }
            Expected::Fencing if parts::FENCING => {
                let body: &layout::FencingAnswer = read_struct(payload)?;
                Answer::Fencing(Errno::check_status(body.status.get()).map(|()| body.number.get()))
            }
            Expected::Rejoin => Answer::Rejoin(Rejoined::read(payload)?),
            Expected::Leader => Answer::Leader(NewLeader::read(payload)?),
            // No request of this library expects these.
            Expected::Process | Expected::End | Expected::Fencing => {
                return Err(Malformed::BadValue);
            }
        })
    }
}

fn process_layout(process: Result<Process, Errno>) -> layout::ProcessAnswer {
    let mut body = layout::ProcessAnswer::new_zeroed();
    body.status = Errno::status(&process).into();
    if let Ok(process) = process {
        body.pid = process.pid.get().into();
        body.vmid = Vmid::number(process.vmid).into();
        body.parent = Pid::number(process.parent).into();
        body.group = process.group.get().into();
        body.session = process.session.get().into();
        body.state = process.state.number().into();
        body.flags = process.flags.bits().into();
        body.start_seq = process.start_seq.into();
    }
    body
}

fn read_process(payload: &[u8]) -> Result<Result<Process, Errno>, Malformed> {
    let body: &layout::ProcessAnswer = read_struct(payload)?;
    if let Err(errno) = Errno::check_status(body.status.get()) {
        return Ok(Err(errno));
    }
    let pid = |number: U32| Pid::new(number.get()).ok_or(Malformed::BadValue);
    Ok(Ok(Process {
        pid: pid(body.pid)?,
        vmid: Vmid::new(body.vmid.get()),
        parent: Pid::new(body.parent.get()),
        group: pid(body.group)?,
        session: pid(body.session)?,
        state: ProcessState::read(body.state.get())?,
        flags: ProcessFlags::from_bits_truncate(body.flags.get()),
        start_seq: body.start_seq.get(),
    }))
}

fn lock_layout(lock: Result<Option<HeldLock>, Errno>) -> layout::FileLockAnswer {
    let mut body = layout::FileLockAnswer::new_zeroed();
    body.status = Errno::status(&lock).into();
    match lock {
        Err(_) => {}
        Ok(None) => body.kind = LockKind::Unlock.number().into(),
        Ok(Some(lock)) => {
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

fn read_lock(payload: &[u8]) -> Result<Result<Option<HeldLock>, Errno>, Malformed> {
    let body: &layout::FileLockAnswer = read_struct(payload)?;
    // A peer fills in the other fields only if there is a lock.
    if let Err(errno) = Errno::check_status(body.status.get()) {
        return Ok(Err(errno));
    }
    let write = match LockKind::read(body.kind.get())? {
        LockKind::Unlock => return Ok(Ok(None)),
        LockKind::Write => true,
        LockKind::Read => false,
    };
    let family = LockFamily::read(body.family.get())?;
    // A lock of an open file is reported as a record lock without a process, as the kernel
    // does.
    if matches!(family, LockFamily::Ofd) {
        return Err(Malformed::BadValue);
    }
    Ok(Ok(Some(HeldLock {
        family,
        write,
        start: body.start.get(),
        end: body.end.get(),
        pid: body.pid.get(),
        handle: body.handle.get(),
    })))
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
