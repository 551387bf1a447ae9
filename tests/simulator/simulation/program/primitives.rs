//! A queue, a semaphore, a barrier and a monitor that all processes share.

use std::time::Duration;

use fastrand::Rng;
use libos_ipc::{Barrier, Error, Queue, Semaphore, Wait};

use super::super::checks::{LONG, PLACES};
use super::super::faults::Fault;
use super::super::pal::SimPal;
use super::super::world::with;
use super::Program;
use super::futures::call_or_poll;
use super::ids::no_other_error;

const QUEUE: u64 = 80;
const SEMAPHORE: u64 = 81;
const BARRIER: u64 = 82;
/// The value of the monitor, and its condition variable.
const MONITOR: u64 = 83;
const CHANGED: u64 = 84;
/// The faults with which a process may end, or a call fail, between a push and a pop.
const DEADLY: [Fault; 10] = [
    Fault::LeaderDeath,
    Fault::Stop,
    Fault::HeirCut,
    Fault::MemberStop,
    Fault::Crash,
    Fault::Cut,
    Fault::Disconnect,
    Fault::Stall,
    Fault::Silence,
    Fault::Capacity,
];
const SHORT: Duration = Duration::from_millis(20);

type SimQueue<'n, 'm, const READS: bool> = Queue<'n, 'm, SimPal<READS>, u64>;

impl<'p, 'm, const READS: bool> Program<'p, 'm, READS> {
    fn queue(&self) -> Result<SimQueue<'p, 'm, READS>, Error> {
        self.node.open_queue(Some(QUEUE), PLACES)
    }

    fn semaphore(&self) -> Result<Semaphore<'p, 'm, SimPal<READS>>, Error> {
        self.node.open_semaphore(Some(SEMAPHORE), PLACES)
    }

    fn barrier(&self) -> Result<Barrier<'p, 'm, SimPal<READS>>, Error> {
        self.node.open_barrier(Some(BARRIER), PLACES)
    }

    /// Opens the values once more at the leader than it closes them, and so keeps them alive.
    pub(super) fn begin_primitives(&self) {
        if !self.own.is_first || self.thread != 0 {
            return;
        }
        let mut opened = [QUEUE, SEMAPHORE, BARRIER, MONITOR, CHANGED]
            .iter()
            .map(|id| {
                let value = self.node.share_slice::<u8>(Some(*id))?;
                drop(value.read_to(&mut [0; 32], Wait::at_most(LONG))?);
                std::mem::forget(value);
                Ok::<_, Error>(())
            });
        if opened.all(|opened| opened.is_ok()) {
            with(|world| {
                world.checks.primitives.mark_kept();
                if world.plan.has_heirs() {
                    // The values may end with the first process.
                    world.checks.primitives.record_death();
                }
            });
        }
    }

    pub(super) fn use_primitive(&self, rng: &mut Rng) {
        if !with(|world| world.checks.primitives.are_kept()) {
            return;
        }
        for _ in 0..rng.u8(1..12) {
            match rng.u8(..8) {
                0 => self.meet(rng),
                1 => self.pass_semaphore(rng),
                2 | 3 => self.pass_monitor(rng),
                _ => self.exchange_item(rng),
            }
            if self.own.is_over() {
                return;
            }
        }
    }

