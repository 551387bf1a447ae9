//! The life of a process: joining, and starting children.

use core::time::Duration;

use crate::Identity;
use crate::error::{Errno, Error, Invalid, Resource};
use crate::member::Purpose;
use crate::node::rpc::Undo;
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{Hello, Message, ProcessQuery};
use crate::{Id, Pid, Vmid, parts};

/// # The life of a process
#[allow(
    clippy::elidable_lifetime_names,
    clippy::needless_lifetimes,
    reason = "the list of public items states it so"
)]
impl<'m, P: Pal> Node<'m, P> {
    /// Returns this process's pid, once it [joined](Node::join).
    pub fn pid(&self) -> Option<Pid> {
        Pid::new(self.pid_or_zero())
    }

    /// Returns this process's pid as messages have it: 0 before it joined, which is no process's pid.
    pub(crate) fn pid_or_zero(&self) -> Id {
        if parts::PROCESSES {
            self.own_pid.load(Ordering::Acquire)
        } else {
            0
        }
    }

    /// Returns true if the leader is known to have this crate's extensions.
    pub(in crate::node) fn has_extensions(&self) -> bool {
        self.leads() || parts::EXTENSIONS && self.extended.load(Ordering::Acquire)
    }

    /// Returns the error of a call that needs the leader's extensions, if they are not known.
    pub(in crate::node) fn unsupported(&self) -> Error {
        if self.pid().is_some() {
            Error::Unsupported
        } else {
            // The leader states them when a process joins.
            Error::NotJoined
        }
    }

    /// Returns true if the leader has this process in its table: then the leader's statements about
    /// groups and ends of children include this process.
    pub(in crate::node) fn is_known_process(&self) -> bool {
        self.has_extensions() && self.pid().is_some()
    }

    /// Announces this process to its parent, which is notified of its end from now on, and to the
    /// leader. Returns its pid: the one that its parent allocated for it, or else a new one. To be
    /// called once, before any other call about processes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it joined already, or if the pid is not this process's; [`Error::Refused`] with `ENOMEM` if
    /// the leader has no room, and [`Error::Full`] if this is the leader; [`Error::LimitsDiffer`] if
    /// [`Capacities::sync_data`](crate::Capacities::sync_data) differs from that of the leader, and
    /// both use sync handles; else as [`Node::take_id_for`].
    pub fn join(&self, wait: Wait<'_>) -> Result<Pid, Error> {
        self.join_as(self.identity.pid, wait)
    }

    /// Like [`Node::join`], with a pid that this process owns; `None` allocates one.
    pub(crate) fn join_as(&self, pid: Option<Pid>, wait: Wait<'_>) -> Result<Pid, Error> {
        self.join_in(pid, wait)
    }

    /// Prepares a child: allocates its VMID, its pid and its slots in the tables. The embedder then
    /// starts the child with the identity that this returns, and the child [joins](Node::join). It
    /// is in this process's group and session. If this process ends before the child has joined,
    /// the child gets another parent, as any orphan, and must join within
    /// [`Config::start_limit`](crate::Config::start_limit).
    ///
    /// If the start fails, call [`Node::abandon_child`]. If this call fails there is no child, and
    /// the leader reclaims the child's IDs, possibly after the call.
    ///
    /// # Errors
    /// [`Error::NotJoined`] if this process has not joined; [`Error::Full`] at the limit of
    /// children or, at the leader, of processes ([`Error::Refused`], `ENOMEM`); else as
    /// [`Node::take_id_for`].
    pub fn start_child(&self, wait: Wait<'_>) -> Result<Identity, Error> {
        self.start_child_in(wait)
    }

    /// Adds a child that is about to start to the leader's table, if the leader has one.
    #[cfg(feature = "capi")]
    pub(crate) fn announce_child(&self, vmid: Vmid, pid: Id, wait: Wait<'_>) -> Result<(), Error> {
        self.announce_child_in(vmid, pid, wait)
    }
}

