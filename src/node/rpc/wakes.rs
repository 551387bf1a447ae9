//! How a waiter is woken: its thread by its event, and a future by its task.

use core::task::Waker;

use super::task::{NO_LIMIT, Task, WakeTarget};
use super::waiter::{WaitToken, Waiter};
use super::waiters::Waiters;
use crate::pal::{Deadline, Event, Time};
use crate::sync::{Ordering, fence};

impl<E: Event> Waiters<'_, E> {
    /// Sets the event of the waiter in that slot, and wakes its task. The caller has changed what
    /// the call waits for, and holds no lock.
    #[inline]
    pub(super) fn notify(&self, slot: usize) {
        let Some(waiter) = self.slots.get(slot) else {
            return;
        };
        // The wake is recorded before a thread that sleeps on the event looks for it.
        if waiter.task.is_polled.load(Ordering::SeqCst) {
            self.notify_task(waiter);
        } else {
            waiter.event.set();
        }
    }

    #[cold]
    fn notify_task(&self, waiter: &Waiter<'_, E>) {
        let target = waiter.task.wake();
        waiter.event.set();
        match target {
            WakeTarget::None => {}
            WakeTarget::Task(waker) => waker.wake(),
            WakeTarget::Waiter(name) => self.notify_owner(name),
        }
    }

    /// Wakes the call that waits for several waiters. Its own target is a task or none.
    fn notify_owner(&self, name: u32) {
        let slot = name.checked_sub(1).map(|slot| slot as usize);
        let Some(owner) = slot.and_then(|slot| self.slots.get(slot)) else {
            return;
        };
        let target = owner.task.wake();
        owner.event.set();
        if let WakeTarget::Task(waker) = target {
            waker.wake();
        }
    }

    /// Has the waiter wake that target. A caller sets the target before it checks what it waits for,
    /// so that a change after the check wakes it.
    pub(in crate::node) fn set_target(&self, token: WaitToken, target: WakeTarget) {
        if let Some(waiter) = self.slots.get(token.slot()) {
            drop(waiter.task.set(target, Deadline::Never));
            waiter.task.is_polled.store(true, Ordering::SeqCst);
        }
    }

    /// Forgets the wakes so far. From now on wakes are recorded, also of a waiter without a target.
    pub(in crate::node) fn arm(&self, token: WaitToken) {
        if let Some(waiter) = self.slots.get(token.slot()) {
            waiter.task.is_polled.store(true, Ordering::SeqCst);
            waiter.task.state.lock().is_woken = false;
        }
    }

    /// Returns true if the waiter was notified since it was armed.
    pub(in crate::node) fn is_woken(&self, token: WaitToken) -> bool {
        let waiter = self.slots.get(token.slot());
        waiter.is_some_and(|waiter| waiter.task.state.lock().is_woken)
    }

    /// Has the worker wake the target at that time. Returns true if no earlier time was known, so
    /// that the worker may sleep for too long.
    pub(in crate::node) fn limit_task(&self, token: WaitToken, until: Deadline) -> bool {
        let waiter = self.slots.get(token.slot());
        waiter.is_some_and(|waiter| self.limit(&waiter.task, until))
    }

    fn limit(&self, task: &Task, until: Deadline) -> bool {
        let Some(at) = until.time() else {
            return false;
        };
        task.state.lock().until = until;
        self.next_limit.fetch_min(at.0, Ordering::SeqCst) > at.0
    }

    /// Has the shutdown of the node wake that task, at that time at the latest. The caller checks after
    /// this how far the shutdown is. Returns as [`Waiters::limit_task`].
    pub(in crate::node) fn set_shutdown_task(&self, waker: Waker, until: Deadline) -> bool {
        let target = WakeTarget::Task(waker);
        drop(self.shutdown.set(target, Deadline::Never));
        self.shutdown.is_polled.store(true, Ordering::SeqCst);
        // Either this task sees the progress of the shutdown, or the worker that has made it sees the task.
        fence(Ordering::SeqCst);
        self.limit(&self.shutdown, until)
    }

    /// Wakes the task that shuts the node down. The caller has no lock.
    pub(in crate::node) fn notify_shutdown_task(&self) {
        fence(Ordering::SeqCst);
        if self.shutdown.is_polled.load(Ordering::SeqCst)
            && let WakeTarget::Task(waker) = self.shutdown.wake()
        {
            waker.wake();
        }
    }

    /// Forgets the task that shuts the node down.
    pub(in crate::node) fn clear_shutdown_task(&self) {
        self.shutdown.clear();
    }

    /// Wakes the tasks whose time has come. Returns the time of the next one.
    pub(in crate::node) fn wake_overdue(&self, now: impl FnOnce() -> Time) -> Deadline {
        let next = self.next_limit.load(Ordering::SeqCst);
        if next == NO_LIMIT {
            return Deadline::Never;
        }
        let now = now();
        if now.0 < next {
            return Deadline::At(Time(next));
        }
        // A time that is set from now on is either seen below or stored after this.
        self.next_limit.swap(NO_LIMIT, Ordering::SeqCst);
        for (slot, waiter) in self.in_use() {
            if self.is_overdue(&waiter.task, now) {
                self.notify(slot);
            }
        }
        if self.is_overdue(&self.shutdown, now) {
            self.notify_shutdown_task();
        }
        match self.next_limit.load(Ordering::SeqCst) {
            NO_LIMIT => Deadline::Never,
            next => Deadline::At(Time(next)),
        }
    }

    /// Returns true if the time of the task has come. A later one is noted.
    fn is_overdue(&self, task: &Task, now: Time) -> bool {
        if !task.is_polled.load(Ordering::SeqCst) {
            return false;
        }
        let until = task.state.lock().until;
        let Some(at) = until.time() else {
            return false;
        };
        if at > now {
            self.next_limit.fetch_min(at.0, Ordering::SeqCst);
        }
        at <= now
    }
}
