//! The spinlock of a node's tables.
//!
//! Each lock has a [`Rank`](super::rank::Rank), which debug builds check. A lock is never held during
//! I/O, unless it is a *token*: a lock that is only tried.

#[cfg(not(loom))]
mod imp {
    use super::super::once::Once;
    use super::super::rank::{Held, Rank, assert_in_order};
    use core::ops::{Deref, DerefMut};
    use spin::mutex::{SpinMutex, SpinMutexGuard};

    /// The number of attempts before the contention hook is called.
    const TRIES: u32 = 64;

    static CONTENTION_HOOK: Once<fn()> = Once::new();

    /// Sets the function that yields the processor to another thread. It is called when a spinlock
    /// is not free soon, and from time to time by a thread that uses a contended sync handle.
    /// Without it (and without the `std` feature) the lock only spins. Only the first call has an
    /// effect.
    pub fn set_contention_hook(hook: fn()) {
        CONTENTION_HOOK.set(hook);
    }

    /// Yields the processor to another thread, if the platform can.
    pub(crate) fn yield_processor() {
        if let Some(hook) = CONTENTION_HOOK.get() {
            hook();
        } else {
            #[cfg(feature = "std")]
            std::thread::yield_now();
        }
    }

    /// A spinlock that calls the contention hook when it is not free soon.
    #[derive(Debug)]
    pub(crate) struct SpinLock<T> {
        rank: Rank,
        value: SpinMutex<T>,
    }

    /// Holds the lock as long as it lives.
    pub(crate) struct SpinLockGuard<'a, T> {
        value: SpinMutexGuard<'a, T>,
        _held: Held,
    }

    impl<T> SpinLock<T> {
        pub(crate) const fn new(rank: Rank, value: T) -> Self {
            SpinLock {
                rank,
                value: SpinMutex::new(value),
            }
        }

        /// Acquires the lock. It spins until the lock is free.
        #[inline]
        pub(crate) fn lock(&self) -> SpinLockGuard<'_, T> {
            assert_in_order(self.rank);
            match self.try_lock() {
                Some(guard) => guard,
                None => self.lock_contended(),
            }
        }

        #[cold]
        fn lock_contended(&self) -> SpinLockGuard<'_, T> {
            loop {
                for _ in 0..TRIES {
                    if let Some(guard) = self.try_lock() {
                        return guard;
                    }
                    core::hint::spin_loop();
                }
                yield_processor();
            }
        }

        /// Acquires the lock if it is free.
        #[inline]
        pub(crate) fn try_lock(&self) -> Option<SpinLockGuard<'_, T>> {
            let value = self.value.try_lock()?;
            Some(SpinLockGuard {
                value,
                _held: Held::new(self.rank),
            })
        }
    }

    impl<T> Deref for SpinLockGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            &self.value
        }
    }

    impl<T> DerefMut for SpinLockGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.value
        }
    }
}

#[cfg(loom)]
mod imp {
    //! The same for the model checker.
    use super::super::rank::Rank;
    use loom::sync::{Mutex, MutexGuard};

    /// The model checker yields by itself.
    pub fn set_contention_hook(_hook: fn()) {}

    pub(crate) fn yield_processor() {}

    #[derive(Debug, Default)]
    pub(crate) struct SpinLock<T>(Mutex<T>);

    pub(crate) type SpinLockGuard<'a, T> = MutexGuard<'a, T>;

    impl<T> SpinLock<T> {
        pub(crate) fn new(_: Rank, value: T) -> Self {
            SpinLock(Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> SpinLockGuard<'_, T> {
            self.0.lock().unwrap()
        }

        pub(crate) fn try_lock(&self) -> Option<SpinLockGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }
}

pub use imp::set_contention_hook;
pub(crate) use imp::{SpinLock, SpinLockGuard, yield_processor};