calls! {
    fn join_in(&self, pid: Option<Pid>, wait: Wait<'_>) -> Result<Pid, Error> {
        self.check_running()?;
        if self.pid().is_some() {
            return Err(Error::Invalid(Invalid::Joined));
        }
        let wait = self.begin(wait);
        wait!(self.await_leader_limits(wait))?;
        let pid = if let Some(pid) = pid {
            pid
        } else {
            let taken = wait!(self.take_id_for_in(self.identity.vmid, wait))?;
            Pid::new(taken).ok_or(Error::Invalid(Invalid::Answer))?
        };
        let hello = Hello {
            version: Hello::VERSION,
            features: self.hello_features(),
            pid: pid.get(),
            parent: Vmid::number(self.identity.parent),
        };
        // As soon as other processes know of this one, they send requests about its pid.
        self.own_pid.store(pid.get(), Ordering::Release);
        let joined = Undo::new(|| self.own_pid.store(0, Ordering::Release));
        wait!(self.send_hello(&hello, wait))?;
        joined.keep();
        Ok(pid)
    }

    fn send_hello(&self, hello: &Hello, wait: Wait<'_>) -> Result<(), Error> {
        // The parent comes first, so that the parent knows of this process when the leader does.
        if let Some(parent) = self.identity.parent {
            self.connect(parent)?;
        }
        let message = Message::Hello(*hello);
        loop {
            if self.current_epoch().is_none() {
                // The look-up is answered when there is a leader again.
                wait!(self.owner_of_in(1, wait))?;
            }
            let epoch = self.current_epoch();
            match wait!(self.send_to(self.leader_vmid(), &message, wait)) {
                // The leader has ended meanwhile. The next round waits for its successor, if there may be one.
                Err(Error::LeaderGone | Error::NoSuchProcess) if self.awaits_successor() => {
                    wait!(self.owner_of_in(1, wait))?;
                    continue;
                }
                Err(Error::Invalid(Invalid::Message)) if self.leads() => {
                    let owner = wait!(self.owner_of_in(hello.pid, wait))?;
                    return Err(if owner == Some(self.identity.vmid) {
                        Error::Full(Resource::Processes)
                    } else {
                        Error::Invalid(Invalid::Pid)
                    });
                }
                sent => sent?,
            }
            // A leader in C does not know HELLO and sends none. A leader of this crate has sent its own
            // before it answers this.
            let owner = wait!(self.owner_of_in(hello.pid, wait))?;
            if !self.has_extensions() {
                return Ok(());
            }
            let query = ProcessQuery {
                pid: hello.pid,
                ..ProcessQuery::default()
            };
            let process = match wait!(self.query(&query, wait)) {
                Err(Error::NoSuchProcess) if owner != Some(self.identity.vmid) => {
                    return Err(Error::Invalid(Invalid::Pid));
                }
                // This process has its pid, so the leader had no place for it.
                Err(Error::NoSuchProcess) => {
                    return Err(Error::Refused {
                        errno: Errno::ENOMEM,
                        by: None,
                    });
                }
                process => process?,
            };
            // A leader that is gone may not have taken the message, and its successor knows the pid from the parent.
            if epoch == self.current_epoch() {
                return if process.vmid == Some(self.identity.vmid) {
                    Ok(())
                } else {
                    Err(Error::Invalid(Invalid::Pid))
                };
            }
        }
    }

    fn start_child_in(&self, wait: Wait<'_>) -> Result<Identity, Error> {
        self.check_running()?;
        let parent_pid = self.pid().ok_or(Error::NotJoined)?;
        let wait = self.begin(wait);
        let vmid = wait!(self.new_vmid_in(wait))?;
        self.children.lock().reserve(vmid)?;
        let reserved = Undo::new(|| self.children.lock().cancel_reservation(vmid));
        let pid = wait!(self.take_for_in(Purpose::Child, wait))?;
        self.children.lock().start(vmid, pid);
        reserved.keep();
        let child = Identity {
            vmid,
            parent: Some(self.identity.vmid),
            leader: Some(self.leader_vmid()),
            pid: Pid::new(pid),
            parent_pid: Some(parent_pid),
            heir: None,
        };
        let transferred = Undo::new(|| {
            let released = self.release_id(pid, Wait::at_most(Duration::ZERO));
            if matches!(released, Err(Error::Invalid(_))) {
                // The owner of the ID is not known yet.
                let _ = self.abandon_child(vmid);
            } else {
                self.children.lock().cancel_reservation(vmid);
            }
        });
        wait!(self.transfer_id_in(pid, vmid, wait))?;
        transferred.keep();
        let announced = Undo::new(|| {
            let _ = self.abandon_child(vmid);
        });
        wait!(self.announce_child_in(vmid, pid, wait))?;
        announced.keep();
        // Another process may lead by now.
        Ok(Identity {
            leader: Some(self.leader()),
            heir: self.known_heir(),
            ..child
        })
    }

    fn announce_child_in(&self, vmid: Vmid, pid: Id, wait: Wait<'_>) -> Result<(), Error> {
        if !self.has_extensions() {
            return Ok(());
        }
        let vmid = vmid.get();
        let message = Message::ProcessStart { vmid, pid };
        wait!(self.change_process(&message, wait))
    }

}
