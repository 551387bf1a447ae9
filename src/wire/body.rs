//! Conversion between payloads as Rust types and their bytes.

use super::error::Malformed;
use super::frame::{HEADER_LENGTH, read_struct};
use super::kinds::{KillTarget, LockFamily, LockKind, ProcessNote, SyncState};
use super::layout;
use super::message::Message;
use super::payload::{
    EndQuery, ExitReport, FileLock, Heartbeat, Hello, IdRange, LimitFlags, PeerLimits, PidKill,
    ProcessQuery, RelativeNote, Sync,
};
use crate::path::has_nul;
use crate::store::total;
use core::mem::size_of;
use zerocopy::FromBytes;

impl IdRange {
    #[inline]
    pub(super) fn layout(self) -> layout::IdRange {
        layout::IdRange {
            start: self.start.into(),
            end: self.end.into(),
        }
    }

    #[inline]
    pub(super) fn read(payload: &[u8]) -> Result<IdRange, Malformed> {
        let body: &layout::IdRange = read_struct(payload)?;
        Ok(IdRange {
            start: body.start.get(),
            end: body.end.get(),
        })
    }
}

impl ExitReport {
    #[inline]
    pub(super) fn layout(self) -> layout::ChildExit {
        layout::ChildExit {
            parent_pid: self.parent_pid.into(),
            pid: self.pid.into(),
            uid: self.uid.into(),
            exit_code: self.code.into(),
            term_signal: self.signal.into(),
        }
    }

    #[inline]
    pub(super) fn read(payload: &[u8]) -> Result<ExitReport, Malformed> {
        Ok(ExitReport::of(read_struct(payload)?))
    }

    #[inline]
    pub(super) fn of(body: &layout::ChildExit) -> ExitReport {
        ExitReport {
            parent_pid: body.parent_pid.get(),
            pid: body.pid.get(),
            uid: body.uid.get(),
            code: body.exit_code.get(),
            signal: body.term_signal.get(),
        }
    }
}

impl EndQuery {
    #[inline]
    pub(super) fn layout(self) -> layout::ProcessEnd {
        layout::ProcessEnd {
            pid: self.pid.into(),
            group: self.group.into(),
        }
    }

    #[inline]
    pub(super) fn read(payload: &[u8]) -> Result<EndQuery, Malformed> {
        let body: &layout::ProcessEnd = read_struct(payload)?;
        Ok(EndQuery {
            pid: body.pid.get(),
            group: body.group.get(),
        })
    }
}

impl RelativeNote {
    #[inline]
    pub(super) fn layout(self) -> layout::ProcessNote {
        layout::ProcessNote {
            note: self.note.number().into(),
            pid: self.pid.into(),
            vmid: self.vmid.into(),
        }
    }

    #[inline]
    pub(super) fn read(payload: &[u8]) -> Result<RelativeNote, Malformed> {
        let body: &layout::ProcessNote = read_struct(payload)?;
        Ok(RelativeNote {
            note: ProcessNote::read(body.note.get())?,
            pid: body.pid.get(),
            vmid: body.vmid.get(),
        })
    }
}

impl Heartbeat {
    pub(super) fn layout(self) -> layout::Heartbeat {
        layout::Heartbeat {
            sent_at: self.sent_at.into(),
            limit: self.limit.into(),
        }
    }

    pub(super) fn read(payload: &[u8]) -> Result<Heartbeat, Malformed> {
        let body: &layout::Heartbeat = read_struct(payload)?;
        let limit = body.limit.get();
        if limit > Heartbeat::LONGEST {
            return Err(Malformed::BadValue);
        }
        Ok(Heartbeat {
            sent_at: body.sent_at.get(),
            limit,
        })
    }
}

impl PidKill {
    #[inline]
    pub(super) fn layout(self) -> layout::PidKill {
        layout::PidKill {
            sender: self.sender.into(),
            pid: self.pid.into(),
            id: self.id.into(),
            signal: self.signal.into(),
            target: self.target.number().into(),
        }
    }

