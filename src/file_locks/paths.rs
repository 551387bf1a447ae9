//! Paths of files, stored in chunks: a short path takes one chunk, and a long path takes several.

use core::cmp::Ordering;

use crate::invariant::Count;
use crate::store::{
    Arena, NONE, SlotAllocator, Steps, Table, bytes_for, copy, entry, image, list_length,
    memory_sum,
};

const CHUNK_LENGTH: usize = 60;

/// The number of chunks for each file.
const CHUNKS_PER_PATH: usize = 4;

#[derive(Clone, Copy)]
struct Chunk {
    bytes: [u8; CHUNK_LENGTH],
    next: u32,
}

/// A fixed number of chunks.
pub(super) struct PathStore<'m> {
    chunks: Table<'m, Chunk>,
    slots: SlotAllocator<'m>,
    steps: Steps,
}

/// A path in the store. [`PathStore::remove`] frees its chunks.
#[derive(Clone, Copy, Hash)]
pub(super) struct StoredPath {
    first: u32,
    length: usize,
}

impl StoredPath {
    pub(super) fn length(self) -> usize {
        self.length
    }

    pub(super) const EMPTY: StoredPath = StoredPath {
        first: NONE,
        length: 0,
    };
}

const EMPTY: Chunk = Chunk {
    bytes: [0; CHUNK_LENGTH],
    next: NONE,
};

entry!(Chunk { bytes, next });
entry!(StoredPath { first, length });

image!(PathStore<'_> {
    tables { chunks: slots.high_water() as usize => EMPTY }
    parts { slots }
    omitted { steps }
});

impl<'m> PathStore<'m> {
    /// Returns the number of chunks for that many files.
    pub(super) const fn chunks_for(files: usize) -> usize {
        files.saturating_mul(CHUNKS_PER_PATH)
    }

    /// Returns the number of chunks that a path of that length takes.
    const fn chunks_of(length: usize) -> usize {
        length.div_ceil(CHUNK_LENGTH)
    }

    /// Returns the number of chunks that a file with that path is charged for: those that its path
    /// takes, and at least those that each file has on average.
    pub(super) fn cost_of(length: usize) -> usize {
        if length <= CHUNKS_PER_PATH * CHUNK_LENGTH {
            return CHUNKS_PER_PATH;
        }
        Self::chunks_of(length)
    }

    /// Returns true if the free chunks can hold the path.
    pub(super) fn has_room(&self, path: &[u8]) -> bool {
        self.slots.remaining() >= Self::chunks_of(path.len())
    }

    pub(super) const fn bytes(chunks: usize) -> usize {
        memory_sum!(bytes_for::<Chunk>(chunks), SlotAllocator::bytes(chunks))
    }

    pub(super) fn new(arena: &mut Arena<'m>, chunks: usize) -> Self {
        PathStore {
            chunks: arena.alloc_filled(chunks, &EMPTY),
            slots: SlotAllocator::new(arena, chunks),
            steps: Steps::default(),
        }
    }

    /// Stores a path. `None` if there are too few free chunks.
    pub(super) fn store(&mut self, path: &[u8]) -> Option<StoredPath> {
        if !self.has_room(path) {
            return None;
        }
        let mut stored = StoredPath {
            first: NONE,
            length: path.len(),
        };
        if (1..=CHUNK_LENGTH).contains(&path.len()) {
            stored.first = self.store_part(path, NONE)?;
            return Some(stored);
        }
        // The loop runs from the last chunk to the first, so that each chunk can be linked to the
        // next.
        for part in path.chunks(CHUNK_LENGTH).rev() {
            stored.first = self.store_part(part, stored.first)?;
        }
        Some(stored)
    }

    #[inline]
    fn store_part(&mut self, part: &[u8], next: u32) -> Option<u32> {
        let slot = self.slots.alloc()?;
        let chunk = self.chunks.get_mut(slot as usize)?;
        copy(&mut chunk.bytes, part);
        chunk.next = next;
        Some(slot)
    }

    pub(super) fn is_valid(&self) -> bool {
        self.slots.is_valid()
    }

    /// Returns true if the path has as many chunks as its length needs, for a path that may be wrong.
    pub(super) fn has_path(&self, path: StoredPath) -> bool {
        let chunks = Self::chunks_of(path.length);
        let next = |slot: u32| Some(self.chunks.get(slot as usize)?.next);
        list_length(path.first, chunks.min(self.chunks.len()), next) == Some(chunks)
    }

    pub(super) fn remove(&mut self, path: StoredPath) {
        let mut at = path.first;
        while let Some(chunk) = self.chunks.get(at as usize) {
            let next = chunk.next;
            self.slots.free(at);
            at = next;
        }
    }

    /// Returns true if the stored path is `path`.
    #[inline]
    pub(super) fn is_path(&self, stored: StoredPath, path: &[u8]) -> bool {
        if path.is_empty() || path.len() > CHUNK_LENGTH || stored.length != path.len() {
            return self.compare(stored, path).is_eq();
        }
        let bytes = self.chunk(stored.first).map(|chunk| &chunk.bytes);
        bytes.and_then(|bytes| bytes.get(..path.len())) == Some(path)
    }

    /// Compares the stored path with `path`: the shorter one is the lower one, and of two of one
    /// length the one with the lower bytes.
    pub(super) fn compare(&self, stored: StoredPath, path: &[u8]) -> Ordering {
        let mut order = stored.length.cmp(&path.len());
        let mut at = stored.first;
        let mut start = 0_usize;
        while order.is_eq()
            && start < path.len()
            && let Some(chunk) = self.chunk(at)
        {
            let end = start.plus(CHUNK_LENGTH).min(path.len());
            let bytes = chunk.bytes.get(..end.minus(start));
            order = bytes.cmp(&path.get(start..end));
            (start, at) = (end, chunk.next);
        }
        order
    }

    /// Compares two stored paths in the same order.
    pub(super) fn compare_stored(&self, one: StoredPath, other: StoredPath) -> Ordering {
        let mut order = one.length.cmp(&other.length);
        let (mut one_at, mut other_at, mut left) = (one.first, other.first, one.length);
        while order.is_eq()
            && left > 0
            && let (Some(part), Some(other_part)) = (self.chunk(one_at), self.chunk(other_at))
        {
            let length = left.min(CHUNK_LENGTH);
            order = part
                .bytes
                .get(..length)
                .cmp(&other_part.bytes.get(..length));
            (one_at, other_at, left) = (part.next, other_part.next, left.minus(length));
        }
        order
    }

    fn chunk(&self, slot: u32) -> Option<&Chunk> {
        self.steps.count();
        self.chunks.get(slot as usize)
    }

    /// Returns the number of chunks that were compared.
    #[cfg(debug_assertions)]
    pub(super) fn steps(&self) -> u64 {
        self.steps.get()
    }
}
