//! Requests of this process to itself: to the leader's tables if it is the leader, and to its own
//! library OS.

use super::call::Call;
use super::outcome::error_of;
use super::reply_buffers::ReplyData;
use super::wait::{Limits, Wait};
use crate::Pid;
use crate::error::{Errno, Error, Invalid};
use crate::leader::{Op, Outcome};
use crate::node::reply::{MetadataReply, SignalReply};
use crate::node::upcall::Signal;
use crate::node::{LeaderTables, Node, Sender};
use crate::pal::{Pal, Time};
use crate::path::scan_path;
use crate::wire::{Answer, FileLock, KillTarget, LockFamily, Message};

/// A request of this process to itself that has begun.
pub(super) enum Own {
    /// The request is answered.
    Answered(Answer<'static>),
    /// The answer comes later.
    Waits(Call),
}

impl<'m, P: Pal> Node<'m, P> {
    /// Executes a message of this process to itself, as the worker executes those of others. The
    /// answer to the request `seq`, 0 for none, may come later.
    ///
    /// # Errors
    /// As [`Node::apply_own_request`]; [`Error::Invalid`] for a message to the leader if this process is
    /// not the leader.
    #[inline]
    pub(in crate::node) fn handle_own(
        &self,
        seq: u64,
        message: &Message<'_>,
    ) -> Result<Outcome, Error> {
        let us = self.identity.vmid;
        match message {
            Message::PidKill(kill) if kill.target != KillTarget::All => {
                let reply = SignalReply { to: us, seq };
                return Ok(match Signal::read(us, kill) {
                    Ok(signal) => {
                        self.deliver(&signal, reply);
                        Outcome::Later
                    }
                    Err(errno) => Outcome::Answer(Answer::Status(Err(errno))),
                });
            }
            Message::PidGetMeta { pid, code } => {
                let reply = MetadataReply { to: us, seq };
                return Ok(match Pid::new(*pid) {
                    Some(pid) => {
                        self.embedder.metadata(self, pid, *code, reply);
                        Outcome::Later
                    }
                    None => Outcome::Answer(Answer::Meta(Err(Errno::ESRCH))),
                });
            }
            _ => {}
        }
        let leader = self.leading().ok_or(Error::Invalid(Invalid::Message))?;
        match message {
            Message::PidKill(kill) => {
                let result = self.forward_to_all((us, 0), kill);
                Ok(Outcome::Answer(Answer::Status(result.map(|()| 0))))
            }
            Message::Hello(hello) => {
                let mut leader = leader.lock();
                self.check_running()?;
                Ok(leader.apply(&Op::Join(us, *hello)))
            }
            _ => {
                self.await_log_room();
                self.apply_own_request(leader, seq, message)
            }
        }
    }

    /// Makes a request of this process itself, and waits for the answer if it comes later, and until the heir
    /// can read what the request has changed.
    #[inline]
    pub(super) fn call_own(
        &self,
        message: &Message<'_>,
        data: &mut ReplyData<'_>,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        let answer = match self.answer_own(message)? {
            Some(answer) => Ok(answer),
            None => self.await_own(message, data, wait),
        };
        self.await_log_written();
        answer
    }