    #[inline]
    pub(super) fn read(payload: &[u8]) -> Result<PidKill, Malformed> {
        let body: &layout::PidKill = read_struct(payload)?;
        Ok(PidKill {
            sender: body.sender.get(),
            pid: body.pid.get(),
            id: body.id.get(),
            signal: body.signal.get(),
            target: KillTarget::read(body.target.get())?,
        })
    }

    pub(super) fn ordered(self, always: bool) -> layout::OrderedKill {
        layout::OrderedKill {
            sender: self.sender.into(),
            pid: self.pid.into(),
            id: self.id.into(),
            signal: self.signal.into(),
            target: self.target.number().into(),
            always: u32::from(always).into(),
        }
    }

    /// The leader forwards signals for a process or a thread. Signals for all processes are sent as
    /// `PID_KILL`.
    pub(super) fn read_ordered(payload: &[u8]) -> Result<Message<'_>, Malformed> {
        let body: &layout::OrderedKill = read_struct(payload)?;
        let target = match KillTarget::read(body.target.get())? {
            target @ (KillTarget::Thread | KillTarget::Process) => target,
            KillTarget::Group | KillTarget::All => return Err(Malformed::BadValue),
        };
        let kill = PidKill {
            sender: body.sender.get(),
            pid: body.pid.get(),
            id: body.id.get(),
            signal: body.signal.get(),
            target,
        };
        let always = match body.always.get() {
            0 => false,
            1 => true,
            _ => return Err(Malformed::BadValue),
        };
        Ok(Message::KillOrdered { kill, always })
    }
}

impl Hello {
    #[inline]
    pub(super) fn layout(self) -> layout::Hello {
        layout::Hello {
            version: self.version.into(),
            features: self.features.into(),
            pid: self.pid.into(),
            parent: self.parent.into(),
        }
    }

    #[inline]
    pub(super) fn read(payload: &[u8]) -> Result<Hello, Malformed> {
        let body: &layout::Hello = read_struct(payload)?;
        Ok(Hello {
            version: body.version.get(),
            features: body.features.get(),
            pid: body.pid.get(),
            parent: body.parent.get(),
        })
    }
}

impl PeerLimits {
    #[inline]
    pub(super) fn layout(self) -> layout::Limits {
        layout::Limits {
            version: self.version.into(),
            flags: self.flags.bits().into(),
            frame_length: self.frame_length.into(),
            sync_data: self.sync_data.into(),
        }
    }

    /// Fields that a later version adds at the end are ignored, and so are unknown flags.
    #[inline]
    pub(super) fn read(payload: &[u8]) -> Result<PeerLimits, Malformed> {
        let (body, _) =
            layout::Limits::ref_from_prefix(payload).map_err(|_| Malformed::PayloadLength)?;
        Ok(PeerLimits {
            version: body.version.get(),
            flags: LimitFlags::from_bits_truncate(body.flags.get()),
            frame_length: body.frame_length.get(),
            sync_data: body.sync_data.get(),
        })
    }
}

impl ProcessQuery {
    #[inline]
    pub(super) fn layout(self) -> layout::ProcessQuery {
        layout::ProcessQuery {
            pid: self.pid.into(),
            group: self.group.into(),
            parent: self.parent.into(),
            pad: [0; 4],
            after: self.after.into(),
        }
    }

    #[inline]
    pub(super) fn read(payload: &[u8]) -> Result<ProcessQuery, Malformed> {
        let body: &layout::ProcessQuery = read_struct(payload)?;
        Ok(ProcessQuery {
            pid: body.pid.get(),
            group: body.group.get(),
            parent: body.parent.get(),
            after: body.after.get(),
        })
    }
}

impl<'a> Sync<'a> {
    /// Returns the length of the payload in bytes.
    #[inline]
    pub(super) fn length(&self) -> usize {
        total!(
            size_of::<layout::Sync>(),
            self.data.len(),
            layout::SYNC_SPARE,
        )
    }

