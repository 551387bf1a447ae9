//! The calls on a node that only tests and benchmarks make.

use crate::error::Error;
use crate::leader::{LeaderCapacities, OpObserver};
use crate::node::{ReplyData, Request};
use crate::pal::Pal;
use crate::wire::{Answer, Message};
use crate::{Config, Node, Vmid, Wait};

/// Returns the capacities of the leader of a family with this configuration.
pub const fn leader_capacities(config: &Config) -> LeaderCapacities {
    config.leader_capacities()
}

/// # Tests
///
/// With the feature `testing` only. An embedder calls the functions that send messages.
impl<'m, P: Pal> Node<'m, P> {
    /// Returns the node with an observer of the operations on its tables, if it leads or may lead.
    #[must_use]
    pub fn with_op_observer(self, observer: &'m (dyn OpObserver + 'm)) -> Self {
        self.observe_tables(observer);
        self
    }

    /// Returns true if the quotas of the leader's tables are consistent with the tables. It is slow, and meant
    /// for tests.
    pub fn check_shares(&self) -> bool {
        let leader = self.leading();
        leader.is_none_or(|leader| leader.lock().check_shares())
    }

    /// Sends a request and returns at once; [`Request::poll`] returns the answer when it has arrived.
    ///
    /// # Errors
    /// [`Error::Full`] where a limit is reached, [`Error::Invalid`] if the message has no answer
    /// or `dest` is this node, [`Error::NoSuchProcess`] if the peer is known to be gone.
    pub fn request<'n>(
        &'n self,
        dest: Vmid,
        message: &Message<'n>,
    ) -> Result<Request<'n, 'm, P>, Error> {
        self.begin_call(dest, message)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// As [`Node::request`]; and [`Error::TimedOut`] or [`Error::Interrupted`] as `wait` says.
    pub fn ask(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        self.check_running()?;
        self.exchange(dest, message, &mut ReplyData::none(), wait)
    }

    /// Sends a message that has no answer. Blocks only for room in the peer's send queue, as long
    /// as `wait` allows. A message that was accepted may still be lost with the connection.
    ///
    /// # Errors
    /// [`Error::Full`] if there is no room and `wait` is zero, [`Error::TimedOut`] or
    /// [`Error::Interrupted`] as `wait` says, [`Error::NoSuchProcess`] if the peer is known to be
    /// gone.
    pub fn send(&self, dest: Vmid, message: &Message<'_>, wait: Wait<'_>) -> Result<(), Error> {
        self.send_message(dest, message, wait)
    }

    /// Like [`Node::send`], but leaves the frame in the send queue until the next send, request or
    /// [`Node::flush_to`] to the same peer, or until there is no more room: many frames go in one
    /// write.
    ///
    /// # Errors
    /// As [`Node::send`].
    pub fn queue(&self, dest: Vmid, message: &Message<'_>, wait: Wait<'_>) -> Result<(), Error> {
        self.queue_message(dest, message, wait)
    }

    /// Sends the frames that [`Node::queue`] left in the send queue.
    pub fn flush_to(&self, dest: Vmid) {
        if let Some(peer) = self.peers.find(dest) {
            self.flush(&peer);
        }
    }

    /// Sends a message to every connected peer but `except`. It never blocks. Returns how many it
    /// was accepted for, and how many had no room for it: none once this process has ended.
    pub fn broadcast(&self, message: &Message<'_>, except: Option<Vmid>) -> (usize, usize) {
        self.broadcast_message(message, except)
    }
}
