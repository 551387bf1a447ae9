//! Calls as futures: a task is polled only after a wake, and may be dropped after any poll.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use libos_ipc::Error;
use libos_ipc::pal::Deadline;

use super::super::world::{pause, with};
use super::Program;

/// How a future is polled.
#[derive(Clone, Copy)]
pub(super) struct Polling {
    /// The future is dropped if it is not ready after so many polls.
    pub(super) drop_after: Option<u8>,
}

/// Draws how the next call is made; `None` if it blocks.
pub(super) fn polling() -> Option<Polling> {
    with(|world| match world.network.rng.u8(..8) {
        0 => Some(Polling { drop_after: None }),
        1 => Some(Polling {
            drop_after: Some(world.network.rng.u8(1..5)),
        }),
        _ => None,
    })
}

/// Makes a call: blocks, or polls its future.
macro_rules! call_or_poll {
    ($program:expr, $call:expr, $future:expr) => {
        match super::futures::polling() {
            Some(polling) => $program.poll(polling, $future),
            None => $call,
        }
    };
}
pub(super) use call_or_poll;

/// A task of a process at that place.
struct Task {
    place: usize,
    is_woken: AtomicBool,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::Relaxed);
        with(|world| world.network.mark_changed(self.place));
    }
}

impl<const READS: bool> Program<'_, '_, READS> {
    /// Polls the future until it is ready. One that is dropped counts as interrupted.
    pub(super) fn poll<T>(
        &self,
        polling: Polling,
        future: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut future = pin!(future);
        let task = Arc::new(Task {
            place: self.own.place,
            is_woken: AtomicBool::new(true),
        });
        let waker = Waker::from(Arc::clone(&task));
        let mut context = Context::from_waker(&waker);
        let mut polls = 0;
        loop {
            while !task.is_woken.swap(false, Ordering::Relaxed) {
                self.sleep(&task);
            }
            if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
                return result;
            }
            polls += 1;
            if polling.drop_after == Some(polls) {
                self.own.shared(|shared| {
                    shared.interrupted[self.thread] = true;
                    shared.dropped[self.thread] = true;
                });
                return Err(Error::Interrupted);
            }
        }
    }

    /// Lets others run until something happens. Without a worker this thread moves the bytes, which may
    /// wake the task.
    fn sleep(&self, task: &Task) {
        let until = if READS {
            Some(Deadline::Never)
        } else {
            self.node.poll_once()
        };
        match until {
            _ if task.is_woken.load(Ordering::Relaxed) => {}
            Some(Deadline::Now) => pause(Some(0)),
            Some(until) => pause(until.time().map(|until| until.0)),
            None => pause(None),
        }
    }
}
