//! A request that waits for a lock, or for the return of a delegated file.

use super::{Owner, Range};
use crate::Vmid;
use core::cmp::Reverse;
use core::hash::Hash;

use crate::error::Errno;
use crate::store::{
    ImageEntry, ImageReader, ImageWriter, MalformedImage, NONE, Payer, entry, memory_sum,
};
use crate::wire::{Answer, FileLock, HeldLock, LockKind};

/// A request that waits, or that is complete while its result has not been taken.
#[derive(Clone, Copy, Hash)]
pub(super) struct WaitingRequest {
    pub(super) from: Vmid,
    pub(super) seq: u64,
    pub(super) owner: Owner,
    pub(super) file: u32,
    pub(super) range: Range,
    pub(super) command: LockCommand,
    pub(super) state: RequestState,
    /// The number of the request in the order of arrival.
    pub(super) arrival: u64,
    /// A held lock that conflicts with the request; [`NONE`] if the request is still to be tried.
    pub(super) blocker: u32,
    /// The neighbours among the requests that the same lock blocks, among the deferred requests of
    /// the file, or among the completed requests.
    pub(super) prev: u32,
    pub(super) next: u32,
    /// The neighbours among the waiting requests of the owner.
    pub(super) prev_of_owner: u32,
    pub(super) next_of_owner: u32,
    /// The place among the [candidates](super::candidates); [`NONE`] if it is none.
    pub(super) place: u32,
    /// The round of the [serving](super::candidates) in which the request is tried.
    pub(super) round: u32,
    /// The number of the last deadlock search that visited the request.
    pub(super) visited_by: u64,
    pub(super) payer: Payer,
}

/// The command that a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum LockCommand {
    /// Set or release a lock.
    Set { kind: LockKind, wait: bool },
    /// Find the conflicting lock.
    Get { write: bool },
}

impl LockCommand {
    pub(super) fn from_lock(lock: &FileLock<'_>) -> LockCommand {
        LockCommand::Set {
            kind: lock.kind,
            wait: lock.wait,
        }
    }

    pub(super) fn is_write(self) -> bool {
        match self {
            LockCommand::Set { kind, .. } => kind == LockKind::Write,
            LockCommand::Get { write } => write,
        }
    }

    pub(super) fn may_wait(self) -> bool {
        matches!(self, LockCommand::Set { wait: true, .. })
    }

    /// Returns the answer for a result.
    pub(super) fn answer(self, result: Result<(), Errno>) -> Answer<'static> {
        match self {
            LockCommand::Set { .. } => Answer::Status(result.map(|()| 0)),
            LockCommand::Get { .. } => Answer::Lock(result.map(|()| None)),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum RequestState {
    Free,
    /// The request waits for a lock.
    Waiting,
    /// The request waits for the return of a delegated file.
    Deferred,
    Completed(Answer<'static>),
}

entry!(WaitingRequest {
    from,
    seq,
    owner,
    file,
    range,
    command,
    state,
    arrival,
    blocker,
    prev,
    next,
    prev_of_owner,
    next_of_owner,
    place,
    round,
    visited_by,
    payer,
});

impl ImageEntry for LockCommand {
    const SIZE: usize = 3;

    fn save(&self, to: &mut ImageWriter<'_>) {
        match self {
            LockCommand::Set { kind, wait } => (0_u8, (*kind, *wait)).save(to),
            LockCommand::Get { write } => (1_u8, *write).save(to),
        }
    }

    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        match u8::load(from)? {
            0 => Ok(LockCommand::Set {
                kind: ImageEntry::load(from)?,
                wait: ImageEntry::load(from)?,
            }),
            1 => ImageEntry::load(from).map(|write| LockCommand::Get { write }),
            _ => Err(MalformedImage),
        }
    }
}

impl ImageEntry for RequestState {
    const SIZE: usize = memory_sum!(1_usize, <Result<Option<HeldLock>, Errno>>::SIZE);

    fn save(&self, to: &mut ImageWriter<'_>) {
        match self {
            RequestState::Free => 0_u8.save(to),
            RequestState::Waiting => 1_u8.save(to),
            RequestState::Deferred => 2_u8.save(to),
            RequestState::Completed(Answer::Status(status)) => (3_u8, *status).save(to),
            RequestState::Completed(Answer::Lock(lock)) => (4_u8, *lock).save(to),
            // No request for a lock has another answer.
            RequestState::Completed(_) => 5_u8.save(to),
        }
    }

    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        Ok(match u8::load(from)? {
            0 => RequestState::Free,
            1 => RequestState::Waiting,
            2 => RequestState::Deferred,
            3 => RequestState::Completed(Answer::Status(ImageEntry::load(from)?)),
            4 => RequestState::Completed(Answer::Lock(ImageEntry::load(from)?)),
            _ => return Err(MalformedImage),
        })
    }
}

pub(super) const FREE: WaitingRequest = WaitingRequest {
    from: Vmid::LEADER,
    seq: 0,
    owner: Owner::Open(0),
    file: NONE,
    range: (0, 0),
    command: LockCommand::Get { write: false },
    state: RequestState::Free,
    arrival: 0,
    blocker: NONE,
    prev: NONE,
    next: NONE,
    prev_of_owner: NONE,
    next_of_owner: NONE,
    round: 0,
    place: NONE,
    visited_by: 0,
    payer: Payer::NOBODY,
};

impl WaitingRequest {
    /// Returns the key in the index of senders: of several requests with one number, the newest is
    /// the first.
    pub(super) fn by_sender(&self) -> (Vmid, u64, Reverse<u64>) {
        (self.from, self.seq, Reverse(self.arrival))
    }

    /// Returns true if the request waits, and is in the indexes.
    pub(super) fn is_queued(&self) -> bool {
        matches!(self.state, RequestState::Waiting | RequestState::Deferred)
    }

    /// Returns the open file that the request keeps in use. A query and an unlock keep none: their
    /// sender need not have the open file.
    pub(super) fn kept_open_file(&self) -> Option<u64> {
        match (self.owner, self.command) {
            (
                _,
                LockCommand::Get { .. }
                | LockCommand::Set {
                    kind: LockKind::Unlock,
                    ..
                },
            )
            | (Owner::Process { .. }, _) => None,
            (Owner::Open(open_file) | Owner::Flock(open_file), _) => Some(open_file),
        }
    }
}
