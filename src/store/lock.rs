//! The spinlock of a node's tables.
//!
//! Each lock has a [`Rank`](super::rank::Rank), which debug builds check. A lock is never held during
//! I/O, unless it is a *token*: a lock that is only tried.

/// The contention hook of a platform: [`Pal::contended`](crate::pal::Pal::contended) as a function. The
/// argument is the number of its earlier calls by the thread that waits.
pub(crate) type Contended = fn(u32);

/// The number of attempts before each call of the contention hook.
const TRIES: u32 = 64;

/// Calls `try_lock` until it returns a guard, and `contended` after every [`TRIES`] attempts.
pub(crate) fn acquire<G>(contended: Contended, try_lock: impl Fn() -> Option<G>) -> G {
    let mut attempts = 0_u32;
    loop {
        for _ in 0..TRIES {
            if let Some(guard) = try_lock() {
                return guard;
            }
            core::hint::spin_loop();
        }
        contended(attempts);
        attempts = attempts.wrapping_add(1);
    }
}

#[cfg(not(loom))]
mod imp {
    use super::super::rank::{Held, Rank, assert_in_order};
    use super::{Contended, acquire};
    use core::ops::{Deref, DerefMut};
    use spin::mutex::{SpinMutex, SpinMutexGuard};

    /// A spinlock that calls the contention hook of its platform when it is not free soon.
    #[derive(Debug)]
    pub(crate) struct SpinLock<T> {
        rank: Rank,
        contended: Contended,
        value: SpinMutex<T>,
    }

    /// Holds the lock as long as it lives.
    pub(crate) struct SpinLockGuard<'a, T> {
        value: SpinMutexGuard<'a, T>,
        _held: Held,
    }

    impl<T> SpinLock<T> {
        pub(crate) const fn new(rank: Rank, contended: Contended, value: T) -> Self {
            SpinLock {
                rank,
                contended,
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
            acquire(self.contended, || self.try_lock())
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
    //! The spinlock for the model checker: a mutex of loom.
    use super::super::rank::Rank;
    use super::Contended;
    use loom::sync::{Mutex, MutexGuard};

    #[derive(Debug, Default)]
    pub(crate) struct SpinLock<T>(Mutex<T>);

    pub(crate) type SpinLockGuard<'a, T> = MutexGuard<'a, T>;

    impl<T> SpinLock<T> {
        pub(crate) fn new(_: Rank, _: Contended, value: T) -> Self {
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

pub(crate) use imp::{SpinLock, SpinLockGuard};