    /// Like [`Program::call`]. A call that may wait for ever is repeated after an interrupt.
    fn finish<T>(
        &self,
        name: &'static str,
        mut call: impl FnMut(Wait<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let limit = wait_limit();
        loop {
            match self.call(name, limit, no_other_error, |_, wait| call(wait)) {
                Err(Error::Interrupted) if limit == LONG => {}
                ended => return ended,
            }
        }
    }

    /// Pushes an item and then pops one: there is an item for each thread that waits for one.
    fn exchange_item(&self, rng: &mut Rng) {
        let Ok(queue) = self.queue() else { return };
        let caller = (self.own.pid, self.thread);
        let item = with(|world| world.checks.primitives.new_item(caller));
        if self
            .finish("push", |wait| {
                call_or_poll!(self, queue.push(&item, wait), queue.push_async(&item, wait))
            })
            .is_err()
        {
            with(|world| world.checks.primitives.record_failed_push(item));
            return;
        }
        self.hold_for_a_while(rng);
        if let Ok(item) = self.finish("pop", |wait| {
            call_or_poll!(self, queue.pop(wait), queue.pop_async(wait))
        }) {
            with(|world| {
                let outcome = world.checks.primitives.record_pop(item);
                world.check("queues", outcome);
            });
        }
    }

    fn pass_semaphore(&self, rng: &mut Rng) {
        let Ok(semaphore) = self.semaphore() else {
            return;
        };
        if self
            .finish("acquire", |wait| {
                call_or_poll!(self, semaphore.acquire(wait), semaphore.acquire_async(wait))
            })
            .is_err()
        {
            return;
        }
        with(|world| {
            let outcome = world.checks.primitives.record_acquire();
            world.check("semaphores", outcome);
        });
        self.hold_for_a_while(rng);
        with(|world| world.checks.primitives.begin_release());
        if self
            .finish("release", |wait| {
                call_or_poll!(self, semaphore.release(wait), semaphore.release_async(wait))
            })
            .is_err()
        {
            with(|world| world.checks.primitives.record_failed_release());
        }
    }

    /// Enters the monitor when there is a place, and leaves it.
    fn pass_monitor(&self, rng: &mut Rng) {
        let (value, condvar) = (
            self.node.share(Some(MONITOR)),
            self.node.open_condvar(Some(CHANGED)),
        );
        let (Ok(value), Ok(condvar)) = (value, condvar) else {
            return;
        };
        let entered = self.finish("enter", |wait| {
            let guard = call_or_poll!(self, value.write(wait), value.write_async(wait))?;
            let is_full = |inside: &mut u32| *inside >= PLACES;
            let mut guard = call_or_poll!(
                self,
                condvar.wait_while(guard, wait, is_full),
                condvar.wait_while_async(guard, wait, is_full)
            )?;
            *guard += 1;
            Ok(())
        });
        if entered.is_err() {
            return;
        }
        with(|world| {
            let outcome = world.checks.primitives.record_entry();
            world.check("condvars", outcome);
        });
        self.hold_for_a_while(rng);
        with(|world| world.checks.primitives.begin_leave());
        let left = self.finish("leave the monitor", |wait| {
            let mut guard = call_or_poll!(self, value.write(wait), value.write_async(wait))?;
            // A death may have undone the entry.
            *guard = guard.saturating_sub(1);
            Ok(())
        });
        if left.is_err() {
            with(|world| world.checks.primitives.record_failed_leave());
        }
        let _ = self.finish("notify", |wait| {
            call_or_poll!(
                self,
                condvar.notify_all(wait),
                condvar.notify_all_async(wait)
            )
        });
    }

    /// Arrives at the barrier, and waits a short time for another thread.
    fn meet(&self, rng: &mut Rng) {
        let Ok(barrier) = self.barrier() else { return };
        let Ok(arrival) = self.finish("arrive", |wait| {
            call_or_poll!(self, barrier.arrive(wait), barrier.arrive_async(wait))
        }) else {
            return;
        };
        let opened = with(|world| {
            let outcome = world.checks.primitives.record_arrival(arrival.is_last());
            let opened = *outcome.as_ref().unwrap_or(&0);
            world.check("barriers", outcome.map(|_| ()));
            opened
        });
        self.hold_for_a_while(rng);
        let passed = self.call("pass", SHORT, no_other_error, |_, wait| {
            barrier.pass(arrival, wait)
        });
        if passed.is_ok() {
            with(|world| {
                let outcome = world.checks.primitives.check_pass(opened);
                world.check("barriers", outcome);
            });
        }
    }

    /// Checks what is left of the values, when the leader is the only process.
    pub(crate) fn end_primitives(&self) {
        if !with(|world| world.checks.primitives.are_kept()) {
            return;
        }
        let (Ok(queue), Ok(semaphore)) = (self.queue(), self.semaphore()) else {
            return;
        };
        let long = Wait::at_most(LONG);
        while let Ok(Some(item)) = queue.try_pop(long) {
            with(|world| {
                let outcome = world.checks.primitives.record_pop(item);
                world.check("queues", outcome);
            });
        }
        let free = semaphore.permits(long);
        let monitor = self.node.share::<u32>(Some(MONITOR));
        let inside = monitor.and_then(|value| Ok(*value.read(long)?));
        with(|world| {
            if let Ok(inside) = inside {
                let outcome = world.checks.primitives.check_all_left(inside);
                world.check("condvars", outcome);
            }
            let outcome = world.checks.primitives.check_all_popped();
            world.check("queues", outcome);
            if let Ok(free) = free {
                let outcome = world.checks.primitives.check_all_released(free);
                world.check("semaphores", outcome);
            }
        });
    }
}

/// Returns how long a call waits: for ever, if another process certainly ends the wait.
fn wait_limit() -> Duration {
    let is_safe = with(|world| !DEADLY.iter().any(|fault| world.has(*fault)));
    if is_safe { LONG } else { SHORT }
}
