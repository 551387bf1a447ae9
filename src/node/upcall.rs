//! [`Embedder`]: the methods that the library OS provides.

use super::Node;
use super::reply::{MetadataReply, SignalReply};
use crate::error::Errno;
use crate::leader::Signals;
use crate::member::ChildExit;
use crate::pal::Pal;
use crate::store::assert_none_held;
use crate::wire::{KillTarget, MetaCode, PidKill};
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

    /// Answers a request for metadata of a pid of this process. The error number is `ESRCH` if there is no such pid,
    /// and `ENOENT` if the library OS does not have the metadata.
    fn metadata(&self, node: &Node<'_, P>, pid: Pid, what: MetaCode, reply: MetadataReply) {
        let _ = (pid, what);
        let _ = reply.send(node, Err(Errno::ENOSYS));
    }

    /// Reports that a child has ended. The node calls this once for each child; [`Node::wait_child`] reaps the
    /// child.
    fn child_ended(&self, node: &Node<'_, P>, exit: &ChildExit) {
        let _ = (node, exit);
    }

    /// Reports that the parent of this process has ended. The node calls this once for each parent, if
    /// [`Node::watch_parent`] was called before. `parent` is the pid of the new parent, if there is one.
    fn parent_ended(&self, node: &Node<'_, P>, parent: Option<Pid>) {
        let _ = (node, parent);
    }

    /// Reports that this process was cut off from the leader, which may have given to others what this process had:
    /// locks, leases, IDs ([`Config::silence_limit`](crate::Config::silence_limit)). Its calls for
    /// them fail with [`Error::CutOff`](crate::Error::CutOff). It has left the family: it cannot come back under its VMID. The
    /// node calls this once.
    fn cut_off(&self, node: &Node<'_, P>) {
        let _ = node;
    }

    /// Reports that another process leads the family: this one, if `leader` is its VMID. The node calls this once for each
    /// leader that it follows after the first, when its calls go on. `epoch` is 1 under the first leader, and one
    /// more after each succession.
    fn leader_changed(&self, node: &Node<'_, P>, leader: Vmid, epoch: u32) {
        let _ = (node, leader, epoch);
    }

    /// Reports that a process has opened a stream to this one. The leader's node calls this for every member.
    fn member_joined(&self, node: &Node<'_, P>, vmid: Vmid) {
        let _ = (node, vmid);
    }

    /// Reports that the connection with a process is closed. For the process that started this one the node also
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

impl<P: Pal> Node<'_, P> {
    /// Queues a call to the embedder. Returns false if the queue is full: the caller tries again
    /// later.
    pub(crate) fn try_enqueue_upcall(&self, upcall: Upcall) -> bool {
        self.upcalls.lock().push_back(upcall).is_ok()
    }

    /// Like [`Node::try_enqueue_upcall`], only in the worker and without any lock: runs queued
    /// calls if it must, to make room.
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
