//! The spinlock all tables of a node stand behind.
//!
//! Order, never the other way: leader tables, borrowed files or the server of sync handles →
//! directory of handles → a handle → peer table → one peer's reading or sending token → its send
//! queue; waiters, children and own IDs are taken with nothing else held but a token.
//! A *token* (a lock that is only ever tried) may be held over I/O; a lock that is waited for never is.

#[cfg(not(loom))]
mod imp {
    use super::super::once::Once;
    use core::ops::{Deref, DerefMut};
    use spin::mutex::{SpinMutex, SpinMutexGuard};

    /// How often a lock is tried before the contention hook is asked to give way.
    const TRIES: u32 = 64;

    static CONTENTION_HOOK: Once<fn()> = Once::new();

    /// Names the function that gives the processor to another thread. It is called when a spinlock
    /// doesn't come free soon, and now and then by who uses a sync handle that others want all the time; without one (and without the `std` feature) the lock just spins on.
    /// The first call counts.
    pub fn set_contention_hook(hook: fn()) {
        CONTENTION_HOOK.set(hook);
    }

    /// Gives the processor to another thread, if the platform can.
    pub(crate) fn yield_processor() {
        if let Some(hook) = CONTENTION_HOOK.get() {
            hook();
        } else {
            #[cfg(feature = "std")]
            std::thread::yield_now();
        }
    }

    /// A spinlock that asks the platform to give way when it doesn't come free soon.
    #[derive(Debug, Default)]
    pub(crate) struct SpinLock<T>(SpinMutex<T>);

    /// Held as long as it lives.
    pub(crate) struct SpinLockGuard<'a, T>(SpinMutexGuard<'a, T>);

    impl<T> SpinLock<T> {
        pub(crate) const fn new(value: T) -> Self {
            SpinLock(SpinMutex::new(value))
        }

        /// Waits for the lock.
        #[inline]
        pub(crate) fn lock(&self) -> SpinLockGuard<'_, T> {
            match self.0.try_lock() {
                Some(guard) => SpinLockGuard(guard),
                None => self.lock_contended(),
            }
        }

        #[cold]
        fn lock_contended(&self) -> SpinLockGuard<'_, T> {
            loop {
                for _ in 0..TRIES {
                    if let Some(guard) = self.0.try_lock() {
                        return SpinLockGuard(guard);
                    }
                    core::hint::spin_loop();
                }
                yield_processor();
            }
        }

        /// Takes the lock if nobody has it.
        pub(crate) fn try_lock(&self) -> Option<SpinLockGuard<'_, T>> {
            self.0.try_lock().map(SpinLockGuard)
        }
    }

    impl<T> Deref for SpinLockGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            &self.0
        }
    }

    impl<T> DerefMut for SpinLockGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.0
        }
    }
}

#[cfg(loom)]
mod imp {
    //! The same under the model checker.
    use loom::sync::{Mutex, MutexGuard};

    /// The model checker gives way by itself.
    pub fn set_contention_hook(_hook: fn()) {}

    pub(crate) fn yield_processor() {}

    #[derive(Debug, Default)]
    pub(crate) struct SpinLock<T>(Mutex<T>);

    pub(crate) type SpinLockGuard<'a, T> = MutexGuard<'a, T>;

    impl<T> SpinLock<T> {
        pub(crate) fn new(value: T) -> Self {
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
