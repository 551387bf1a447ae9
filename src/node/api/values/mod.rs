//! Semaphores, queues, condition variables and barriers between processes, built on shared values.
//!
//! Each keeps its state in one shared value and changes it as one step, so a process that dies in a
//! call leaves the state before or after that call, never between. A call that waits sleeps as
//! [`Shared::wait_for`](super::Shared::wait_for) does.

mod barrier;
mod condvar;
mod queue;
mod ring;
mod semaphore;

pub use barrier::{Arrival, Barrier};
pub use condvar::Condvar;
pub use queue::Queue;
pub use semaphore::Semaphore;
