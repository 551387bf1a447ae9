//! Counts the entries of a table that an operation visits, so that tests can assert the bound of the operation.

#[cfg(debug_assertions)]
use core::cell::Cell;

/// The number of table entries that were visited. It counts in builds with debug assertions only.
#[derive(Default)]
pub(crate) struct Steps {
    #[cfg(debug_assertions)]
    count: Cell<u64>,
}

impl Steps {
    #[inline]
    pub(crate) fn count(&self) {
        self.count_many(1);
    }

    /// Counts several entries at once.
    #[inline]
    #[cfg_attr(
        not(debug_assertions),
        expect(clippy::unused_self, reason = "it counts in debug builds")
    )]
    pub(crate) fn count_many(&self, entries: usize) {
        #[cfg(debug_assertions)]
        self.count
            .set(self.count.get().wrapping_add(entries as u64));
        #[cfg(not(debug_assertions))]
        let _ = entries;
    }

    #[cfg(debug_assertions)]
    pub(crate) fn get(&self) -> u64 {
        self.count.get()
    }
}
