//! Counts how many entries of a table an operation visits, so that tests can assert its bound.

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
    #[cfg_attr(
        not(debug_assertions),
        expect(clippy::unused_self, reason = "it counts in debug builds")
    )]
    pub(crate) fn count(&self) {
        #[cfg(debug_assertions)]
        self.count.set(self.count.get().wrapping_add(1));
    }

    #[cfg(debug_assertions)]
    pub(crate) fn get(&self) -> u64 {
        self.count.get()
    }
}
