//! Paths of files, stored in chunks: a short path takes one chunk, and a long path takes several.

use crate::error::Error;
use crate::store::{Arena, NONE, SlotAllocator, Table, bytes_for, copy, hash64, total};

const CHUNK_LENGTH: usize = 60;

#[derive(Clone, Copy)]
struct Chunk {
    bytes: [u8; CHUNK_LENGTH],
    next: u32,
}

/// A fixed number of chunks.
pub(super) struct PathStore<'m> {
    chunks: Table<'m, Chunk>,
    slots: SlotAllocator<'m>,
}

/// A path in the store. [`PathStore::remove`] frees its chunks.
#[derive(Clone, Copy, Hash)]
pub(super) struct StoredPath {
    first: u32,
    length: usize,
}

impl StoredPath {
    pub(super) const EMPTY: StoredPath = StoredPath {
        first: NONE,
        length: 0,
    };
}

impl<'m> PathStore<'m> {
    pub(super) const fn bytes(chunks: usize) -> usize {
        total!(bytes_for::<Chunk>(chunks), SlotAllocator::bytes(chunks))
    }

    pub(super) fn new(arena: &mut Arena<'m>, chunks: usize) -> Result<Self, Error> {
        Ok(PathStore {
            chunks: arena.alloc_table(chunks, |_| {
                Ok(Chunk {
                    bytes: [0; CHUNK_LENGTH],
                    next: NONE,
                })
            })?,
            slots: SlotAllocator::new(arena, chunks)?,
        })
    }

    /// Stores a path. `None` if there are too few free chunks.
    pub(super) fn store(&mut self, path: &[u8]) -> Option<StoredPath> {
        if self.slots.remaining() < path.len().div_ceil(CHUNK_LENGTH) {
            return None;
        }
        let mut stored = StoredPath {
            first: NONE,
            length: path.len(),
        };
        // The loop runs from the last chunk to the first, so that each chunk can be linked to the
        // next.
        for part in path.chunks(CHUNK_LENGTH).rev() {
            let slot = self.slots.alloc()?;
            let chunk = self.chunks.get_mut(slot as usize)?;
            copy(&mut chunk.bytes, part);
            chunk.next = stored.first;
            stored.first = slot;
        }
        Some(stored)
    }

    pub(super) fn remove(&mut self, path: StoredPath) {
        let mut at = path.first;
        while let Some(chunk) = self.chunks.get(at as usize) {
            let next = chunk.next;
            self.slots.free(at);
            at = next;
        }
    }

    /// Whether the stored path equals `path`.
    pub(super) fn matches(&self, stored: StoredPath, path: &[u8]) -> bool {
        if stored.length != path.len() {
            return false;
        }
        let mut at = stored.first;
        for part in path.chunks(CHUNK_LENGTH) {
            let Some(chunk) = self.chunks.get(at as usize) else {
                return false;
            };
            if chunk.bytes.get(..part.len()) != Some(part) {
                return false;
            }
            at = chunk.next;
        }
        true
    }
}

/// The hash of a path. Callers compute it once for each request.
pub(crate) fn hash_path(path: &[u8]) -> u64 {
    let (words, rest) = path.as_chunks::<8>();
    let mut hash = path.len() as u64;
    for word in words {
        hash = hash64(hash ^ u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    hash64(hash ^ u64::from_le_bytes(last))
}
