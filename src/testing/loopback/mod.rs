//! A platform in memory: several nodes in one program, with a clock that the program advances.
//!
//! All memory is inside the [`Network`], which can be a `static`. No call blocks, so one thread can
//! drive all nodes in turn, and a run can be repeated exactly: [`Pal::wait`](crate::pal::Pal::wait)
//! and `wait_event` return at once, whatever their time limit is. Threads are allowed, but they
//! spin while they wait.

mod node;
mod pipe;
mod state;

use core::time::Duration;

use spin::Mutex;

use crate::Vmid;
use crate::pal::{OutOfResources, Time};
pub use node::{Loopback, LoopbackStream};
use state::State;

/// The network of up to `NODES` nodes: it has at most `PIPES` streams at a time, each with up to
/// `BYTES` unread bytes in each direction.
#[derive(Debug)]
pub struct Network<const NODES: usize, const PIPES: usize, const BYTES: usize> {
    state: Mutex<State<NODES, PIPES, BYTES>>,
}

impl<const NODES: usize, const PIPES: usize, const BYTES: usize> Network<NODES, PIPES, BYTES> {
    /// Makes a network without nodes, at time 0.
    pub const fn new() -> Self {
        Network {
            state: Mutex::new(State::new()),
        }
    }

    /// Makes a node that listens under `vmid`, until it has shut down or is dropped.
    ///
    /// # Errors
    /// [`OutOfResources`] if the network is full, or another node listens under `vmid`.
    pub fn join(&self, vmid: Vmid) -> Result<Loopback<'_, NODES, PIPES, BYTES>, OutOfResources> {
        let node = self.state.lock().join(vmid).ok_or(OutOfResources)?;
        Ok(Loopback::new(self, node))
    }

    /// Advances the clock of all nodes.
    pub fn advance(&self, span: Duration) {
        let mut state = self.state.lock();
        state.now = state.now + span;
    }

    /// Returns the time of the clock of all nodes.
    pub fn now(&self) -> Time {
        self.state.lock().now
    }
}

impl<const NODES: usize, const PIPES: usize, const BYTES: usize> Default
    for Network<NODES, PIPES, BYTES>
{
    fn default() -> Self {
        Self::new()
    }
}
