//! Files whose record locks the leader has lent to this member, which decides on them itself.
//!
//! A pure state machine over a table of locks of its own. Nobody waits in it: what would have to is
//! for the leader, and the file goes back to it first.

use crate::Id;
use crate::Vmid;
use crate::error::{Error, errno};
use crate::file_locks::{LockLimits, Locks, hash_path};
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
    Asked,
    /// It is here, and may have that many locks.
    Here(usize),
}

#[derive(Clone, Copy)]
struct Loan {
    state: State,
    /// What this member and the leader call it; never used twice.
    number: u64,
    /// It is to go back.
    is_recalled: bool,
}

/// Files that were borrowed, or are asked for.
pub struct Borrowed<'m> {
    locks: Locks<'m>,
    /// By the place of the file in the table.
    loans: Table<'m, Loan>,
    next_number: u64,
    /// How many are to go back.
    recalled: usize,
    here: usize,
    most_here: usize,
}

/// What is to be done about a request for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is done, or refused with that error number.
    Done(Result<(), i32>),
    /// The leader is to be asked. The file may have to go back to it first.
    Ask,
    /// The leader is to be asked for the file, as what goes by that number; then again here.
    Borrow(u64),
}

const fn limits(files: usize) -> LockLimits {
    LockLimits {
        locks: files.saturating_mul(LOCKS_PER_FILE),
        files,
        waiting: 0,
        handles: 0,
    }
}

impl<'m> Borrowed<'m> {
    /// The memory it takes to borrow that many files at once.
    pub const fn bytes(files: usize) -> usize {
        Locks::bytes(&limits(files)).saturating_add(bytes_for::<Loan>(files))
    }

    /// With room for that many files, cut from `arena`.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn new(arena: &mut Arena<'m>, files: usize) -> Result<Self, Error> {
        Ok(Borrowed {
            locks: Locks::new(arena, &limits(files))?,
            loans: arena.alloc_table(files, |_| {
                Ok(Loan {
                    state: State::Free,
                    number: 0,
                    is_recalled: false,
                })
            })?,
            next_number: 1,
            recalled: 0,
            here: 0,
            most_here: 0,
        })
    }

    /// Sets, changes or drops a lock of one of this member's processes, if that can be done here.
    pub fn set(&mut self, us: Vmid, lock: &FileLock<'_>) -> Decision {
        if lock.family != LockFamily::Posix || self.loans.is_empty() {
            return Decision::Ask;
        }
        let hash = hash_path(lock.path);
        let Some(file) = self.locks.file_hashed(lock.path, hash) else {
            if lock.kind == LockKind::Unlock {
                return Decision::Ask;
            }
            return self.ask_for(lock.path);
        };
        let State::Here(most) = self.loan(file).state else {
            return Decision::Ask;
        };
        // One more may become of one, and one more be left over.
        let is_room = self.locks.count(file).saturating_add(2) <= most;
        let now = FileLock {
            wait: false,
            ..*lock
        };
        let done = is_room.then(|| self.locks.set_at_once(us, &now, hash));
        match done {
            Some(Ok(true)) => return Decision::Done(Ok(())),
            Some(Err(errno::EAGAIN)) if lock.wait => {}
            Some(Err(errno)) if errno != errno::ENOLCK => return Decision::Done(Err(errno)),
            _ => {}
        }
        self.want_back(file);
        Decision::Ask
    }

    /// The lock that is in the way, as [`Locks::get`] has it, if the file is here.
    pub fn get(&self, us: Vmid, lock: &FileLock<'_>) -> Option<Result<Option<HeldLock>, i32>> {
        if lock.family != LockFamily::Posix {
            return None;
        }
        let file = self.locks.file(lock.path)?;
        matches!(self.loan(file).state, State::Here(_)).then(|| self.locks.get(us, lock))
    }

    /// Drops all locks of a process, on the files that are here.
    pub fn clear_pid(&mut self, us: Vmid, pid: Id) {
        self.locks.clear_pid(us, pid);
    }

    fn ask_for(&mut self, path: &[u8]) -> Decision {
        let Some(file) = self.locks.keep_file(path) else {
            return Decision::Ask;
        };
        let number = self.next_number;
        self.next_number = number.wrapping_add(1).max(1);
        if let Some(loan) = self.loans.get_mut(file as usize) {
            *loan = Loan {
                state: State::Asked,
                number,
                is_recalled: false,
            };
        }
        Decision::Borrow(number)
    }

    /// What the leader said about a file that it was asked for: it is here from now on, and may have
    /// that many locks; or it is not.
    pub fn answered(&mut self, number: u64, lent: Option<usize>) {
        let is_it = |loan: &Loan| loan.number == number && loan.state == State::Asked;
        let Some(file) = self.place_of(is_it) else {
            return;
        };
        match lent {
            Some(most) => {
                if let Some(loan) = self.loans.get_mut(file as usize) {
                    loan.state = State::Here(most);
                }
                self.here = self.here.saturating_add(1);
                self.most_here = self.most_here.max(self.here);
            }
            None => self.let_go(file),
        }
    }

    /// The leader wants the file back. What it has back already is on its way.
    pub fn recall(&mut self, number: u64) {
        if let Some(file) = self.place_of(|loan| loan.number == number) {
            self.want_back(file);
        }
    }

    fn want_back(&mut self, file: u32) {
        if let Some(loan) = self.loans.get_mut(file as usize)
            && !loan.is_recalled
        {
            loan.is_recalled = true;
            self.recalled = self.recalled.saturating_add(1);
        }
    }

    /// Whether a file is to go back.
    pub fn has_recalled(&self) -> bool {
        self.recalled > 0
    }

    /// The next file that can go back: its number, and its locks into the list. It stays here until
    /// [`Borrowed::went_back`].
    pub fn next_to_return(&self, list: &mut DelegatedLockList) -> Option<u64> {
        if self.recalled == 0 {
            return None;
        }
        let file = self.place_of(|loan| loan.is_recalled && loan.state != State::Asked)?;
        self.locks.list(file, list);
        Some(self.loan(file).number)
    }

    /// The file and its locks are the leader's again.
    pub fn went_back(&mut self, number: u64) {
        let is_it = |loan: &Loan| loan.number == number && loan.state != State::Asked;
        if let Some(file) = self.place_of(is_it) {
            self.here = self.here.saturating_sub(1);
            self.let_go(file);
        }
    }

    fn let_go(&mut self, file: u32) {
        if let Some(loan) = self.loans.get_mut(file as usize) {
            self.recalled = self.recalled.saturating_sub(usize::from(loan.is_recalled));
            loan.state = State::Free;
            loan.is_recalled = false;
        }
        self.locks.let_go_of(file);
    }

    fn loan(&self, file: u32) -> Loan {
        self.loans.get(file as usize).copied().unwrap_or(Loan {
            state: State::Free,
            number: 0,
            is_recalled: false,
        })
    }

    /// The first file that is not free and fits.
    fn place_of(&self, fits: impl Fn(&Loan) -> bool) -> Option<u32> {
        let is_it = |loan: &Loan| loan.state != State::Free && fits(loan);
        u32::try_from(self.loans.iter().position(is_it)?).ok()
    }

    /// Files that are here now, and the most ever.
    pub fn fill(&self) -> (usize, usize) {
        (self.here, self.most_here)
    }
}
