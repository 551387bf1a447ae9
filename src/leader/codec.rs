//! The bytes of an operation, for a log: a header of 24 bytes, and after it one frame of the protocol
//! if the operation has a message.

use core::mem::size_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::op::{Op, Presence};
use super::outbox::OutgoingId;
use crate::Vmid;
use crate::error::Errno;
use crate::invariant::Count;
use crate::path::hash_path;
use crate::wire::{Frame, Message, ProcessNote, SyncCode, TooSmall};

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct OpHeader {
    kind: u8,
    flag: u8,
    spare: U16,
    vmid: U32,
    first: U64,
    second: U64,
}

const HEADER: usize = size_of::<OpHeader>();
const _: () = assert!(HEADER == 24);

/// The fields of an operation but its message: kind, flag, VMID and two numbers.
type Fields = (u8, u8, u32, u64, u64);

const fn notice(note: ProcessNote) -> u64 {
    match note {
        ProcessNote::WatchParent => 0,
        ProcessNote::IgnoreParent => 1,
        ProcessNote::ParentEnded => 2,
        ProcessNote::ChildAbandoned => 3,
    }
}

const fn read_notice(number: u64) -> Option<ProcessNote> {
    Some(match number {
        0 => ProcessNote::WatchParent,
        1 => ProcessNote::IgnoreParent,
        2 => ProcessNote::ParentEnded,
        3 => ProcessNote::ChildAbandoned,
        _ => return None,
    })
}

/// Returns the number of the kind of a message, its receiver, and what else names it.
fn id_fields(id: OutgoingId) -> (u64, u32, u64) {
    match id {
        OutgoingId::LockAnswer => (0, 0, 0),
        OutgoingId::SignalAnswer => (1, 0, 0),
        OutgoingId::FileNotice(to, open_file) => (2, to.get(), open_file),
        OutgoingId::Recall(to, number) => (3, to.get(), number),
        OutgoingId::Exit(pid) => (4, 0, pid.into()),
        OutgoingId::Relative(to, note) => (5, to.get(), notice(note)),
        OutgoingId::Signal(to) => (6, to.get(), 0),
        OutgoingId::Sync => (7, 0, 0),
    }
}

fn read_id(kind: u64, to: Option<Vmid>, number: u64) -> Option<OutgoingId> {
    Some(match kind {
        0 => OutgoingId::LockAnswer,
        1 => OutgoingId::SignalAnswer,
        2 => OutgoingId::FileNotice(to?, number),
        3 => OutgoingId::Recall(to?, number),
        4 => OutgoingId::Exit(u32::try_from(number).ok()?),
        5 => OutgoingId::Relative(to?, read_notice(number)?),
        6 => OutgoingId::Signal(to?),
        7 => OutgoingId::Sync,
        _ => return None,
    })
}

