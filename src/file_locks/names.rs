//! Names of files, in pieces, so that short ones take little and long ones fit.

use crate::error::Error;
use crate::store::{Arena, NONE, SlotAllocator, Table, bytes_for, copy, hash64};

const PIECE: usize = 60;

#[derive(Clone, Copy)]
struct Piece {
    bytes: [u8; PIECE],
    next: u32,
}

/// A fixed number of pieces.
pub(super) struct Names<'m> {
    pieces: Table<'m, Piece>,
    places: SlotAllocator<'m>,
}

/// A name that is kept: give it back with [`Names::forget`].
#[derive(Clone, Copy)]
pub(super) struct Name {
    first: u32,
    length: usize,
}

impl Name {
    pub(super) const EMPTY: Name = Name {
        first: NONE,
        length: 0,
    };
}

impl<'m> Names<'m> {
    pub(super) const fn bytes(pieces: usize) -> usize {
        bytes_for::<Piece>(pieces).saturating_add(SlotAllocator::bytes(pieces))
    }

    pub(super) fn new(arena: &mut Arena<'m>, pieces: usize) -> Result<Self, Error> {
        Ok(Names {
            pieces: arena.alloc_table(pieces, |_| {
                Ok(Piece {
                    bytes: [0; PIECE],
                    next: NONE,
                })
            })?,
            places: SlotAllocator::new(arena, pieces)?,
        })
    }

    /// Keeps a name; `None` if there is no room.
    pub(super) fn keep(&mut self, name: &[u8]) -> Option<Name> {
        if self.places.remaining() < name.len().div_ceil(PIECE) {
            return None;
        }
        let mut kept = Name {
            first: NONE,
            length: name.len(),
        };
        // From the last to the first, so that each knows the next.
        for part in name.chunks(PIECE).rev() {
            let place = self.places.alloc()?;
            let piece = self.pieces.get_mut(place as usize)?;
            copy(&mut piece.bytes, part);
            piece.next = kept.first;
            kept.first = place;
        }
        Some(kept)
    }

    pub(super) fn forget(&mut self, name: Name) {
        let mut at = name.first;
        while let Some(piece) = self.pieces.get(at as usize) {
            let next = piece.next;
            self.places.free(at);
            at = next;
        }
    }

    /// Whether the kept name is this one.
    pub(super) fn is(&self, kept: Name, name: &[u8]) -> bool {
        if kept.length != name.len() {
            return false;
        }
        let mut at = kept.first;
        for part in name.chunks(PIECE) {
            let Some(piece) = self.pieces.get(at as usize) else {
                return false;
            };
            if piece.bytes.get(..part.len()) != Some(part) {
                return false;
            }
            at = piece.next;
        }
        true
    }
}

/// A hash of a file's name, which is computed once for a request.
pub(crate) fn hash(name: &[u8]) -> u64 {
    let (words, rest) = name.as_chunks::<8>();
    let mut hash = name.len() as u64;
    for word in words {
        hash = hash64(hash ^ u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    hash64(hash ^ u64::from_le_bytes(last))
}
