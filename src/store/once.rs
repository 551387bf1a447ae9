//! A value that is set once.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, Ordering};

const EMPTY: u8 = 0;
/// One caller is initialising the value.
const BUSY: u8 = 1;
const READY: u8 = 2;

/// A value for a `static`. The first caller initialises it, and it is never dropped. No call waits:
/// a second caller is refused while the first one initialises.
#[derive(Debug)]
pub(crate) struct Once<T> {
    state: AtomicU8,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: one thread writes the value, and then all threads read it by shared reference only.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    pub(crate) const fn new() -> Self {
        Once {
            state: AtomicU8::new(EMPTY),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Returns the value, once it is initialised.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        if self.state.load(Ordering::Acquire) != READY {
            return None;
        }
        // SAFETY: `READY` is stored after the value was written, and the value is never written
        // again.
        Some(unsafe { (*self.value.get()).assume_init_ref() })
    }

    /// Initialises the value in place; `None` if it is initialised or another caller is
    /// initialising it. After an error the next caller may try. `make` returns the value that it
    /// has written to its argument, so that a large value is never moved through the stack.
    pub(crate) fn try_init<E>(
        &self,
        make: impl for<'a> FnOnce(&'a mut MaybeUninit<T>) -> Result<&'a mut T, E>,
    ) -> Option<Result<&T, E>> {
        let (old, new) = (Ordering::Acquire, Ordering::Relaxed);
        let begun = self.state.compare_exchange(EMPTY, BUSY, old, new);
        begun.ok()?;
        // SAFETY: `state` went from `EMPTY` to `BUSY` for this caller alone, and others touch the
        // value only once it is `READY`.
        let slot = unsafe { &mut *self.value.get() };
        let here = slot.as_ptr();
        let outcome = make(slot).map(|value| &*value);
        let is_here = matches!(&outcome, Ok(value) if core::ptr::eq(*value, here));
        let state = if is_here { READY } else { EMPTY };
        self.state.store(state, Ordering::Release);
        Some(outcome)
    }

    /// Sets the value. Returns false if it was set before, or another caller is initialising it.
    pub(crate) fn set(&self, value: T) -> bool {
        self.try_init(|slot| Ok::<_, ()>(slot.write(value)))
            .is_some()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn one_of_many_concurrent_initialisers_runs() {
        for _ in 0..200 {
            let once = Once::new();
            let start = Barrier::new(4);
            let made = thread::scope(|scope| {
                let makers = [1, 2, 3, 4].map(|number| {
                    let (once, start) = (&once, &start);
                    scope.spawn(move || {
                        start.wait();
                        once.try_init(|slot| Ok::<_, ()>(slot.write(number)))
                            .is_some()
                    })
                });
                makers.map(|maker| maker.join().unwrap())
            });
            assert_eq!(made.iter().filter(|made| **made).count(), 1);
            let at = once.get().copied().unwrap_or(0);
            assert_eq!(made.get(at - 1), Some(&true));
        }
    }

    #[test]
    fn a_failed_initialisation_can_be_repeated_and_a_value_stays() {
        let once = Once::new();
        assert_eq!(once.try_init(|_| Err::<&mut u8, _>("no")), Some(Err("no")));
        assert_eq!(once.get(), None);
        let inner = once.try_init(|slot| Ok::<_, ()>(slot.write(if once.set(1) { 2 } else { 3 })));
        assert_eq!(inner, Some(Ok(&3)), "refused while another is at it");
        assert!(!once.set(4));
        assert_eq!(once.get(), Some(&3));
    }
}