const fn read_flag(flag: u8) -> Option<bool> {
    match flag {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// Returns the number of a message that a client sends to the server of shared values.
const fn sync_code(code: SyncCode) -> u8 {
    match code {
        SyncCode::ConfirmDowngrade => 1,
        SyncCode::RequestClose => 2,
        _ => 0,
    }
}

const fn read_sync_code(number: u8) -> Option<SyncCode> {
    Some(match number {
        0 => SyncCode::RequestUpgrade,
        1 => SyncCode::ConfirmDowngrade,
        2 => SyncCode::RequestClose,
        _ => return None,
    })
}

/// Returns an operation that is about the counted frames of a member.
fn read_counted(header: &OpHeader) -> Option<Op<'static>> {
    let vmid = Vmid::new(header.vmid.get())?;
    Some(match header.kind {
        35 => Op::SignalAllRefused {
            from: vmid,
            seq: header.first.get(),
            errno: read_result(header.second.get())?.err()?,
        },
        36 => Op::SyncRefused {
            from: vmid,
            code: read_sync_code(header.flag)?,
            id: header.first.get(),
        },
        37 => Op::Succeed { to: vmid },
        _ => return None,
    })
}

fn result_field(result: Result<(), Errno>) -> u64 {
    u64::from(Errno::status(&result).cast_unsigned())
}

fn read_result(status: u64) -> Option<Result<(), Errno>> {
    let status = u32::try_from(status).ok()?.cast_signed();
    Some(Errno::check(status).map(drop))
}

impl<'a> Op<'a> {
    fn fields(&self) -> (Fields, Option<(u64, Message<'a>)>) {
        let plain = |kind, vmid: Vmid| ((kind, 0, vmid.get(), 0, 0), None);
        match *self {
            Op::Request {
                from,
                seq,
                message,
                other,
            } => {
                let presence = match other {
                    Presence::Absent => 0,
                    Presence::Connected => 1,
                    Presence::Extended => 2,
                };
                ((1, presence, from.get(), 0, 0), Some((seq, *message)))
            }
            Op::SetLock { from, lock, .. } => {
                let message = Message::FileLockSet(lock);
                ((2, 0, from.get(), 0, 0), Some((0, message)))
            }
            Op::Connected(vmid) => plain(3, vmid),
            Op::Join(vmid, hello) => ((4, 0, vmid.get(), 0, 0), Some((0, Message::Hello(hello)))),
            Op::RunUnjoined(vmid) => plain(5, vmid),
            Op::Left(vmid) => plain(6, vmid),
            Op::RevokeGrants(vmid) => plain(7, vmid),
            Op::ReclaimRanges { owner, left } => ((8, 0, owner.get(), left, 0), None),
            Op::DeferStart(vmid) => plain(9, vmid),
            Op::AbandonStart(vmid) => plain(10, vmid),
            Op::ConfirmGrants {
                to,
                left,
                allows_notices,
            } => ((11, u8::from(allows_notices), to.get(), left, 0), None),
            Op::Announce(vmid) => plain(12, vmid),
            Op::AllowReturn(vmid) => plain(13, vmid),
            Op::NotifyAbandoned(vmid) => plain(14, vmid),
            Op::Signal(vmid, kill) => {
                ((20, 0, vmid.get(), 0, 0), Some((0, Message::PidKill(kill))))
            }
            Op::SignalAll {
                from,
                seq,
                kill,
                result,
            } => {
                let header = (21, 0, from.get(), seq, result_field(result));
                (header, Some((0, Message::PidKill(kill))))
            }
            Op::SignalAnswered { from, seq, result } => {
                ((23, 0, from.get(), seq, result_field(result)), None)
            }
            Op::ReclaimLocks { owner, left } => ((25, 0, owner.get(), left, 0), None),
            Op::Sync {
                from,
                code,
                sync,
                is_extended,
            } => {
                let message = Message::Sync(code, sync);
                (
                    (29, u8::from(is_extended), from.get(), 0, 0),
                    Some((0, message)),
                )
            }
            Op::OwnerDied(from, id) => ((26, 0, from.get(), id, 0), None),
            Op::ReclaimLeases { owner, left } => ((28, 0, owner.get(), left, 0), None),
            Op::ReleaseLocks => ((34, 0, 0, 0, 0), None),
            Op::ReclaimChildren { owner, left } => ((30, 0, owner.get(), left, 0), None),
            Op::Transmitted { id, is_extended } => {
                let (which, vmid, number) = id_fields(id);
                ((31, u8::from(is_extended), vmid, number, which), None)
            }
            Op::Requeued(id) => {
                let (which, vmid, number) = id_fields(id);
                ((32, 0, vmid, number, which), None)
            }
            Op::RetryTransmit => ((33, 0, 0, 0, 0), None),
            Op::SignalAllRefused { from, seq, errno } => {
                ((35, 0, from.get(), seq, result_field(Err(errno))), None)
            }
            Op::SyncRefused { from, code, id } => ((36, sync_code(code), from.get(), id, 0), None),
            Op::Succeed { to } => plain(37, to),
        }
    }

    /// Writes the operation at the buffer's start. Returns its length.
    ///
    /// # Errors
    /// [`TooSmall`] if the buffer is too small, or if no frame can hold the operation's message.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, TooSmall> {
        let ((kind, flag, vmid, first, second), message) = self.fields();
        let header = OpHeader {
            kind,
            flag,
            spare: 0.into(),
            vmid: vmid.into(),
            first: first.into(),
            second: second.into(),
        };
        let (to, rest) = buffer.split_at_mut_checked(HEADER).ok_or(TooSmall)?;
        let length = match message {
            Some((seq, message)) => message.encode(seq, rest)?,
            None => 0,
        };
        header.write_to(to).map_err(|_| TooSmall)?;
        Ok(HEADER.plus(length))
    }

    /// Returns the operation at the beginning of the bytes, and its length; `request` gets its message if it is an
    /// [`Op::Request`]. None if it is not complete, or if these are not the bytes of an operation.
    pub fn decode<'b: 'a>(
        bytes: &'b [u8],
        request: &'a mut Option<Message<'b>>,
    ) -> Option<(Op<'a>, usize)> {
        let (header, rest) = OpHeader::ref_from_prefix(bytes).ok()?;
        let vmid = Vmid::new(header.vmid.get());
        let (first, second) = (header.first.get(), header.second.get());
        let frame = || Frame::parse(rest, rest.len()).ok().flatten();
        let kill = || match frame()?.message().ok()? {
            Message::PidKill(kill) => Some(kill),
            _ => None,
        };
        let has_frame = matches!(header.kind, 1 | 2 | 4 | 20 | 21 | 29);
        let op = match header.kind {
            1 => {
                let frame = frame()?;
                Op::Request {
                    from: vmid?,
                    seq: frame.seq,
                    message: request.insert(frame.message().ok()?),
                    other: match header.flag {
                        0 => Presence::Absent,
                        1 => Presence::Connected,
                        2 => Presence::Extended,
                        _ => return None,
                    },
                }
            }
            2 => match frame()?.message().ok()? {
                Message::FileLockSet(lock) => Op::SetLock {
                    from: vmid?,
                    lock,
                    hash: hash_path(lock.path),
                },
                _ => return None,
            },
            3 => Op::Connected(vmid?),
            4 => match frame()?.message().ok()? {
                Message::Hello(hello) => Op::Join(vmid?, hello),
                _ => return None,
            },
            5 => Op::RunUnjoined(vmid?),
            6 => Op::Left(vmid?),
            7 => Op::RevokeGrants(vmid?),
            8 => Op::ReclaimRanges {
                owner: vmid?,
                left: first,
            },
            9 => Op::DeferStart(vmid?),
            10 => Op::AbandonStart(vmid?),
            11 => Op::ConfirmGrants {
                to: vmid?,
                left: first,
                allows_notices: read_flag(header.flag)?,
            },
            12 => Op::Announce(vmid?),
            13 => Op::AllowReturn(vmid?),
            14 => Op::NotifyAbandoned(vmid?),
            20 => Op::Signal(vmid?, kill()?),
            21 => Op::SignalAll {
                from: vmid?,
                seq: first,
                kill: kill()?,
                result: read_result(second)?,
            },
            23 => Op::SignalAnswered {
                from: vmid?,
                seq: first,
                result: read_result(second)?,
            },
            25 => Op::ReclaimLocks {
                owner: vmid?,
                left: first,
            },
            29 => match frame()?.message().ok()? {
                Message::Sync(code, sync) => Op::Sync {
                    from: vmid?,
                    code,
                    sync,
                    is_extended: read_flag(header.flag)?,
                },
                _ => return None,
            },
            26 => Op::OwnerDied(vmid?, first),
            28 => Op::ReclaimLeases {
                owner: vmid?,
                left: first,
            },
            34 => Op::ReleaseLocks,
            30 => Op::ReclaimChildren {
                owner: vmid?,
                left: first,
            },
            31 => Op::Transmitted {
                id: read_id(second, vmid, first)?,
                is_extended: read_flag(header.flag)?,
            },
            32 => Op::Requeued(read_id(second, vmid, first)?),
            33 => Op::RetryTransmit,
            _ => read_counted(header)?,
        };
        let length = if has_frame { frame()?.length() } else { 0 };
        Some((op, HEADER.plus(length)))
    }
}

#[cfg(test)]
mod tests;
