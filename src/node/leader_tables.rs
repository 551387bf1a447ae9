//! The leader's tables behind their lock, and two flags that are read without it.

use core::ops::{Deref, DerefMut};

use crate::leader::{Leader, Op};
use crate::store::{Contended, Rank, SpinLock, SpinLockGuard};
use crate::sync::{AtomicBool, Ordering};

/// The tables of a process that leads.
pub(crate) struct LeaderTables<'m> {
    tables: SpinLock<Leader<'m>>,
    /// Whether the leader has a message to send. It changes only under the lock.
    has_output: AtomicBool,
    /// A receiver that had no room for a message may have some now.
    retry_wanted: AtomicBool,
}

/// The right to use the tables. When it is dropped, the flag shows whether there is a message to send.
pub(crate) struct LeaderGuard<'a, 'm> {
    tables: SpinLockGuard<'a, Leader<'m>>,
    has_output: &'a AtomicBool,
}

impl<'m> LeaderTables<'m> {
    pub(in crate::node) fn new(contended: Contended, leader: Leader<'m>) -> Self {
        LeaderTables {
            tables: SpinLock::new(Rank::Leader, contended, leader),
            has_output: AtomicBool::new(false),
            retry_wanted: AtomicBool::new(false),
        }
    }

    #[inline]
    pub(crate) fn lock(&self) -> LeaderGuard<'_, 'm> {
        LeaderGuard {
            tables: self.tables.lock(),
            has_output: &self.has_output,
        }
    }

    /// Returns true if the leader has a message to send.
    #[inline]
    pub(in crate::node) fn has_output(&self) -> bool {
        self.has_output.load(Ordering::SeqCst)
    }

    /// Has the worker try again to send what could not be sent.
    pub(in crate::node) fn want_retry(&self) {
        self.retry_wanted.store(true, Ordering::SeqCst);
    }

    /// In the worker: makes the messages that could not be sent due again, if there may be room for them.
    #[inline]
    pub(in crate::node) fn retry_if_wanted(&self) {
        if self.retry_wanted.load(Ordering::SeqCst)
            && self.retry_wanted.swap(false, Ordering::SeqCst)
        {
            self.lock().apply(&Op::RetryTransmit);
        }
    }
}

impl<'m> Deref for LeaderGuard<'_, 'm> {
    type Target = Leader<'m>;
    fn deref(&self) -> &Leader<'m> {
        &self.tables
    }
}

impl<'m> DerefMut for LeaderGuard<'_, 'm> {
    fn deref_mut(&mut self) -> &mut Leader<'m> {
        &mut self.tables
    }
}

impl Drop for LeaderGuard<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        note_output(&self.tables, self.has_output);
    }
}

#[cfg_attr(not(static_library), inline)]
#[cfg_attr(static_library, inline(never))]
fn note_output(tables: &Leader<'_>, flag: &AtomicBool) {
    let has_output = tables.has_output();
    if flag.load(Ordering::Relaxed) != has_output {
        flag.store(has_output, Ordering::SeqCst);
    }
}
