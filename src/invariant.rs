//! Reports a broken invariant: a state that only an error in this crate can cause, never a peer.
//!
//! With debug assertions it is a panic. Without them the process goes on, because a panic would end the
//! whole library OS: the invariant is counted ([`Statistics::broken_invariants`]), and the worker logs the
//! place of the first one. The code that found it takes a way that harms no memory: it leaves a number as
//! it is, or it takes an empty slice.
//!
//! A message of a peer must be checked and refused instead, so that it never gets here.
//!
//! [`Statistics::broken_invariants`]: crate::Statistics::broken_invariants

use core::sync::atomic::{AtomicBool, Ordering};

use crate::log::log_event;
use crate::sync::UncheckedAtomicU64;

// One counter for all nodes of the process: the tables and state machines that find a broken invariant do
// not know their node, and after an error in the code no node of the process can be trusted.
static COUNT: UncheckedAtomicU64 = UncheckedAtomicU64::new(0);
static IS_LOGGED: AtomicBool = AtomicBool::new(false);

/// Reports a broken invariant at the place of the caller.
#[cold]
#[inline(never)]
#[cfg_attr(not(static_library), track_caller)]
pub(crate) fn broken() {
    #[cfg(debug_assertions)]
    #[allow(clippy::panic)]
    {
        panic!("a broken invariant");
    }
    #[cfg(not(debug_assertions))]
    {
        first::set();
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

/// The place of the first broken invariant.
#[cfg(not(static_library))]
mod first {
    use core::fmt;
    use core::panic::Location;

    use crate::store::Once;

    static FIRST: Once<&'static Location<'static>> = Once::new();

    #[cfg(not(debug_assertions))]
    #[track_caller]
    pub(super) fn set() {
        FIRST.set(Location::caller());
    }

    pub(super) fn get() -> FirstBroken {
        FirstBroken
    }

    pub(super) struct FirstBroken;

    impl fmt::Display for FirstBroken {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            FIRST.get().map_or(Ok(()), |place| place.fmt(f))
        }
    }
}

/// The static library has no room for the names of places.
#[cfg(static_library)]
mod first {
    #[cfg(not(debug_assertions))]
    pub(super) fn set() {}

    pub(super) fn get() -> crate::log::Text<'static> {
        crate::log::Text("a place that debug builds name")
    }
}

/// Returns how many broken invariants were found in this process.
pub(crate) fn broken_count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Logs the place of the first broken invariant, once. The caller holds no lock, because a logger is code
/// of the embedder.
#[inline]
pub(crate) fn log_broken() {
    if broken_count() != 0 {
        log_first();
    }
}

#[cold]
#[inline(never)]
fn log_first() {
    if !IS_LOGGED.swap(true, Ordering::Relaxed) {
        log_event!(
            error,
            "broken invariant at {}: a defect of libos-ipc",
            first::get()
        );
    }
}

/// A number that fits if the code is right: a count of things in memory, or a place among them.
pub(crate) trait Count: Copy {
    /// Adds one. Only debug builds check that it fits, because no count comes that far: there is not so
    /// much memory for things, nor time for 2⁶⁴ events.
    fn increment(&mut self);
    /// Subtracts one. From zero it is a broken invariant, and the number stays zero.
    fn decrement(&mut self);
    /// Returns the sum. Where it does not fit, it is a broken invariant and the highest number.
    #[must_use]
    fn plus(self, other: Self) -> Self;
    /// Returns the difference. Where it is negative, it is a broken invariant and zero.
    #[must_use]
    fn minus(self, other: Self) -> Self;
}

macro_rules! count {
    ($($number:ty),*) => {$(
        impl Count for $number {
            #[inline]
            #[cfg_attr(not(static_library), track_caller)]
            fn increment(&mut self) {
                debug_assert!(self.checked_add(1).is_some(), "a count is at its end");
                *self = self.wrapping_add(1);
            }

            #[inline]
            #[cfg_attr(not(static_library), track_caller)]
            fn decrement(&mut self) {
                *self = self.minus(1);
            }

            #[inline]
            #[cfg_attr(not(static_library), track_caller)]
            fn plus(self, other: Self) -> Self {
                self.checked_add(other).or_broken(Self::MAX)
            }

            #[inline]
            #[cfg_attr(not(static_library), track_caller)]
            fn minus(self, other: Self) -> Self {
                self.checked_sub(other).or_broken(0)
            }
        }
    )*};
}

count!(u8, u32, u64, usize);

/// A value that is there if the code is right.
pub(crate) trait OrBroken<T> {
    /// Returns the value. If there is none, it is a broken invariant and `harmless`.
    fn or_broken(self, harmless: T) -> T;
}

impl<T, E> OrBroken<T> for Result<T, E> {
    #[inline]
    #[cfg_attr(not(static_library), track_caller)]
    fn or_broken(self, harmless: T) -> T {
        self.ok().or_broken(harmless)
    }
}

impl<T> OrBroken<T> for Option<T> {
    #[inline]
    #[cfg_attr(not(static_library), track_caller)]
    fn or_broken(self, harmless: T) -> T {
        if let Some(value) = self {
            return value;
        }
        broken();
        harmless
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
