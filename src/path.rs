//! Paths of files: their hashes, and the check of their bytes.

use crate::store::hash64;

/// An odd number with well mixed bits: the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the hash of a path. Callers compute it once for each request.
pub(crate) fn hash_path(path: &[u8]) -> u64 {
    scan_path(path).0
}

/// Returns true if a path has a NUL.
pub(crate) fn has_nul(path: &[u8]) -> bool {
    scan_path(path).1
}

/// Returns the hash of a path, and whether it has a NUL: both look at eight bytes at a time, because they are on the
/// way of each lock.
#[cfg_attr(not(static_library), inline)]
pub(crate) fn scan_path(path: &[u8]) -> (u64, bool) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
    // Has a high bit if a byte is zero.
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word & HIGH_BITS;
    let (words, rest) = path.as_chunks::<8>();
    let mut hash = path.len() as u64;
    let mut zeros = 0;
    // One multiplication for each word, and all bits are mixed at the end: a good hash of each word
    // would take most of the time of an uncontended lock. Peers can make collisions in any case.
    for word in words {
        let word = u64::from_le_bytes(*word);
        zeros |= zero_bytes(word);
        hash = (hash.rotate_left(5) ^ word).wrapping_mul(MULTIPLIER);
    }
    // `last_chunk` of `core` contains a panic.
    let tail = path.len().checked_sub(8).and_then(|at| path.get(at..));
    let last = match tail.and_then(<[u8]>::first_chunk) {
        _ if rest.is_empty() => 0,
        // The last word overlaps the word before: one read takes less time than one for each byte.
        Some(last) => {
            let last = u64::from_le_bytes(*last);
            zeros |= zero_bytes(last);
            last
        }
        None => {
            let mut last = [0; 8];
            for (to, from) in last.iter_mut().zip(rest) {
                zeros |= u64::from(*from == 0);
                *to = *from;
            }
            u64::from_le_bytes(last)
        }
    };
    (hash64(hash.rotate_left(5) ^ last), zeros != 0)
}
