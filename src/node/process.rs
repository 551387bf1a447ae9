//! A process's life: joining, starting children, ending.

use super::ids::Ask;
use super::{Node, Wait};
use crate::config::Identity;
use crate::error::Error;
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{ChildExit, Hello, Message, ProcessQuery};
use crate::{Id, Vmid};

/// How a process ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Its user.
    pub uid: u32,
    /// What it returns.
    pub code: u32,
    /// The signal that ends it; 0 if none does.
    pub signal: u32,
}

impl<P: Pal> Node<'_, P> {
    /// This process's pid, once it [joined](Node::join).
    pub fn pid(&self) -> Option<Id> {
        match self.own_pid.load(Ordering::Acquire) {
            0 => None,
            pid => Some(pid),
        }
    }

    /// Whether the leader is known to have this crate's extensions.
    pub(super) fn has_extensions(&self) -> bool {
        self.identity.is_leader() || self.extended.load(Ordering::Acquire)
    }

    /// Whether the leader has this process in its table: what the table says about groups and ends
    /// of children is then for it, too.
    pub(super) fn is_known_process(&self) -> bool {
        self.has_extensions() && self.pid().is_some()
    }

    /// Makes this process known as such: to the leader, and to its parent, which from now on
    /// notices its end. Returns its pid: that which its parent took for it, or else a fresh one.
    /// To be called once, before anything else that is about processes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it joined already; [`Error::Full`] or [`Error::Refused`] if the
    /// leader has no room or the pid is not this process's; else as [`Node::take_id_for`].
    pub fn join(&self, wait: Wait<'_>) -> Result<Id, Error> {
        if self.pid().is_some() {
            return Err(Error::Invalid);
        }
        let pid = match self.identity.pid {
            0 => self.take_id_for(self.identity.vmid, wait)?,
            pid => pid,
        };
        let hello = Hello {
            version: Hello::VERSION,
            features: 0,
            pid,
            parent: self.identity.parent.map_or(0, Vmid::get),
        };
        // From the moment that others know of it, it is asked about its pid.
        self.own_pid.store(pid, Ordering::Release);
        let introduced = self.say_hello(&hello, wait);
        if introduced.is_err() {
            self.own_pid.store(0, Ordering::Release);
        }
        introduced.map(|()| pid)
    }

    fn say_hello(&self, hello: &Hello, wait: Wait<'_>) -> Result<(), Error> {
        // The parent first: when the leader knows of this process, its parent does.
        if let Some(parent) = self.identity.parent {
            self.connect(parent)?;
        }
        let leader = match self.leader()? {
            Ask::Here(leader) => return leader.lock().join(self.identity.vmid, hello),
            Ask::There(leader) => leader,
        };
        self.send(leader, &Message::Hello(*hello), wait)?;
        // A leader in C knows no HELLO and sends none. One of ours has sent its own before it
        // answers this.
        self.owner_of(hello.pid, wait)?;
        if !self.has_extensions() {
            return Ok(());
        }
        let query = ProcessQuery {
            pid: hello.pid,
            ..ProcessQuery::default()
        };
        if self.query(&query, wait)?.vmid == self.identity.vmid.get() {
            Ok(())
        } else {
            Err(Error::Invalid)
        }
    }

    /// Prepares a child: its VMID, its pid, its places in the tables. The child is to be made with
    /// the identity that this returns, and to [`Node::join`]. It is in this process's group and
    /// session. A child that has not joined when this process ends is not started any more.
    ///
    /// If its start fails, [`Node::bury`] it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if this process has not joined; [`Error::Full`] at the limit of
    /// children or, at the leader, of processes ([`Error::Refused`], `ENOMEM`); else as
    /// [`Node::take_id_for`].
    pub fn start_child(&self, wait: Wait<'_>) -> Result<Identity, Error> {
        let parent_pid = self.pid().ok_or(Error::Unsupported)?;
        let vmid = self.new_vmid(wait)?;
        let pid = self.take_id_for(vmid, wait)?;
        let child = Identity {
            vmid,
            parent: Some(self.identity.vmid),
            leader: self.identity.leader.or(Some(self.identity.vmid)),
            pid,
            parent_pid,
        };
        let added = self.children.lock().add(pid, vmid);
        let started = added.and_then(|()| {
            if self.has_extensions() {
                let message = Message::ProcessStart {
                    vmid: vmid.get(),
                    pid,
                };
                self.change_process(&message, wait)
            } else {
                Ok(())
            }
        });
        if let Err(error) = started {
            // Nobody ever was this child.
            if matches!(error, Error::Refused(_) | Error::Full(_)) {
                self.unborn(vmid);
                let _ = self.come_and_go(vmid);
            } else {
                // The leader may know of it.
                let _ = self.bury(vmid);
            }
            return Err(error);
        }
        Ok(child)
    }

    /// Says how this process ends: to its parent, and to the leader, which tells whoever inherits
    /// it. The last thing before [`Node::shut_down`], but for [`Node::give_back_ids`].
    ///
    /// # Errors
    /// As [`Node::send`]; a parent that is gone is none.
    pub fn exit(&self, exit: Exit, wait: Wait<'_>) -> Result<(), Error> {
        let pid = self.pid().unwrap_or(self.identity.pid);
        // The leader drops the locks that it has.
        self.borrowed.lock().clear_pid(self.identity.vmid, pid);
        let notice = Message::ChildExit(ChildExit {
            parent_pid: self.identity.parent_pid,
            pid,
            uid: exit.uid,
            exit_code: exit.code,
            term_signal: exit.signal,
        });
        let parent = self.identity.parent;
        let leader = self
            .identity
            .leader
            .filter(|leader| Some(*leader) != parent && self.has_extensions());
        for to in [leader, parent].into_iter().flatten() {
            match self.send(to, &notice, wait) {
                Ok(()) | Err(Error::NoSuchProcess | Error::LeaderGone) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
