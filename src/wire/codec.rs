//! Messages as frames: encodes a message to bytes, and decodes a frame to a message with complete
//! checks.

use super::error::{Malformed, TooSmall};
use super::frame::{Frame, begin, fill, read_number, read_struct};
use super::kinds::{Holding, LockFamily, MetaCode, ProcessChange, SyncCode, SyncNote};
use super::message::Message;
use super::payload::{
    EndQuery, ExitReport, FileLock, Heartbeat, Hello, IdRange, PeerLimits, PidKill, ProcessQuery,
    RelativeNote, Sync,
};
use super::succession::{Dismissal, HeirList, HeirReady, NewLeader, Rejoin, Resignation};
use super::{DelegatedLocks, codes, layout};
use crate::store::HAS_REPLICAS;
use crate::{Id, parts};
use zerocopy::FromBytes;

impl<'a> Message<'a> {
    /// Writes the message as one frame to the start of the buffer and returns the frame's length.
    /// Padding and reserved bytes are zero.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if the frame does not fit, and for a message that no frame can hold (see
    /// [`length`](Message::length)). Then the buffer is unchanged.
    #[inline]
    pub fn encode(&self, seq: u64, buffer: &mut [u8]) -> Result<usize, TooSmall> {
        let length = self.length();
        let to = begin(buffer, seq, self.code(), length)?;
        match *self {
            Message::Response(bytes) | Message::Log(bytes) | Message::State(bytes) => {
                fill(to, &(), bytes)?;
            }
            Message::GetNewVmid
            | Message::AllocIdRange
            | Message::WhoLeads
            | Message::Unknown(_) => {}
            Message::ChildExit(exit) => fill(to, &exit.layout(), &[])?,
            Message::ReleaseIdRange(range) => fill(to, &range.layout(), &[])?,
            Message::ChangeIdOwner { id, owner } => {
                fill(
                    to,
                    &layout::IdOwner {
                        id: id.into(),
                        owner: owner.into(),
                    },
                    &[],
                )?;
            }
            Message::GetIdOwner(id) | Message::FileLockClearPid(id) | Message::ProcessReap(id) => {
                fill(to, &layout::Number { number: id.into() }, &[])?;
            }
            Message::PidKill(kill) | Message::KillPassed(kill) => fill(to, &kill.layout(), &[])?,
            Message::KillOrdered { kill, always } => fill(to, &kill.ordered(always), &[])?,
            Message::PidGetMeta { pid, code } => {
                let body = layout::PidGetMeta {
                    pid: pid.into(),
                    code: code.number().into(),
                };
                fill(to, &body, &[])?;
            }
            Message::Sync(_, sync) => fill(to, &sync.layout(), sync.data)?,
            Message::FileLockSet(lock) | Message::FileLockGet(lock) => {
                fill(to, &lock.layout(), lock.path)?;
            }
            // The rest are extensions.
            _ if !parts::EXTENSIONS => return Err(TooSmall),
            Message::FileLockDelegate(lock) | Message::FencingNumber(lock) => {
                fill(to, &lock.layout(), lock.path)?;
            }
            Message::FileLockCancel(number)
            | Message::FileLockRecall(number)
            | Message::Mark(number) => {
                let number = number.into();
                fill(to, &layout::LongNumber { number }, &[])?;
            }
            Message::FileHandle { handle, held, vmid } => {
                fill(to, &file_handle_layout(handle, held, vmid), &[])?;
            }
            Message::FileGiven { handle, vmid } => {
                let body = layout::FileGiven {
                    handle: handle.into(),
                    vmid: vmid.into(),
                };
                fill(to, &body, &[])?;
            }
            Message::SyncNote { id, note } => {
                let body = layout::SyncNote {
                    id: id.into(),
                    note: note.number().into(),
                };
                fill(to, &body, &[])?;
            }
            Message::Hello(hello) => fill(to, &hello.layout(), &[])?,
            Message::Limits(limits) => fill(to, &limits.layout(), &[])?,
            Message::ProcessStart { vmid, pid } => {
                let body = layout::ProcessStart {
                    vmid: vmid.into(),
                    pid: pid.into(),
                };
                fill(to, &body, &[])?;
            }
            Message::ProcessChange { what, pid, value } => {
                fill(to, &process_change_layout(what, pid, value), &[])?;
            }
            Message::ProcessQuery(query) => fill(to, &query.layout(), &[])?,
            Message::ProcessEnd(query) => fill(to, &query.layout(), &[])?,
            Message::ProcessNote(note) => fill(to, &note.layout(), &[])?,
            Message::Heartbeat(beat) => fill(to, &beat.layout(), &[])?,
            Message::FencingBlock { holding, number } => {
                fill(to, &block_layout(holding, number), &[])?;
            }
            Message::FileLockReturn { delegation, locks } => {
                let body = layout::DelegationReturn {
                    delegation: delegation.into(),
                    count: (locks.len() as u64).into(),
                };
                fill(to, &body, locks.bytes())?;
            }
            // The rest are of the succession.
            _ if !HAS_REPLICAS => return Err(TooSmall),
            Message::Heirs(list) => fill(to, &list.layout(), &[])?,
            Message::HeirReady(ready) => fill(to, &ready.layout(), &[])?,
            Message::Resign(resignation) => fill(to, &resignation.layout(), &[])?,
            Message::Leader(leader) => fill(to, &leader.layout(), &[])?,
            Message::Rejoin(rejoin) => fill(to, &rejoin.layout(), &[])?,
            Message::Dismiss(dismissal) => fill(to, &dismissal.layout(), &[])?,
        }
        Ok(length)
    }

