//! The task that a waiter wakes: the future that waits, or another waiter.
//!
//! A thread that blocks sleeps on the event of its waiter, and has no task. So its wake costs one look at a flag.

use core::mem::replace;
use core::task::{Context, Waker};

use crate::pal::Deadline;
use crate::store::{Contended, Rank, SpinLock};
use crate::sync::{AtomicBool, Ordering};

/// No task has a time limit.
pub(super) const NO_LIMIT: u64 = u64::MAX;

/// The receiver of the wakes of a waiter, besides the waiter's own event.
#[derive(Clone)]
pub(in crate::node) enum WakeTarget {
    /// No task waits, or it was woken.
    None,
    /// The task that polls the future.
    Task(Waker),
    /// The waiter of that number: its call waits for several others.
    Waiter(u32),
}

impl WakeTarget {
    /// Returns the task of a context.
    pub(super) fn of(context: &Context<'_>) -> WakeTarget {
        WakeTarget::Task(context.waker().clone())
    }
}

/// The task of one waiter.
pub(super) struct Task {
    /// The waiter has, or had, a target.
    pub(super) is_polled: AtomicBool,
    pub(super) state: SpinLock<TaskState>,
}

pub(super) struct TaskState {
    target: WakeTarget,
    /// The waiter was notified since it was armed.
    pub(super) is_woken: bool,
    /// The time at which the worker wakes the task.
    pub(super) until: Deadline,
}

impl Task {
    pub(super) fn new(contended: Contended) -> Task {
        let state = TaskState {
            target: WakeTarget::None,
            is_woken: false,
            until: Deadline::Never,
        };
        Task {
            is_polled: AtomicBool::new(false),
            state: SpinLock::new(Rank::Task, contended, state),
        }
    }

    /// Sets the target, and returns the one before: dropping a waker may run code of the embedder, so
    /// no lock may be held then.
    pub(super) fn set(&self, target: WakeTarget, until: Deadline) -> WakeTarget {
        let mut state = self.state.lock();
        state.until = until;
        replace(&mut state.target, target)
    }

    /// Records a wake, and returns the target.
    pub(super) fn wake(&self) -> WakeTarget {
        let mut state = self.state.lock();
        state.is_woken = true;
        state.until = Deadline::Never;
        replace(&mut state.target, WakeTarget::None)
    }

    /// Removes the target when the waiter is freed.
    #[inline]
    pub(super) fn clear(&self) {
        if self.is_polled.load(Ordering::Relaxed) {
            drop(self.take_target());
        }
    }

    /// Like `clear`; returns the target, which the caller drops without a lock.
    #[cold]
    pub(super) fn take_target(&self) -> WakeTarget {
        self.is_polled.store(false, Ordering::SeqCst);
        self.set(WakeTarget::None, Deadline::Never)
    }
}
