//! What the library OS around a node provides, and how it answers.

use core::ffi::CStr;

use super::Node;
use crate::error::{Error, errno};
use crate::leader::Signals;
use crate::pal::Pal;
use crate::wire::{Answer, ChildExit, KillTarget, MetaCode, PATH_MAX, PidKill};
use crate::{Id, Vmid};

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A thread, found by the pid of its process.
    Thread {
        /// The process's pid.
        pid: Id,
        /// The thread.
        tid: Id,
    },
    /// A process.
    Process(Id),
    /// Every process of a group.
    Group(Id),
    /// Every process but the sender.
    All,
}

/// A signal that is to be delivered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signal {
    /// The process it came from: the leader, where it came through that.
    pub from: Vmid,
    /// The pid that sent it, as that process says; 0 for none, and where signals of several senders
    /// became one at the leader.
    pub sender: Id,
    /// For whom it is. A whole group is only asked of a process by peers in C; between processes
    /// of this crate each member of the group is asked for itself.
    pub target: Target,
    /// The signal's number; 0 only asks whether it could be sent.
    pub signal: i32,
}

/// What the library OS provides. Every method has a default, which knows nothing.
///
/// The methods are called by the thread that turns the worker, with no lock held, and by a thread
/// that signals or asks about its own process. They must not wait: an answer that takes time is
/// given later, through the handle, from any thread.
pub trait Embedder<P: Pal>: Sync {
    /// Delivers a signal to a thread or process here. The answer is 0, or a positive error number:
    /// `ESRCH` if there is no such target, `EPERM` if the sender may not (`kill(2)`).
    fn signal(&self, node: &Node<'_, P>, signal: &Signal, reply: SignalReply) {
        let _ = signal;
        let _ = reply.send(node, Err(errno::ENOSYS));
    }

    /// Tells something about a pid of this process. `ESRCH` if there is no such pid, `ENOENT` if
    /// there is nothing to tell.
    fn metadata(&self, node: &Node<'_, P>, pid: Id, what: MetaCode, reply: MetadataReply) {
        let _ = (pid, what);
        let _ = reply.send(node, Err(errno::ENOSYS));
    }

    /// A child has ended. Each child is told of once; [`Node::wait_child`] reaps it.
    fn child_ended(&self, node: &Node<'_, P>, exit: &ChildExit) {
        let _ = (node, exit);
    }

    /// This process's parent has ended, if [`Node::watch_parent`] was called before; once for each.
    /// `parent` is the pid of the one that it has now, 0 for none.
    fn parent_ended(&self, node: &Node<'_, P>, parent: Id) {
        let _ = (node, parent);
    }

    /// A process is connected with this one. The leader hears of every member.
    fn member_joined(&self, node: &Node<'_, P>, vmid: Vmid) {
        let _ = (node, vmid);
    }

    /// A process that was connected is gone; the one that started this one also if it never opened a
    /// stream to it.
    fn member_left(&self, node: &Node<'_, P>, vmid: Vmid) {
        let _ = (node, vmid);
    }
}

/// A library OS that answers nothing.
pub(crate) struct NoEmbedder;

impl<P: Pal> Embedder<P> for NoEmbedder {}

/// Something for the embedder, put aside until no lock is held.
#[derive(Clone, Copy)]
pub(crate) enum Upcall {
    Signal(Signal, SignalReply),
    Metadata(Id, MetaCode, MetadataReply),
    ChildEnded(ChildExit),
    ParentEnded(Id),
    Joined(Vmid),
    Left(Vmid),
}

impl Signal {
    pub(crate) fn read(from: Vmid, kill: &PidKill) -> Signal {
        Signal {
            from,
            sender: kill.sender,
            target: match kill.target {
                KillTarget::Thread => Target::Thread {
                    pid: kill.pid,
                    tid: kill.id,
                },
                KillTarget::Process => Target::Process(kill.id),
                KillTarget::Group => Target::Group(kill.id),
                KillTarget::All => Target::All,
            },
            signal: kill.signal,
        }
    }
}

/// The way to answer a signal, once. Room for the answer is kept: until it is given, or the peer
/// goes, the peer can ask for less else.
#[derive(Clone, Copy, Debug)]
#[must_use = "whoever asked waits for the answer"]
pub struct SignalReply {
    pub(crate) to: Vmid,
    pub(crate) seq: u64,
}

impl SignalReply {
    /// The room that is kept for it.
    pub(crate) const ROOM: usize = Answer::Status(0).length();

    /// Answers: done, or a positive error number.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if the peer is gone.
    pub fn send<P: Pal>(self, node: &Node<'_, P>, outcome: Result<(), i32>) -> Result<(), Error> {
        let status = outcome.err().map_or(0, i32::saturating_neg);
        node.reply(self.to, self.seq, &Answer::Status(status), Self::ROOM)
    }
}