    /// Answers a request of this process to itself without a waiter. None if the answer may come later,
    /// and nothing was done.
    #[inline]
    fn answer_own(&self, message: &Message<'_>) -> Result<Option<Answer<'static>>, Error> {
        match message {
            Message::PidKill(_)
            | Message::PidGetMeta { .. }
            | Message::KillOrdered { .. }
            | Message::FileLockSet(_)
            | Message::FileLockGet(_) => Ok(None),
            // The request has a number since it has an answer, and it does not wait, so any number
            // is right.
            _ => {
                let leader = self.leading().ok_or(Error::Invalid(Invalid::Message))?;
                self.await_log_room();
                answer_in(self.apply_own_request(leader, 1, message)).map(Some)
            }
        }
    }

    /// Makes a request of this process itself whose answer may come later.
    // Its state must not become part of the stack frame of requests that are answered at once.
    #[inline(never)]
    fn await_own(
        &self,
        message: &Message<'_>,
        data: &mut ReplyData<'_>,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        let now = self.begin_time(wait);
        let limits = Limits::beginning(wait, || now);
        match self.begin_waiting_own(message, now, false)? {
            Own::Answered(answer) => Ok(answer),
            Own::Waits(mut call) => self.finish_call(&mut call, None, None, limits, data),
        }
    }

    /// Begins a request of this process to itself, whose future may be dropped.
    ///
    /// # Errors
    /// As [`Node::handle_own`]; [`Error::Full`] without a waiter.
    pub(super) fn begin_own(&self, message: &Message<'_>) -> Result<Own, Error> {
        let own = match self.answer_own(message)? {
            Some(answer) => Own::Answered(answer),
            None => self.begin_waiting_own(message, self.now(), true)?,
        };
        self.await_log_written();
        Ok(own)
    }

    #[inline]
    fn begin_waiting_own(
        &self,
        message: &Message<'_>,
        now: Time,
        may_drop: bool,
    ) -> Result<Own, Error> {
        let us = self.identity.vmid;
        let mut call = Call::begin(self, us, message, now)?;
        if may_drop {
            call.reserve_for_drop(self, message)?;
        }
        match self.handle_own(call.token.seq, message) {
            Ok(Outcome::Later) => call.mark_sent(),
            decided => {
                self.waiters.release(call.token);
                return answer_in(decided).map(Own::Answered);
            }
        }
        // A request that is answered at once is not recorded among the events, since there are
        // many.
        call.record_begin(self);
        Ok(Own::Waits(call))
    }

    /// Sends a message without an answer to this process itself.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it could not be done.
    pub(in crate::node) fn send_own(&self, message: &Message<'_>) -> Result<(), Error> {
        match self.handle_own(0, message)? {
            Outcome::Rejected | Outcome::NotForLeader => Err(Error::Invalid(Invalid::Message)),
            _ => Ok(()),
        }
    }

    /// Like [`Node::send_own`], in a thread that makes a call: it returns when the heir can read the
    /// change.
    ///
    /// # Errors
    /// As [`Node::send_own`].
    pub(super) fn send_own_logged(&self, message: &Message<'_>) -> Result<(), Error> {
        let sent = self.send_own(message);
        self.await_log_written();
        sent
    }

    /// As the leader: sets a lock of this process without a waiter. None if the request has to wait,
    /// and nothing was done.
    #[cfg_attr(not(static_library), inline)]
    pub(in crate::node) fn set_own_lock(
        &self,
        leader: &LeaderTables<'m>,
        lock: &FileLock<'_>,
    ) -> Option<Result<(), Error>> {
        let (hash, has_nul) = scan_path(lock.path);
        let length = if has_nul {
            usize::MAX
        } else {
            lock.frame_length_without_nul()
        };
        if let Err(error) = self.check_encoded_length(length) {
            return Some(Err(error));
        }
        self.used_locks.note_hashed(lock, hash);
        if lock.wait {
            return None;
        }
        self.await_log_room();
        let outcome = {
            let mut leader = leader.lock();
            if let Err(error) = self.check_running() {
                return Some(Err(error));
            }
            leader.apply(&Op::SetLock {
                from: self.identity.vmid,
                lock: *lock,
                hash,
            })
        };
        self.send_leader_output(leader, Sender::Call);
        // The locks of a process end with it, those of an open file with its last holder.
        if lock.family != LockFamily::Posix {
            self.await_log_written();
        }
        match outcome {
            Outcome::Answer(Answer::Status(Ok(_))) => Some(Ok(())),
            Outcome::Answer(Answer::Status(Err(errno))) => Some(Err(error_of(errno))),
            _ => None,
        }
    }
}

/// Returns the answer among the outcomes of a request.
#[inline]
fn answer_in(outcome: Result<Outcome, Error>) -> Result<Answer<'static>, Error> {
    match outcome {
        Ok(Outcome::Answer(answer)) => Ok(answer),
        Ok(_) => Err(Error::Invalid(Invalid::Message)),
        Err(error) => Err(error),
    }
}
