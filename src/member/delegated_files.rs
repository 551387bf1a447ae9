//! Files whose record locks the leader has delegated to this member, which decides on them itself.
//!
//! This is a deterministic state machine over a lock table of its own. No request waits in it: a
//! request that has to wait goes to the leader, and the file is returned first.

use crate::Id;
use crate::Vmid;
use crate::error::{Errno, Error};
use crate::fencing::Numbers;
use crate::file_locks::{LockLimits, LockTable};
use crate::invariant::Count;
use crate::parts;
use crate::path::hash_path;
use crate::store::{Arena, Table, bytes_for, memory_sum};
use crate::wire::{DelegatedLockList, FileLock, HeldLock, LockFamily, LockKind};

/// The number of lock slots for each file.
const LOCKS_PER_FILE: usize = 8;

/// The state of a delegated file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The slot is free.
    Free,
    /// The member has requested the delegation.
    Requested,
    /// The member holds the delegation, and may have this many locks.
    Held(usize),
}

#[derive(Clone, Copy)]
struct DelegatedFile {
    state: State,
    /// The number by which this member and the leader identify the delegation. No number is used
    /// twice.
    number: u64,
    /// Whether the delegation must be returned.
    is_recalled: bool,
    /// The fencing numbers for locks on this file.
    fencing: Numbers,
}

/// The files that are delegated to this member, or for which it has requested a delegation.
pub struct DelegatedFiles<'m> {
    locks: LockTable<'m>,
    /// Indexed by the slot of the file in the lock table.
    files: Table<'m, DelegatedFile>,
    next_number: u64,
    /// The number of files to return.
    recalled: usize,
    held: usize,
    peak_held: usize,
}

/// The decision on a lock request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The request is complete: it succeeded, or it was refused with that error number.
    Done(Result<(), Errno>),
    /// The caller forwards the request to the leader. It returns the recalled files first.
    Forward,
    /// The caller requests the delegation of the file from the leader under that number, and then
    /// tries again here.
    Request(u64),
}

/// The decision on a fencing number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fencing {
    /// The number; `EPERM` if the process does not hold the lock.
    Done(Result<u64, Errno>),
    /// The leader decides on the lock.
    Forward,
    /// The caller requests a block for this delegation from the leader, and then tries again here.
    Request(u64),
}

const fn limits(files: usize) -> LockLimits {
    LockLimits {
        locks: files.saturating_mul(LOCKS_PER_FILE),
        files,
        waiting: 0,
        open_files: 0,
    }
}

impl<'m> DelegatedFiles<'m> {
    /// Returns the memory for that many delegated files, in bytes.
    pub const fn bytes(files: usize) -> usize {
        memory_sum!(
            LockTable::bytes(&limits(files)),
            bytes_for::<DelegatedFile>(files),
        )
    }

