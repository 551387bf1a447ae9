//! The set of files and open files that this process has ever locked.

use crate::path::hash_path;
use crate::sync::{AtomicU64, Ordering};
use crate::wire::{FileLock, LockFamily};

/// The model checker has little room on its stacks.
const WORDS: usize = if cfg!(loom) { 1 } else { 32 };

/// An approximate set (a Bloom filter with one hash): it may contain an element that was never
/// added, but never lacks one that was. So a close that needs no message seldom sends one.
pub(crate) struct UsedLocks([AtomicU64; WORDS]);

impl UsedLocks {
    pub(in crate::node) fn new() -> UsedLocks {
        UsedLocks(core::array::from_fn(|_| AtomicU64::new(0)))
    }

    pub(in crate::node) fn note(&self, lock: &FileLock<'_>) {
        self.note_hashed(lock, hash_path(lock.path));
    }

    /// Like `note`, for a caller that has the hash of the path.
    #[cfg_attr(not(static_library), inline)]
    pub(in crate::node) fn note_hashed(&self, lock: &FileLock<'_>, hash: u64) {
        match lock.family {
            LockFamily::Posix => self.put(hash),
            LockFamily::Flock | LockFamily::Ofd => self.record_open_file(lock.handle),
        }
    }

    pub(in crate::node) fn record_open_file(&self, open_file: u64) {
        self.put(hash_of_open_file(open_file));
    }

    /// Returns true if the process may have locked the file.
    pub(in crate::node) fn may_have_file(&self, path: &[u8]) -> bool {
        self.has(hash_path(path))
    }

    /// Returns true if the process may have locked the open file.
    pub(in crate::node) fn may_have_open_file(&self, open_file: u64) -> bool {
        self.has(hash_of_open_file(open_file))
    }

    /// Returns true if the process has locked anything.
    pub(in crate::node) fn any(&self) -> bool {
        self.0.iter().any(|word| word.load(Ordering::Relaxed) != 0)
    }

    #[cfg_attr(not(static_library), inline)]
    fn put(&self, hash: u64) {
        if let Some((word, bit)) = self.place(hash)
            && word.load(Ordering::Relaxed) & bit == 0
        {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    fn has(&self, hash: u64) -> bool {
        self.place(hash)
            .is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    fn place(&self, hash: u64) -> Option<(&AtomicU64, u64)> {
        let word = usize::try_from(hash >> 6).ok()?.checked_rem(WORDS)?;
        Some((self.0.get(word)?, 1 << (hash & 63)))
    }
}

fn hash_of_open_file(open_file: u64) -> u64 {
    // This is a step of FNV-1a.
    let hash = (open_file ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0x0100_0000_01b3);
    hash ^ (hash >> 32)
}