    /// Decodes the payload of a frame with this code.
    #[inline]
    pub(super) fn decode(code: u8, payload: &'a [u8]) -> Result<Message<'a>, Malformed> {
        if !parts::EXTENSIONS && code >= codes::HELLO
            || !HAS_REPLICAS && codes::is_of_succession(code)
        {
            return Ok(Message::Unknown(code));
        }
        // Each arm makes the result itself, so that the message is not put together from parts and then copied.
        match code {
            codes::RESP => Ok(Message::Response(payload)),
            codes::GET_NEW_VMID => expect_empty(payload, Message::GetNewVmid),
            codes::CHILDEXIT => ExitReport::read(payload).map(Message::ChildExit),
            codes::ALLOC_ID_RANGE => expect_empty(payload, Message::AllocIdRange),
            codes::RELEASE_ID_RANGE => IdRange::read(payload).map(Message::ReleaseIdRange),
            codes::CHANGE_ID_OWNER => {
                let body: &layout::IdOwner = read_struct(payload)?;
                Ok(Message::ChangeIdOwner {
                    id: body.id.get(),
                    owner: body.owner.get(),
                })
            }
            codes::GET_ID_OWNER => read_number(payload).map(Message::GetIdOwner),
            codes::PID_KILL => PidKill::read(payload).map(Message::PidKill),
            codes::PID_GETMETA => {
                let body: &layout::PidGetMeta = read_struct(payload)?;
                let code = MetaCode::read(body.code.get())?;
                Ok(Message::PidGetMeta {
                    pid: body.pid.get(),
                    code,
                })
            }
            codes::SYNC_REQUEST_UPGRADE..=codes::SYNC_CONFIRM_CLOSE => {
                Ok(Message::Sync(SyncCode::read(code)?, Sync::read(payload)?))
            }
            codes::FILE_LOCK_SET => FileLock::read(payload, false).map(Message::FileLockSet),
            codes::FILE_LOCK_GET => FileLock::read(payload, false).map(Message::FileLockGet),
            codes::FILE_LOCK_OFD_SET => FileLock::read(payload, true).map(Message::FileLockSet),
            codes::FILE_LOCK_OFD_GET => FileLock::read(payload, true).map(Message::FileLockGet),
            codes::FILE_LOCK_CANCEL => read_long_number(payload).map(Message::FileLockCancel),
            codes::FILE_HANDLE => file_handle(payload),
            codes::FILE_GIVEN => {
                let body: &layout::FileGiven = read_struct(payload)?;
                Ok(Message::FileGiven {
                    handle: body.handle.get(),
                    vmid: body.vmid.get(),
                })
            }
            codes::FILE_LOCK_DELEGATE => {
                let lock = FileLock::read(payload, false)?;
                if lock.family != LockFamily::Posix {
                    return Err(Malformed::BadValue);
                }
                Ok(Message::FileLockDelegate(lock))
            }
            codes::FILE_LOCK_RECALL => read_long_number(payload).map(Message::FileLockRecall),
            codes::FILE_LOCK_RETURN => {
                let (body, rest) = layout::DelegationReturn::ref_from_prefix(payload)
                    .map_err(|_| Malformed::PayloadLength)?;
                Ok(Message::FileLockReturn {
                    delegation: body.delegation.get(),
                    locks: DelegatedLocks::read(rest, body.count.get())?,
                })
            }
            codes::FILE_LOCK_CLEAR_PID => read_number(payload).map(Message::FileLockClearPid),
            codes::SYNC_NOTE => {
                let body: &layout::SyncNote = read_struct(payload)?;
                Ok(Message::SyncNote {
                    id: body.id.get(),
                    note: SyncNote::read(body.note.get())?,
                })
            }
            codes::PID_KILL_ORDERED => PidKill::read_ordered(payload),
            codes::PID_KILL_PASSED => PidKill::read(payload).map(Message::KillPassed),
            codes::HELLO => Hello::read(payload).map(Message::Hello),
            codes::LIMITS => PeerLimits::read(payload).map(Message::Limits),
            codes::PROCESS_START => process_start(payload),
            codes::PROCESS_REAP => read_number(payload).map(Message::ProcessReap),
            codes::PROCESS_CHANGE => process_change(payload),
            codes::PROCESS_QUERY => ProcessQuery::read(payload).map(Message::ProcessQuery),
            codes::PROCESS_END => EndQuery::read(payload).map(Message::ProcessEnd),
            codes::PROCESS_NOTE => RelativeNote::read(payload).map(Message::ProcessNote),
            codes::HEARTBEAT => Heartbeat::read(payload).map(Message::Heartbeat),
            codes::FENCING_NUMBER => FileLock::read_any(payload).map(Message::FencingNumber),
            codes::FENCING_BLOCK => fencing_block(payload),
            codes::HEIRS => HeirList::read(payload).map(Message::Heirs),
            codes::LOG => Ok(Message::Log(payload)),
            codes::STATE => Ok(Message::State(payload)),
            codes::HEIR_READY => HeirReady::read(payload).map(Message::HeirReady),
            codes::RESIGN => Resignation::read(payload).map(Message::Resign),
            codes::LEADER => NewLeader::read(payload).map(Message::Leader),
            codes::REJOIN => Rejoin::read(payload).map(Message::Rejoin),
            codes::MARK => read_long_number(payload).map(Message::Mark),
            codes::WHO_LEADS => expect_empty(payload, Message::WhoLeads),
            codes::DISMISS => Dismissal::read(payload).map(Message::Dismiss),
            codes::FIRST_UNKNOWN.. => Ok(Message::Unknown(code)),
        }
    }
}

fn read_long_number(payload: &[u8]) -> Result<u64, Malformed> {
    Ok(read_struct::<layout::LongNumber>(payload)?.number.get())
}

fn file_handle_layout(handle: u64, held: bool, vmid: u32) -> layout::FileHandle {
    layout::FileHandle {
        handle: handle.into(),
        held: u32::from(held).into(),
        vmid: vmid.into(),
    }
}

fn file_handle(payload: &[u8]) -> Result<Message<'_>, Malformed> {
    let body: &layout::FileHandle = read_struct(payload)?;
    Ok(Message::FileHandle {
        handle: body.handle.get(),
        held: match body.held.get() {
            0 => false,
            1 => true,
            _ => return Err(Malformed::BadValue),
        },
        vmid: body.vmid.get(),
    })
}