    /// Makes an empty table for that many files, in memory from `arena`.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn new(arena: &mut Arena<'m>, files: usize) -> Result<Self, Error> {
        arena.checked(|arena| Self::make(arena, files))
    }

    pub(crate) fn make(arena: &mut Arena<'m>, files: usize) -> Self {
        DelegatedFiles {
            locks: LockTable::make(arena, &limits(files), 0),
            files: arena.alloc_table(files, |_| DelegatedFile {
                state: State::Free,
                number: 0,
                is_recalled: false,
                fencing: Numbers::NONE,
            }),
            next_number: 1,
            recalled: 0,
            held: 0,
            peak_held: 0,
        }
    }

    /// Sets, changes or releases a lock of one of this member's processes, if this member can
    /// decide on it.
    pub fn set(&mut self, own_vmid: Vmid, lock: &FileLock<'_>) -> Decision {
        if lock.family != LockFamily::Posix || self.files.is_empty() {
            return Decision::Forward;
        }
        let hash = hash_path(lock.path);
        let Some(file) = self.locks.find_file_hashed(lock.path, hash) else {
            if lock.kind == LockKind::Unlock {
                return Decision::Forward;
            }
            return self.request_delegation(lock.path);
        };
        let State::Held(most) = self.entry(file).state else {
            return Decision::Forward;
        };
        // A lock may be split in two, and another may be left over.
        let has_room = self.locks.lock_count(file).plus(2) <= most;
        let now = FileLock {
            wait: false,
            ..*lock
        };
        let done = has_room.then(|| self.locks.try_set(own_vmid, &now, hash));
        match done {
            Some(Ok(true)) => return Decision::Done(Ok(())),
            Some(Err(Errno::EAGAIN)) if lock.wait => {}
            Some(Err(errno)) if errno != Errno::ENOLCK => return Decision::Done(Err(errno)),
            _ => {}
        }
        self.mark_recalled(file);
        Decision::Forward
    }

    /// Finds the conflicting lock, as [`LockTable::get`] does, if this member holds the delegation
    /// of the file.
    pub fn get(
        &self,
        own_vmid: Vmid,
        lock: &FileLock<'_>,
    ) -> Option<Result<Option<HeldLock>, Errno>> {
        if !parts::DELEGATIONS || lock.family != LockFamily::Posix {
            return None;
        }
        let file = self.locks.find_file(lock.path)?;
        matches!(self.entry(file).state, State::Held(_)).then(|| self.locks.get(own_vmid, lock))
    }

    /// Takes a fencing number for a write lock of one of this member's processes, if this member holds
    /// the delegation of the file.
    pub fn fencing_number(&mut self, own_vmid: Vmid, lock: &FileLock<'_>) -> Fencing {
        let file = match lock.family {
            LockFamily::Posix => self.locks.find_file(lock.path),
            LockFamily::Flock | LockFamily::Ofd => None,
        };
        let is_held = |file: &u32| matches!(self.entry(*file).state, State::Held(_));
        let Some(file) = file.filter(is_held) else {
            return Fencing::Forward;
        };
        if !self.locks.has_write_lock(own_vmid, lock) {
            return Fencing::Done(Err(Errno::EPERM));
        }
        let delegation = self.entry(file).number;
        let entry = self.files.get_mut(file as usize);
        match entry.and_then(|entry| entry.fencing.take()) {
            Some(number) => Fencing::Done(Ok(number)),
            None => Fencing::Request(delegation),
        }
    }

    /// Adds the block of fencing numbers that the leader has given for a delegation, which begins with
    /// this one. If the delegation was returned meanwhile, nothing happens.
    pub fn add_fencing_block(&mut self, delegation: u64, first: u64) {
        let is_match = |entry: &DelegatedFile| {
            entry.number == delegation && matches!(entry.state, State::Held(_))
        };
        let file = self.find(is_match);
        if let Some(entry) = file.and_then(|file| self.files.get_mut(file as usize)) {
            entry.fencing = Numbers::block(first);
        }
    }

    /// Releases all locks of a process on the delegated files.
    pub fn release_process(&mut self, own_vmid: Vmid, pid: Id) {
        if parts::DELEGATIONS {
            self.locks.release_process(own_vmid, pid);
        }
    }

    fn request_delegation(&mut self, path: &[u8]) -> Decision {
        let Some(file) = self.locks.add_delegated_file(path) else {
            return Decision::Forward;
        };
        let number = self.next_number;
        self.next_number = number.wrapping_add(1).max(1);
        if let Some(entry) = self.files.get_mut(file as usize) {
            *entry = DelegatedFile {
                state: State::Requested,
                number,
                is_recalled: false,
                fencing: Numbers::NONE,
            };
        }
        Decision::Request(number)
    }

    /// Handles the leader's answer to a request for a delegation: the number of locks that the
    /// member may have, or `None` if the leader refused.
    pub fn handle_answer(&mut self, number: u64, granted: Option<usize>) {
        let is_match =
            |entry: &DelegatedFile| entry.number == number && entry.state == State::Requested;
        let Some(file) = self.find(is_match) else {
            return;
        };
        match granted {
            Some(most) => {
                if let Some(entry) = self.files.get_mut(file as usize) {
                    entry.state = State::Held(most);
                }
                self.held.increment();
                self.peak_held = self.peak_held.max(self.held);
            }
            None => self.remove(file),
        }
    }

    /// Handles a recall. A recall of a file that is already being returned changes nothing.
    pub fn recall(&mut self, number: u64) {
        if let Some(file) = self.find(|entry| entry.number == number) {
            self.mark_recalled(file);
        }
    }

    /// Recalls all files, of a process that begins to lead: a leader has no delegations.
    pub fn recall_all(&mut self) {
        for file in (0..).take(self.files.len()) {
            if self.entry(file).state != State::Free {
                self.mark_recalled(file);
            }
        }
    }

    fn mark_recalled(&mut self, file: u32) {
        if let Some(entry) = self.files.get_mut(file as usize)
            && !entry.is_recalled
        {
            entry.is_recalled = true;
            self.recalled.increment();
        }
    }

    /// Returns the next file to return to the leader: its number. Its locks are written to `list`. The file
    /// stays until [`DelegatedFiles::mark_sent`]; if the leader has no room for it, the caller polls again
    /// later.
    pub fn poll_transmit(&self, list: &mut DelegatedLockList) -> Option<u64> {
        if self.recalled == 0 {
            return None;
        }
        let file = self.find(|entry| entry.is_recalled && entry.state != State::Requested)?;
        self.locks.list_locks(file, list);
        Some(self.entry(file).number)
    }

    /// Removes a file whose return was queued for the leader.
    pub fn mark_sent(&mut self, number: u64) {
        let is_match =
            |entry: &DelegatedFile| entry.number == number && entry.state != State::Requested;
        if let Some(file) = self.find(is_match) {
            self.held.decrement();
            self.remove(file);
        }
    }

    fn remove(&mut self, file: u32) {
        if let Some(entry) = self.files.get_mut(file as usize) {
            self.recalled = self.recalled.minus(usize::from(entry.is_recalled));
            entry.state = State::Free;
            entry.is_recalled = false;
        }
        self.locks.release_file(file);
    }

    fn entry(&self, file: u32) -> DelegatedFile {
        self.files
            .get(file as usize)
            .copied()
            .unwrap_or(DelegatedFile {
                state: State::Free,
                number: 0,
                is_recalled: false,
                fencing: Numbers::NONE,
            })
    }

    /// Returns the slot of the first file in use that matches.
    fn find(&self, matches: impl Fn(&DelegatedFile) -> bool) -> Option<u32> {
        if !parts::DELEGATIONS {
            return None;
        }
        let is_match = |entry: &DelegatedFile| entry.state != State::Free && matches(entry);
        u32::try_from(self.files.iter().position(is_match)?).ok()
    }

    /// Returns the number of delegated files now, and the peak.
    pub fn usage(&self) -> (usize, usize) {
        (self.held, self.peak_held)
    }
}
