//! [`Embedder`]: the methods that the library OS provides, and the replies to them.

use core::ffi::CStr;

use super::succession::{Put, keep_answer};
use super::{Node, PeerRef};
use crate::error::{Errno, Error};
use crate::invariant::Count;
use crate::leader::Signals;
use crate::member::{ChildExit, KeptFrames};
use crate::pal::Pal;
use crate::store::assert_none_held;
use crate::wire::{Answer, KillTarget, MetaCode, PATH_MAX, PidKill};
use crate::{Id, Pid, Vmid};

/// The target of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A thread, found by the pid of its process.
    Thread {
        /// The process's pid.
        pid: Pid,
        /// The thread.
        tid: Id,
    },
    /// A process.
    Process(Pid),
    /// Every process of a group; `None` for the sender's own.
    Group(Option<Pid>),
    /// Every process but the sender.
    All,
}

/// A signal for this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Signal {
    /// The process that sent the message: the leader, if the signal came through the leader.
    pub from: Vmid,
    /// The pid of the sender, as the sending process states it; `None` if it states none, or if the
    /// leader merged signals of several senders into one.
    pub sender: Option<Pid>,
    /// The target. Only peers in C send a signal for a whole group to a process; processes of this
    /// crate send one signal for each member of the group.
    pub target: Target,
    /// The number of the signal. 0 checks whether the signal could be sent.
    pub signal: i32,
}

/// The methods that the library OS provides. Every method has a default, which answers `ENOSYS` or
/// does nothing.
///
/// The worker calls these methods, with no lock held; so does a thread that signals its own process
/// or requests its metadata. A method must not block. An answer that takes time is sent later
/// through the reply, from any thread.
///
/// A method that panics in the worker, in a program whose panics unwind, ends the node: its streams
/// are closed, so that the other processes see it go, its calls fail with
/// [`Error::ShuttingDown`](crate::Error), and the panic goes on in [`Node::work`] or [`Node::poll`].
pub trait Embedder<P: Pal>: Sync {
    /// Delivers a signal to a thread or to the process. The answer is success, or an error
    /// number: `ESRCH` if there is no such target, `EPERM` if the sender may not signal it
    /// (`kill(2)`).
    fn signal(&self, node: &Node<'_, P>, signal: &Signal, reply: SignalReply) {
        let _ = signal;
        let _ = reply.send(node, Err(Errno::ENOSYS));
    }

    /// Answers a request for metadata of a pid of this process. `ESRCH` if there is no such pid,
    /// `ENOENT` if the library OS does not have it.
    fn metadata(&self, node: &Node<'_, P>, pid: Pid, what: MetaCode, reply: MetadataReply) {
        let _ = (pid, what);
        let _ = reply.send(node, Err(Errno::ENOSYS));
    }

    /// A child has ended. The node calls this once for each child; [`Node::wait_child`] reaps the
    /// child.
    fn child_ended(&self, node: &Node<'_, P>, exit: &ChildExit) {
        let _ = (node, exit);
    }

    /// The parent of this process has ended. The node calls this once for each parent, if
    /// [`Node::watch_parent`] was called before. `parent` is the pid of the new parent, if there is one.
    fn parent_ended(&self, node: &Node<'_, P>, parent: Option<Pid>) {
        let _ = (node, parent);
    }

    /// This process was cut off from the leader, which may have given to others what this process had:
    /// locks, leases, IDs ([`Config::silence_limit`](crate::Config::silence_limit)). Its calls for
    /// them fail with [`Error::CutOff`]. It has left the family: it cannot come back under its VMID. The
    /// node calls this once.
    fn cut_off(&self, node: &Node<'_, P>) {
        let _ = node;
    }

    /// Another process leads the family: this one, if `leader` is its VMID. The node calls this once for each
    /// leader that it follows after the first, when its calls go on. `epoch` is the number of the
    /// reign: 1 for the first leader.
    fn leader_changed(&self, node: &Node<'_, P>, leader: Vmid, epoch: u32) {
        let _ = (node, leader, epoch);
    }

    /// A process has opened a stream to this one. On the leader this is called for every member.
    fn member_joined(&self, node: &Node<'_, P>, vmid: Vmid) {
        let _ = (node, vmid);
    }

    /// The connection with a process is closed. For the process that started this one the node also
    /// calls this if that process never opened a stream.
    fn member_left(&self, node: &Node<'_, P>, vmid: Vmid) {
        let _ = (node, vmid);
    }
}

/// A library OS with the default answers.
pub(crate) struct NoEmbedder;

impl<P: Pal> Embedder<P> for NoEmbedder {}

/// A call to the embedder, queued until the worker holds no lock.
#[derive(Clone, Copy)]
pub(crate) enum Upcall {
    Signal(Signal, SignalReply),
    Metadata(Pid, MetaCode, MetadataReply),
    ChildEnded(ChildExit),
    ParentEnded(Option<Pid>),
    CutOff,
    LeaderChanged(Vmid, u32),
    Joined(Vmid),
    Left(Vmid),
}

