//! Files whose record locks the leader has lent to this member, which decides on them itself.
//!
//! A pure state machine over a table of locks of its own. Nobody waits in it: what would have to is
//! for the leader, and the file goes back to it first.

use crate::Id;
use crate::Vmid;
use crate::error::{Error, errno};
use crate::file_locks::{LockLimits, LockTable, hash_path};
use crate::store::{Arena, Table, bytes_for};
use crate::wire::{DelegatedLockList, FileLock, HeldLock, LockFamily, LockKind};

/// How many locks there is room for, for each file.
const LOCKS_PER_FILE: usize = 8;

/// What a borrowed file is at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is there.
    Free,
    /// The leader was asked.
    Requested,
    /// It is here, and may have that many locks.
    Held(usize),
}

#[derive(Clone, Copy)]
struct DelegatedFile {
    state: State,
    /// What this member and the leader call it; never used twice.
    number: u64,
    /// It is to go back.
    is_recalled: bool,
}

/// Files that were borrowed, or are asked for.
pub struct DelegatedFiles<'m> {
    locks: LockTable<'m>,
    /// By the place of the file in the table.
    files: Table<'m, DelegatedFile>,
    next_number: u64,
    /// How many are to go back.
    recalled: usize,
    held: usize,
    peak_held: usize,
}

/// What is to be done about a request for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is done, or refused with that error number.
    Done(Result<(), i32>),
    /// The leader is to be asked. The file may have to go back to it first.
    Forward,
    /// The leader is to be asked for the file, as what goes by that number; then again here.
    Request(u64),
}

const fn limits(files: usize) -> LockLimits {
    LockLimits {
        locks: files.saturating_mul(LOCKS_PER_FILE),
        files,
        waiting: 0,
        handles: 0,
    }
}

impl<'m> DelegatedFiles<'m> {
    /// The memory it takes to borrow that many files at once.
    pub const fn bytes(files: usize) -> usize {
        LockTable::bytes(&limits(files)).saturating_add(bytes_for::<DelegatedFile>(files))
    }

    /// With room for that many files, cut from `arena`.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn new(arena: &mut Arena<'m>, files: usize) -> Result<Self, Error> {
        Ok(DelegatedFiles {
            locks: LockTable::new(arena, &limits(files))?,
            files: arena.alloc_table(files, |_| {
                Ok(DelegatedFile {
                    state: State::Free,
                    number: 0,
                    is_recalled: false,
                })
            })?,
            next_number: 1,
            recalled: 0,
            held: 0,
            peak_held: 0,
        })
    }

    /// Sets, changes or drops a lock of one of this member's processes, if that can be done here.
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
        // One more may become of one, and one more be left over.
        let has_room = self.locks.lock_count(file).saturating_add(2) <= most;
        let now = FileLock {
            wait: false,
            ..*lock
        };
        let done = has_room.then(|| self.locks.try_set(own_vmid, &now, hash));
        match done {
            Some(Ok(true)) => return Decision::Done(Ok(())),
            Some(Err(errno::EAGAIN)) if lock.wait => {}
            Some(Err(errno)) if errno != errno::ENOLCK => return Decision::Done(Err(errno)),
            _ => {}
        }
        self.mark_recalled(file);
        Decision::Forward
    }

    /// The lock that is in the way, as [`LockTable::get`] has it, if the file is here.
    pub fn get(
        &self,
        own_vmid: Vmid,
        lock: &FileLock<'_>,
    ) -> Option<Result<Option<HeldLock>, i32>> {
        if lock.family != LockFamily::Posix {
            return None;
        }
        let file = self.locks.find_file(lock.path)?;
        matches!(self.entry(file).state, State::Held(_)).then(|| self.locks.get(own_vmid, lock))
    }

    /// Drops all locks of a process, on the files that are here.
    pub fn release_process(&mut self, own_vmid: Vmid, pid: Id) {
        self.locks.release_process(own_vmid, pid);
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
            };
        }
        Decision::Request(number)
    }

    /// What the leader said about a file that it was asked for: it is here from now on, and may have
    /// that many locks; or it is not.
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
                self.held = self.held.saturating_add(1);
                self.peak_held = self.peak_held.max(self.held);
            }
            None => self.remove(file),
        }
    }

    /// The leader wants the file back. What it has back already is on its way.
    pub fn recall(&mut self, number: u64) {
        if let Some(file) = self.find(|entry| entry.number == number) {
            self.mark_recalled(file);
        }
    }

    fn mark_recalled(&mut self, file: u32) {
        if let Some(entry) = self.files.get_mut(file as usize)
            && !entry.is_recalled
        {
            entry.is_recalled = true;
            self.recalled = self.recalled.saturating_add(1);
        }
    }

    /// Whether a file is to go back.
    pub fn has_recalls(&self) -> bool {
        self.recalled > 0
    }

    /// The next file that can go back: its number, and its locks into the list. It stays here until
    /// [`DelegatedFiles::mark_returned`].
    pub fn next_return(&self, list: &mut DelegatedLockList) -> Option<u64> {
        if self.recalled == 0 {
            return None;
        }
        let file = self.find(|entry| entry.is_recalled && entry.state != State::Requested)?;
        self.locks.list_locks(file, list);
        Some(self.entry(file).number)
    }

    /// The file and its locks are the leader's again.
    pub fn mark_returned(&mut self, number: u64) {
        let is_match =
            |entry: &DelegatedFile| entry.number == number && entry.state != State::Requested;
        if let Some(file) = self.find(is_match) {
            self.held = self.held.saturating_sub(1);
            self.remove(file);
        }
    }

    fn remove(&mut self, file: u32) {
        if let Some(entry) = self.files.get_mut(file as usize) {
            self.recalled = self.recalled.saturating_sub(usize::from(entry.is_recalled));
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
            })
    }

    /// The first file that is not free and fits.
    fn find(&self, matches: impl Fn(&DelegatedFile) -> bool) -> Option<u32> {
        let is_match = |entry: &DelegatedFile| entry.state != State::Free && matches(entry);
        u32::try_from(self.files.iter().position(is_match)?).ok()
    }

    /// Files that are here now, and the most ever.
    pub fn usage(&self) -> (usize, usize) {
        (self.held, self.peak_held)
    }
}
