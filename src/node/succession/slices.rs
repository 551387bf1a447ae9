//! How far the leader's state was sent to a new heir.

use crate::leader::ImageCursor;
use crate::store::{Arena, Buffer, Table, bytes_for, total};

/// The length of a slice of the state in bytes.
pub(super) const SLICE: usize = 4096;

/// How far the state was sent.
pub(super) struct Filling<'m> {
    /// Those of the slices that were sent.
    pub(super) checksums: Table<'m, u64>,
    pub(super) slice: Buffer<'m>,
    pub(super) cursor: ImageCursor,
    pub(super) round: usize,
    /// The slices of this round that have changed.
    pub(super) changed: usize,
}

impl<'m> Filling<'m> {
    /// Returns the slices whose checksums are remembered: more than there are of tables of that
    /// length.
    const fn slices(tables: usize) -> usize {
        total!(tables / (SLICE / 2), 1)
    }

    pub(super) const fn bytes(tables: usize) -> usize {
        total!(bytes_for::<u64>(Filling::slices(tables)), SLICE)
    }

    pub(super) fn new(arena: &mut Arena<'m>, tables: usize) -> Self {
        Filling {
            checksums: arena.alloc_filled(Filling::slices(tables), &0),
            slice: arena.alloc_buffer(SLICE),
            cursor: ImageCursor::default(),
            round: 0,
            changed: 0,
        }
    }

    pub(super) fn begin(&mut self) {
        for checksum in self.checksums.iter_mut() {
            *checksum = 0;
        }
        self.round = 0;
        self.begin_round();
    }

    pub(super) fn begin_round(&mut self) {
        self.cursor = ImageCursor::default();
        self.changed = 0;
    }
}