/// What is told about a pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata<'a> {
    /// Its user and group.
    Credentials {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// The path that was asked for, at most [`PATH_MAX`] bytes with its NUL.
    Path(&'a CStr),
}

/// The way to answer a question about a pid, once; as [`SignalReply`].
#[derive(Clone, Copy, Debug)]
#[must_use = "whoever asked waits for the answer"]
pub struct MetadataReply {
    pub(crate) to: Vmid,
    pub(crate) seq: u64,
}

impl MetadataReply {
    /// The room that is kept for it.
    pub(crate) const ROOM: usize = Answer::LONGEST_META;

    /// Answers: the data, or a positive error number. A path that is too long comes as
    /// `ENAMETOOLONG`.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if the peer is gone.
    pub fn send<P: Pal>(
        self,
        node: &Node<'_, P>,
        outcome: Result<Metadata<'_>, i32>,
    ) -> Result<(), Error> {
        let numbers;
        let failed = |errno: i32| Answer::Meta {
            status: errno.saturating_neg(),
            data: &[],
        };
        let answer = match outcome {
            Err(errno) => failed(errno),
            Ok(Metadata::Credentials { uid, gid }) => {
                numbers = (u64::from(gid) << 32 | u64::from(uid)).to_le_bytes();
                Answer::Meta {
                    status: 0,
                    data: &numbers,
                }
            }
            Ok(Metadata::Path(path)) if path.count_bytes() < PATH_MAX => Answer::Meta {
                status: 0,
                data: path.to_bytes_with_nul(),
            },
            Ok(Metadata::Path(_)) => failed(errno::ENAMETOOLONG),
        };
        node.reply(self.to, self.seq, &answer, Self::ROOM)
    }
}

impl<P: Pal> Node<'_, P> {
    /// Answers a request that was put aside. `room` was kept for it.
    pub(super) fn reply(
        &self,
        to: Vmid,
        seq: u64,
        answer: &Answer<'_>,
        room: usize,
    ) -> Result<(), Error> {
        if seq == 0 {
            return Ok(());
        }
        if to == self.identity.vmid {
            self.waiters.answer_here(to, seq, answer);
            return Ok(());
        }
        let peer = self.peers.find(to).ok_or(Error::NoSuchProcess)?;
        let too_long = Answer::Meta {
            status: -errno::EMSGSIZE,
            data: &[],
        };
        let answer = if peer.accepts_length(answer.length()) {
            answer
        } else {
            &too_long
        };
        let pushed = {
            let mut queue = peer.queue.lock();
            if queue.closed || queue.reserved < room {
                return Err(Error::NoSuchProcess);
            }
            queue.reserved = queue.reserved.saturating_sub(room);
            self.queue_hello_first(&peer, &mut queue);
            let pushed = queue.filling.push_answer(seq, answer).is_ok();
            queue.record_push();
            pushed
        };
        if pushed {
            self.trace_answer_tx(to, seq, answer);
            self.flush(&peer);
        } else {
            self.disconnect_peer(&peer);
        }
        // Its requests may have been left unread for want of the room that is free now.
        if peer.reads_paused.load(crate::sync::Ordering::SeqCst) {
            self.call_worker(&peer);
        }
        Ok(())
    }

    /// Puts something aside for the embedder. False if there is no room: to be tried again.
    pub(crate) fn try_enqueue_upcall(&self, upcall: Upcall) -> bool {
        self.upcalls.lock().push_back(upcall).is_ok()
    }

    /// As [`Node::try_enqueue_upcall`], in the worker and without any lock: makes room if it must.
    pub(crate) fn enqueue_upcall(&self, upcall: Upcall) {
        while !self.try_enqueue_upcall(upcall) {
            self.run_upcalls();
        }
    }

    /// Calls the embedder for what was put aside. Only in the worker, without any lock.
    pub(crate) fn run_upcalls(&self) {
        loop {
            // The lock is free again before the call.
            let next = self.upcalls.lock().pop_front();
            match next {
                None => return,
                Some(Upcall::Signal(signal, reply)) => self.deliver(&signal, reply),
                Some(Upcall::Metadata(_, _, reply)) if self.has_ended() => {
                    // A peer that is gone needs no answer.
                    let _ = reply.send(self, Err(errno::ESRCH));
                }
                Some(Upcall::Metadata(pid, what, reply)) => {
                    self.embedder.metadata(self, pid, what, reply);
                }
                Some(Upcall::ChildEnded(exit)) => self.embedder.child_ended(self, &exit),
                Some(Upcall::ParentEnded(_)) if self.has_ended() => {}
                Some(Upcall::ParentEnded(parent)) => self.embedder.parent_ended(self, parent),
                Some(Upcall::Joined(vmid)) => self.embedder.member_joined(self, vmid),
                Some(Upcall::Left(vmid)) => self.embedder.member_left(self, vmid),
            }
        }
    }

    /// Delivers a signal here. That a zombie could be signalled needs no embedder.
    pub(crate) fn deliver(&self, signal: &Signal, reply: SignalReply) {
        let is_thread = |id| Some(id) != self.pid() && self.own_ids.lock().is_in_use(id);
        let is_main = match signal.target {
            Target::Process(_) => true,
            Target::Thread { pid, tid } => pid == tid,
            Target::Group(_) | Target::All => false,
        };
        let outcome = match signal.target {
            // To the leader it has not ended yet: a process can be signalled until it is reaped.
            _ if self.has_ended() && is_main && Signals::is_passed(reply.seq) => Ok(()),
            // A zombie is asked for at its parent.
            _ if self.has_ended() => Err(errno::ESRCH),
            Target::Process(pid) if self.children.lock().is_zombie(pid) => Ok(()),
            Target::Thread { pid, tid } if pid == tid && self.children.lock().is_zombie(pid) => {
                Ok(())
            }
            _ if !crate::leader::is_signal(signal.signal) => Err(errno::EINVAL),
            // Only asked by who has found no process by that ID.
            Target::Thread { pid, tid }
                if pid == tid && Some(pid) != self.pid() && signal.signal == 0 =>
            {
                if is_thread(tid) {
                    Ok(())
                } else {
                    Err(errno::ESRCH)
                }
            }
            // As `kill(2)` finds the process of a thread.
            Target::Process(id) if is_thread(id) => {
                let target = Target::Process(self.pid().unwrap_or(id));
                return self
                    .embedder
                    .signal(self, &Signal { target, ..*signal }, reply);
            }
            _ => return self.embedder.signal(self, signal, reply),
        };
        // A peer that is gone needs no answer.
        let _ = reply.send(self, outcome);
    }
}