    #[inline]
    pub(super) fn layout(&self) -> layout::Sync {
        layout::Sync {
            id: self.id.into(),
            data_size: (self.data.len() as u64).into(),
            state: self.state.number().into(),
        }
    }

    #[inline]
    pub(super) fn read(payload: &'a [u8]) -> Result<Sync<'a>, Malformed> {
        let (body, rest) =
            layout::Sync::ref_from_prefix(payload).map_err(|_| Malformed::PayloadLength)?;
        // The data's length follows from the payload's, and the length that the peer states is only
        // compared with it.
        let length = rest
            .len()
            .checked_sub(layout::SYNC_SPARE)
            .ok_or(Malformed::PayloadLength)?;
        if body.data_size.get() != length as u64 {
            return Err(Malformed::LengthsDisagree);
        }
        let data = rest.get(..length).ok_or(Malformed::LengthsDisagree)?;
        Ok(Sync {
            id: body.id.get(),
            state: SyncState::read(body.state.get())?,
            data,
        })
    }
}

impl<'a> FileLock<'a> {
    /// The bytes after the path: its NUL and the reserved bytes.
    const TAIL: usize = layout::FILE_LOCK_SPARE + 1;

    /// Returns the length of the payload in bytes; `usize::MAX` if no payload would be read as this
    /// lock.
    #[inline]
    pub(super) fn length(&self) -> usize {
        if has_nul(self.path) {
            return usize::MAX;
        }
        self.length_without_nul()
    }

    /// Like `length`, if the path has no NUL.
    #[inline]
    fn length_without_nul(&self) -> usize {
        total!(size_of::<layout::FileLock>(), self.path.len(), Self::TAIL)
    }

    /// Returns the length of the frame of a request with this lock, if the path has no NUL.
    #[inline]
    pub(crate) fn frame_length_without_nul(&self) -> usize {
        total!(HEADER_LENGTH, self.length_without_nul())
    }

    #[inline]
    pub(super) fn layout(&self) -> layout::FileLock {
        layout::FileLock {
            family: self.family.number().into(),
            kind: self.kind.number().into(),
            start: self.start.into(),
            end: self.end.into(),
            pid: self.pid.into(),
            pad: [0; 4],
            handle: self.handle.into(),
            wait: self.wait.into(),
        }
    }

    /// Reads a lock of any family.
    pub(super) fn read_any(payload: &'a [u8]) -> Result<FileLock<'a>, Malformed> {
        FileLock::read(payload, false).or_else(|_| FileLock::read(payload, true))
    }

    #[inline]
    pub(super) fn read(payload: &'a [u8], is_ofd: bool) -> Result<FileLock<'a>, Malformed> {
        let (body, rest) =
            layout::FileLock::ref_from_prefix(payload).map_err(|_| Malformed::PayloadLength)?;
        // The shortest path is empty, and has the bytes after the path all the same.
        let length = rest
            .len()
            .checked_sub(Self::TAIL)
            .ok_or(Malformed::PayloadLength)?;
        let (path, tail) = rest
            .split_at_checked(length)
            .ok_or(Malformed::PayloadLength)?;
        // The reserved bytes may have any value, so the path must end at the first NUL.
        if has_nul(path) || tail.first() != Some(&0) {
            let terminated = has_nul(rest);
            return Err(if terminated {
                Malformed::LengthsDisagree
            } else {
                Malformed::NoTerminator
            });
        }
        let family = LockFamily::read(body.family.get())?;
        // Locks of open files have their own codes, which are sent only to peers with the
        // extensions.
        if is_ofd != matches!(family, LockFamily::Ofd) {
            return Err(Malformed::BadValue);
        }
        Ok(FileLock {
            family,
            kind: LockKind::read(body.kind.get())?,
            start: body.start.get(),
            end: body.end.get(),
            pid: body.pid.get(),
            handle: body.handle.get(),
            wait: match body.wait {
                0 => false,
                1 => true,
                _ => return Err(Malformed::BadValue),
            },
            path,
        })
    }
}