impl Signal {
    /// Returns the signal that a message states.
    ///
    /// # Errors
    /// `ESRCH` if its target is process 0, which no process is.
    pub(crate) fn read(from: Vmid, kill: &PidKill) -> Result<Signal, Errno> {
        let process = |number| Pid::new(number).ok_or(Errno::ESRCH);
        Ok(Signal {
            from,
            sender: Pid::new(kill.sender),
            target: match kill.target {
                KillTarget::Thread => Target::Thread {
                    pid: process(kill.pid)?,
                    tid: kill.id,
                },
                KillTarget::Process => Target::Process(process(kill.id)?),
                KillTarget::Group => Target::Group(Pid::new(kill.id)),
                KillTarget::All => Target::All,
            },
            signal: kill.signal,
        })
    }
}

/// The reply to a signal; it is sent once. The send queue of the peer keeps room for it until it is
/// sent or the peer is gone, so the peer can have fewer other requests pending.
#[derive(Clone, Copy, Debug)]
#[must_use = "the peer waits for this reply"]
pub struct SignalReply {
    pub(crate) to: Vmid,
    pub(crate) seq: u64,
}

impl SignalReply {
    /// The bytes that the send queue keeps for the reply.
    pub(crate) const ROOM: usize = Answer::DONE.length();

    /// Sends the reply: success, or an error number.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if the peer is gone.
    pub fn send<P: Pal>(self, node: &Node<'_, P>, outcome: Result<(), Errno>) -> Result<(), Error> {
        let answer = Answer::Status(outcome.map(|()| 0));
        node.reply(self.to, self.seq, &answer, Self::ROOM)
    }
}

