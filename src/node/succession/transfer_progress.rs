//! The progress of a state transfer to a new heir.

use crate::leader::ImageCursor;
use crate::store::{Arena, Buffer, Table, bytes_for, total};

/// The length of a slice of the state in bytes.
pub(super) const SLICE: usize = 4096;

/// The progress of a state transfer.
pub(super) struct TransferProgress<'m> {
    /// The checksums of the slices as they were sent; 0 for a slice that was not.
    pub(super) checksums: Table<'m, u64>,
    pub(super) slice: Buffer<'m>,
    pub(super) cursor: ImageCursor,
    pub(super) round: usize,
    /// The number of slices that were sent in this round, because they had changed.
    pub(super) changed: usize,
}

impl<'m> TransferProgress<'m> {
    /// Returns the slices whose checksums are remembered: more than there are of tables of that
    /// length.
    const fn slices(tables: usize) -> usize {
        total!(tables / (SLICE / 2), 1)
    }

    pub(super) const fn bytes(tables: usize) -> usize {
        total!(bytes_for::<u64>(TransferProgress::slices(tables)), SLICE)
    }

    pub(super) fn new(arena: &mut Arena<'m>, tables: usize) -> Self {
        TransferProgress {
            checksums: arena.alloc_filled(TransferProgress::slices(tables), &0),
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
