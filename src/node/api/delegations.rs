//! Delegations of files to this process: requests for them, and their return.

use crate::Vmid;
use crate::error::{Errno, Error, Resource};
use crate::member::Decision;
use crate::node::rpc::{Limits, done, error_of};
use crate::node::{Node, Wait};
use crate::pal::{Deadline, Pal};
use crate::sync::Ordering;
use crate::wire::{Answer, DelegatedLockList, FileLock, Message};

impl<P: Pal> Node<'_, P> {
    /// Handles the leader's answer to a request for a delegation. Returns true if it was granted.
    pub(in crate::node) fn handle_delegation_answer(
        &self,
        number: u64,
        answer: &Answer<'_>,
    ) -> bool {
        let max_locks = match answer {
            Answer::Status(Ok(max)) => usize::try_from(*max).ok().filter(|max| *max > 0),
            _ => None,
        };
        self.delegated_files.lock().handle_answer(number, max_locks);
        self.return_files();
        max_locks.is_some()
    }

    /// Handles the recall of a delegation.
    pub(crate) fn recalled(&self, number: u64) {
        self.recall_waits.store(true, Ordering::Relaxed);
        self.delegated_files.lock().recall(number);
        self.recall_waits.store(false, Ordering::Relaxed);
        self.return_files();
    }

    /// Returns recalled delegations now, or as soon as there is room to send them.
    fn return_files(&self) {
        if !self.try_return_files() {
            self.defer_member_output();
        }
    }

    /// Returns recalled delegations. Returns false if there is no room to send all of them now.
    pub(crate) fn try_return_files(&self) -> bool {
        let leader = self.leader_vmid();
        if self.leads() && !self.follows() {
            return true;
        }
        let mut list = DelegatedLockList::new();
        let mut is_sent = false;
        let all = loop {
            let mut delegated_files = self.delegated_files.lock();
            list.clear();
            let Some(number) = delegated_files.poll_transmit(&mut list) else {
                break true;
            };
            let message = Message::FileLockReturn {
                delegation: number,
                locks: list.locks(),
            };
            if self.leads() {
                // The delegation came after this process began to lead.
                delegated_files.mark_sent(number);
                drop(delegated_files);
                let _ = self.handle_own(0, &message);
                continue;
            }
            let Ok(peer) = self.peers.find_or_add(leader) else {
                break false;
            };
            // Under the lock of the table, so that the next request to the leader comes after the return.
            match self.put(&peer, 0, &message) {
                Ok(()) => is_sent = true,
                Err(Error::Full(Resource::SendQueue)) => break false,
                // Its successor gets it.
                Err(error) if self.is_moved(leader, &message, error) => break false,
                // The leader is gone, or never accepts the message.
                Err(_) => {}
            }
            delegated_files.mark_sent(number);
        };
        // Frames that were only queued may occupy the room.
        if (is_sent || !all)
            && let Some(peer) = self.peers.find(leader)
        {
            self.flush(&peer);
        }
        all
    }

    /// As the leader: closes the connection of a member that has not returned a delegation in time.
    /// Returns when to run again, if before `until`.
    pub(crate) fn poll_recalls(&self, until: Deadline) -> Deadline {
        let limit = self.config.recall_limit;
        self.disconnect_late(&self.leader_limits.recalls, limit, until, |leader| {
            let locks = leader.locks();
            (locks.first_recall(), locks.last_recall())
        })
    }
}

fn decided(result: Result<(), Errno>) -> Result<(), Error> {
    result.map_err(error_of)
}

calls! {
    /// Sets a lock on a file that is delegated to this process, or that can be. Returns `None` if the
    /// leader must decide.
    fn set_delegated(
        &self,
        leader: Vmid,
        lock: &FileLock<'_>,
        wait: Wait<'_>,
    ) -> Option<Result<(), Error>> {
        let us = self.identity.vmid;
        loop {
            if self.recall_waits.load(Ordering::Relaxed) {
                // If both threads share a processor, one that locks in a loop would leave the table to the worker by chance only.
                P::contended(0);
            }
            let decision = {
                let mut files = self.delegated_files.lock();
                if let Err(error) = self.check_contact() {
                    return Some(Err(error));
                }
                files.set(us, lock)
            };
            let number = match decision {
                Decision::Done(result) => return Some(decided(result)),
                Decision::Forward => {
                    let returned = wait!(self.return_before(wait));
                    return returned.err().map(Err);
                }
                Decision::Request(number) => number,
            };
            self.used_locks.note(lock);
            let message = Message::FileLockDelegate(FileLock {
                handle: number,
                ..*lock
            });
            let answer = match wait!(self.call(leader, &message, wait)) {
                Ok(answer) if self.leads() => {
                    // This process has begun to lead meanwhile, so it gives back what it got.
                    let is_granted = self.handle_delegation_answer(number, &answer);
                    self.delegated_files.lock().recall_all();
                    self.try_return_files();
                    if is_granted {
                        return None;
                    }
                    return Some(done(answer));
                }
                Ok(answer) => answer,
                Err(error) => {
                    self.handle_delegation_answer(number, &Answer::Empty);
                    return Some(Err(error));
                }
            };
            // A delegation that was granted may be recalled by now: then the next request is not
            // for a delegation.
            if !self.handle_delegation_answer(number, &answer) {
                return Some(done(answer));
            }
        }
    }

    /// Returns recalled delegations before another request goes to the leader. An unlock that
    /// reached the leader before the return would have to wait there, and the leader may have no
    /// room for that.
    fn return_before(&self, wait: Wait<'_>) -> Result<(), Error> {
        if self.try_return_files() {
            return Ok(());
        }
        self.defer_member_output();
        let limits = Limits::of(wait, &self.pal);
        let mut put = || self.try_return_files().then_some(Ok(()));
        let returned = self.wait_for_room_at_leader(limits, &mut put);
        match wait!(returned) {
            Err(Error::TimedOut) if limits.until == Deadline::Now => {
                Err(Error::Full(Resource::SendQueue))
            }
            returned => returned,
        }
    }
}
