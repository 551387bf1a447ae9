//! Atomics: those of `core`, or those of the model checker in its tests.
//!
//! A processor without atomic operations on 64 bits gets them from `portable-atomic`, which then takes a lock for
//! each. With `--cfg no_atomic64` any processor does, so that a host can test a build of that kind.

// The model checker does not see this one: it is for counters, whose order with other memory does not matter.
#[cfg(not(any(no_atomic64, not(target_has_atomic = "64"))))]
pub(crate) use core::sync::atomic::AtomicU64 as UncheckedAtomicU64;
#[cfg(any(no_atomic64, not(target_has_atomic = "64")))]
pub(crate) use portable_atomic::AtomicU64 as UncheckedAtomicU64;

#[cfg(not(loom))]
pub(crate) use self::UncheckedAtomicU64 as AtomicU64;
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use flag::AtomicBool;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(not(loom))]
mod flag {
    use core::sync::atomic::{AtomicU8, Ordering};

    /// A replacement of `core`'s `AtomicBool`, whose `store` and `load`, if they are not inlined,
    /// have code that panics for an invalid ordering. These are always inlined, so that code
    /// vanishes.
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
