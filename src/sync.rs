//! Atomics: `core`'s, or those of the model checker where threads are to be interleaved.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use flag::AtomicBool;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

#[cfg(not(loom))]
mod flag {
    use core::sync::atomic::{AtomicU8, Ordering};

    /// `core`'s `AtomicBool`, whose `store` and `load`, where they are not inlined, have code for a
    /// panic about an ordering that makes no sense. These are always inlined, and then there is none.
    #[derive(Debug, Default)]
    pub(crate) struct AtomicBool(AtomicU8);

    impl AtomicBool {
        pub(crate) const fn new(value: bool) -> Self {
            AtomicBool(AtomicU8::new(value as u8))
        }

        #[inline(always)]
        #[allow(clippy::inline_always)]
        pub(crate) fn load(&self, order: Ordering) -> bool {
            self.0.load(order) != 0
        }

        #[inline(always)]
        #[allow(clippy::inline_always)]
        pub(crate) fn store(&self, value: bool, order: Ordering) {
            self.0.store(value.into(), order);
        }

        #[inline(always)]
        #[allow(clippy::inline_always)]
        pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
            self.0.swap(value.into(), order) != 0
        }
    }
}