/// The answer to a request for metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Metadata<'a> {
    /// Its user and group.
    Credentials {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// The path that the peer requested, at most [`PATH_MAX`] bytes with its NUL.
    Path(&'a CStr),
}

/// The reply to a request for metadata; it is sent once, as [`SignalReply`].
#[derive(Clone, Copy, Debug)]
#[must_use = "the peer waits for this reply"]
pub struct MetadataReply {
    pub(crate) to: Vmid,
    pub(crate) seq: u64,
}

impl MetadataReply {
    /// The bytes that the send queue keeps for the reply.
    pub(crate) const ROOM: usize = Answer::LONGEST_META;

    /// Sends the reply: the data, or an error number. A path that is too long becomes
    /// `ENAMETOOLONG`.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if the peer is gone.
    pub fn send<P: Pal>(
        self,
        node: &Node<'_, P>,
        outcome: Result<Metadata<'_>, Errno>,
    ) -> Result<(), Error> {
        let numbers;
        let data = match outcome {
            Err(errno) => Err(errno),
            Ok(Metadata::Credentials { uid, gid }) => {
                numbers = (u64::from(gid) << 32 | u64::from(uid)).to_le_bytes();
                Ok(numbers.as_slice())
            }
            Ok(Metadata::Path(path)) if path.count_bytes() < PATH_MAX => {
                Ok(path.to_bytes_with_nul())
            }
            Ok(Metadata::Path(_)) => Err(Errno::ENAMETOOLONG),
        };
        node.reply(self.to, self.seq, &Answer::Meta(data), Self::ROOM)
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// Queues the reply to a request that went to the embedder. `room` bytes were reserved for it.
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
        // The answer to a signal that came through the leader goes to its successor.
        let to = if self.follows() && Signals::is_forwarded(seq) {
            self.leader_vmid()
        } else {
            to
        };
        if to == self.identity.vmid {
            if self.answer_own_signal(seq, answer) {
                return Ok(());
            }
            let delivery = self.waiters.answer_here(to, seq, answer);
            self.finish_delivery(&delivery);
            return Ok(());
        }
        let peer = self.peers.find(to).ok_or(Error::NoSuchProcess)?;
        if self.queue_reply(&peer, seq, answer, room)? {
            self.flush(&peer);
        } else {
            self.disconnect_peer(&peer);
        }
        // The worker may have paused the reads of this peer's requests because there was no room.
        if peer.reads_paused.load(crate::sync::Ordering::SeqCst) {
            self.call_worker(&peer);
        }
        Ok(())
    }

    /// As a leader: handles its own process's answer to a signal that came through an earlier leader. False if
    /// the answer is to something else.
    fn answer_own_signal(&self, seq: u64, answer: &Answer<'_>) -> bool {
        if !Signals::is_forwarded(seq) {
            return false;
        }
        if let Answer::Status(result) = answer {
            self.signal_answered(self.identity.vmid, seq, result.map(drop));
        }
        true
    }

    /// Puts the reply into the send queue of the peer, which keeps `room` bytes for it. Returns false if the
    /// answer is invalid, or the peer has asked for more than it may: it is to be disconnected.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if the peer is gone.
    pub(super) fn queue_reply(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        answer: &Answer<'_>,
        room: usize,
    ) -> Result<bool, Error> {
        let too_long = Answer::Meta(Err(Errno::EMSGSIZE));
        let answer = if peer.accepts_length(answer.length()) {
            answer
        } else {
            &too_long
        };
        let kept = if self.follows() {
            self.kept_answer(peer.vmid(), seq)
        } else {
            None
        };
        let mut is_mark_due = false;
        let pushed = {
            let mut queue = peer.queue.lock();
            let length = answer.length();
            let keep = |kept: &mut KeptFrames<'m>| keep_answer(kept, seq, answer);
            let keeping = match kept.map(|kept| kept.check(length, queue.closed, keep)) {
                None => None,
                Some(Ok(Put::Queue(keeping))) => Some(keeping),
                Some(Ok(Put::Kept)) => return Ok(true),
                // The leader has sent more signals than it may.
                Some(Err(Error::Full(_))) => return Ok(false),
                Some(Err(error)) => return Err(error),
            };
            // The room for an answer to the leader was reserved at the one that has asked.
            let is_moved = keeping.is_some() && queue.reserved < room;
            let is_short = if is_moved {
                queue.room() < length
            } else {
                queue.reserved < room
            };
            if queue.closed || is_short {
                return Err(Error::NoSuchProcess);
            }
            if !is_moved {
                queue.reserved = queue.reserved.minus(room);
            }
            self.queue_hello_first(peer, &mut queue);
            let pushed = queue.filling.push_answer(seq, answer).is_ok();
            queue.record_push();
            if let Some(keeping) = keeping
                && pushed
            {
                is_mark_due = keeping.record(&queue, length);
            }
            pushed
        };
        if is_mark_due {
            self.mark_if_due(peer);
        }
        if pushed {
            self.trace_answer_tx(peer.vmid(), seq, answer);
        }
        Ok(pushed)
    }

    /// Queues a call to the embedder. False if the queue is full: the caller tries again later.
    pub(crate) fn try_enqueue_upcall(&self, upcall: Upcall) -> bool {
        self.upcalls.lock().push_back(upcall).is_ok()
    }

    /// As [`Node::try_enqueue_upcall`], only in the worker and without any lock: runs queued calls
    /// if it must, to make room.
    pub(crate) fn enqueue_upcall(&self, upcall: Upcall) {
        while !self.try_enqueue_upcall(upcall) {
            self.run_upcalls();
        }
    }

    /// Runs the queued calls to the embedder. Only in the worker, without any lock.
    pub(crate) fn run_upcalls(&self) {
        assert_none_held();
        loop {
            // The lock is released before the call.
            let next = self.upcalls.lock().pop_front();
            match next {
                None => return,
                Some(Upcall::Signal(signal, reply)) => self.deliver(&signal, reply),
                Some(Upcall::Metadata(_, _, reply)) if self.has_ended() => {
                    // A peer that is gone needs no answer.
                    let _ = reply.send(self, Err(Errno::ESRCH));
                }
                Some(Upcall::Metadata(pid, what, reply)) => {
                    self.embedder.metadata(self, pid, what, reply);
                }
                Some(Upcall::ChildEnded(exit)) => self.embedder.child_ended(self, &exit),
                Some(Upcall::ParentEnded(_)) if self.has_ended() => {}
                Some(Upcall::ParentEnded(parent)) => self.embedder.parent_ended(self, parent),
                Some(Upcall::CutOff) => self.embedder.cut_off(self),
                Some(Upcall::LeaderChanged(leader, epoch)) => {
                    self.embedder.leader_changed(self, leader, epoch);
                }
                Some(Upcall::Joined(vmid)) => self.embedder.member_joined(self, vmid),
                Some(Upcall::Left(vmid)) => self.embedder.member_left(self, vmid),
            }
        }
    }

    /// Delivers a signal to this process or to a zombie of it. A zombie needs no embedder.
    pub(crate) fn deliver(&self, signal: &Signal, reply: SignalReply) {
        assert_none_held();
        let is_thread = |id| id != self.pid_or_zero() && self.own_ids.lock().is_in_use(id);
        let is_main = match signal.target {
            Target::Process(_) => true,
            Target::Thread { pid, tid } => pid.get() == tid,
            Target::Group(_) | Target::All => false,
        };
        let outcome = match signal.target {
            // For the leader this process is there until it is reaped, so a signal that the leader
            // forwards succeeds.
            _ if self.has_ended() && is_main && Signals::is_forwarded(reply.seq) => Ok(()),
            // The parent of a zombie answers for it.
            _ if self.has_ended() => Err(Errno::ESRCH),
            Target::Process(pid) if self.children.lock().is_zombie(pid.get()) => Ok(()),
            Target::Thread { pid, tid }
                if pid.get() == tid && self.children.lock().is_zombie(tid) =>
            {
                Ok(())
            }
            _ if !crate::leader::is_signal(signal.signal) => Err(Errno::EINVAL),
            // Only a process that found no process with that ID sends this.
            Target::Thread { pid, tid }
                if pid.get() == tid && Some(pid) != self.pid() && signal.signal == 0 =>
            {
                if is_thread(tid) {
                    Ok(())
                } else {
                    Err(Errno::ESRCH)
                }
            }
            // `kill(2)` with the ID of a thread signals its process.
            Target::Process(id) if is_thread(id.get()) => {
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
