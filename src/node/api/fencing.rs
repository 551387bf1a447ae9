//! Fencing numbers of locks and leases.

use super::shared_state::{SyncHandle, misuse};
use crate::error::{Error, Invalid};
use crate::member::Fencing;
use crate::node::rpc::error_of;
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::wire::{Answer, FileLock, Holding, Message, SyncState};

/// # Fencing numbers
///
/// A process that is cut off from the leader, or that is slow, may go on with what it has begun after another
/// process has got its lock. What the lock protects can refuse that: it keeps the highest fencing number
/// that it has seen, and refuses a request with a lower one.
impl<P: Pal> Node<'_, P> {
    /// Returns a fencing number for a write lock that this process holds and that covers the range of `lock`
    /// (its `kind` and `wait` do not matter): it is higher than all that were returned to any process of the
    /// family for a conflicting lock that was granted before. A holder asks once for each grant, and its
    /// threads share the number. `None` if the leader is a process in C, which has no such numbers, or this process has
    /// not [joined](Node::join) yet.
    ///
    /// Blocks for the leader's answer. If the file is delegated to this process, that is one answer for
    /// 1,048,576 numbers.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EPERM` if the owner of `lock` does not hold such a lock; else as
    /// [every call](Node#errors-of-every-call).
    pub fn fencing_number(
        &self,
        lock: &FileLock<'_>,
        wait: Wait<'_>,
    ) -> Result<Option<u64>, Error> {
        self.fencing_number_in(lock, wait)
    }

    /// Returns a fencing number for a sync handle that this process holds in the state
    /// [`SyncState::Exclusive`], as [`Node::fencing_number`]. Blocks for the leader's answer, once for 1,048,576
    /// numbers as long as this process keeps the lease.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no thread of this process holds the handle in that state; else as
    /// [`Node::fencing_number`].
    pub fn sync_fencing_number(
        &self,
        handle: SyncHandle,
        wait: Wait<'_>,
    ) -> Result<Option<u64>, Error> {
        self.sync_fencing_number_in(handle, wait)
    }
}

calls! {
    fn fencing_number_in(
        &self,
        lock: &FileLock<'_>,
        wait: Wait<'_>,
    ) -> Result<Option<u64>, Error> {
        self.check_running()?;
        if !self.leads() && !self.has_extensions() {
            return Ok(None);
        }
        let wait = self.begin(wait);
        let us = self.identity.vmid;
        loop {
            let found = {
                let mut files = self.delegated_files.lock();
                self.check_contact()?;
                files.fencing_number(us, lock)
            };
            match found {
                Fencing::Done(number) => return number.map(Some).map_err(error_of),
                Fencing::Forward => {
                    let number = wait!(self.ask_fencing(&Message::FencingNumber(*lock), wait))?;
                    return number.map(Some);
                }
                Fencing::Request(number) => {
                    let holding = Holding::Delegation;
                    let message = Message::FencingBlock { holding, number };
                    // After an error the delegation was returned, and the leader decides.
                    if let Ok(first) = wait!(self.ask_fencing(&message, wait))? {
                        self.delegated_files.lock().add_fencing_block(number, first);
                    }
                }
            }
        }
    }

    fn sync_fencing_number_in(
        &self,
        handle: SyncHandle,
        wait: Wait<'_>,
    ) -> Result<Option<u64>, Error> {
        self.check_running()?;
        if !self.leads() && !self.has_extensions() {
            return Ok(None);
        }
        let wait = self.begin(wait);
        let mut first = None;
        loop {
            let asked_at = {
                let mut client = self.sync_client(handle)?;
                self.check_contact()?;
                if !client.is_held(SyncState::Exclusive) {
                    return Err(misuse(&client, handle, Invalid::NotHeld));
                }
                if let Some((asked_at, first)) = first {
                    client.add_fencing_block(asked_at, first);
                }
                if let Some(number) = client.take_fencing_number() {
                    return Ok(Some(number));
                }
                client.change_count()
            };
            let message = Message::FencingBlock {
                holding: Holding::Lease,
                number: handle.id(),
            };
            first = Some((asked_at, wait!(self.ask_fencing(&message, wait))??));
        }
    }

    /// Asks the leader for fencing numbers. The inner error is the leader's refusal.
    fn ask_fencing(
        &self,
        message: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<Result<u64, Error>, Error> {
        match wait!(self.call(self.leader_vmid(), message, wait))? {
            Answer::Fencing(number) => Ok(number.map_err(error_of)),
            _ => Err(Error::Invalid(Invalid::Answer)),
        }
    }
}