fn block_layout(holding: Holding, number: u64) -> layout::FencingBlock {
    layout::FencingBlock {
        holding: holding.number().into(),
        pad: [0; 4],
        number: number.into(),
    }
}

fn fencing_block(payload: &[u8]) -> Result<Message<'_>, Malformed> {
    let body: &layout::FencingBlock = read_struct(payload)?;
    Ok(Message::FencingBlock {
        holding: Holding::read(body.holding.get())?,
        number: body.number.get(),
    })
}

impl<'a> Frame<'a> {
    /// Decodes the frame's message, with complete checks.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the payload does not match the code.
    #[inline]
    pub fn message(&self) -> Result<Message<'a>, Malformed> {
        Message::decode(self.code, self.payload)
    }
}

fn process_start(payload: &[u8]) -> Result<Message<'_>, Malformed> {
    let body: &layout::ProcessStart = read_struct(payload)?;
    Ok(Message::ProcessStart {
        vmid: body.vmid.get(),
        pid: body.pid.get(),
    })
}

fn process_change_layout(what: ProcessChange, pid: Id, value: u32) -> layout::ProcessChange {
    layout::ProcessChange {
        what: what.number().into(),
        pid: pid.into(),
        value: value.into(),
    }
}

fn process_change<'a>(payload: &[u8]) -> Result<Message<'a>, Malformed> {
    let body: &layout::ProcessChange = read_struct(payload)?;
    Ok(Message::ProcessChange {
        what: ProcessChange::read(body.what.get())?,
        pid: body.pid.get(),
        value: body.value.get(),
    })
}

/// Decodes a message without a payload.
fn expect_empty<'a>(payload: &[u8], message: Message<'a>) -> Result<Message<'a>, Malformed> {
    if payload.is_empty() {
        Ok(message)
    } else {
        Err(Malformed::PayloadLength)
    }
}
