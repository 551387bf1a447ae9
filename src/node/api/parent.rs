//! The parent of this process, and the notice of its end.

use crate::error::Error;
use crate::node::upcall::Upcall;
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::wire::{Message, ProcessNote, RelativeNote};
use crate::{Pid, Vmid};

/// The state of the parent.
pub(crate) struct Parent {
    /// None if there is no parent any more, or if the parent is no member.
    vmid: Option<Vmid>,
    pid: Option<Pid>,
    /// The process has asked for a notice of the parent's end.
    is_watched: bool,
    /// The connection with the parent is closed. The leader, if it can, reports whether the parent
    /// has ended.
    has_gone: bool,
    /// The embedder was notified that the process which started this one has left.
    is_departure_reported: bool,
}

impl Parent {
    pub(in crate::node) const fn new(vmid: Option<Vmid>, pid: Option<Pid>) -> Parent {
        Parent {
            vmid,
            pid,
            is_watched: false,
            has_gone: false,
            is_departure_reported: false,
        }
    }
}

/// # The parent
impl<P: Pal> Node<'_, P> {
    /// Requests a call of [`Embedder::parent_ended`](crate::Embedder::parent_ended) when this
    /// process's parent ends, and when each later parent ends; or cancels the request
    /// (`PR_SET_PDEATHSIG` of `prctl(2)`). Returns the pid of the present parent, if there is one: a
    /// caller that compares it with the parent that started it detects an end before this call.
    /// Ends before the call are not reported.
    ///
    /// The leader sends the notice. If the leader is a process in C, or is gone, the end of the
    /// connection with the process that started this one counts as the parent's end; then there is
    /// no new parent.
    ///
    /// # Errors
    /// [`Error::NotJoined`] if this process has not joined; else as [`Node::process`].
    pub fn watch_parent(&self, is_wanted: bool, wait: Wait<'_>) -> Result<Option<Pid>, Error> {
        self.watch_parent_in(is_wanted, wait)
    }

    /// Handles the leader's notice that the parent has ended, with the new parent. Returns false if
    /// there is no room to queue the call to the embedder: the worker tries again.
    pub(crate) fn parent_ended(&self, pid: Option<Pid>, vmid: Option<Vmid>) -> bool {
        if self.upcalls.lock().is_full() {
            return false;
        }
        let is_watched = {
            let mut parent = self.parent.lock();
            parent.vmid = vmid;
            parent.pid = pid;
            parent.has_gone = false;
            parent.is_watched
        };
        if is_watched {
            // There is room, as checked above.
            self.enqueue_upcall(Upcall::ParentEnded(pid));
        }
        true
    }

    /// Handles the end of a connection with a process that may have been the parent, or the leader.
    pub(crate) fn handle_parent_gone(&self, vmid: Vmid) {
        let counts = !self.leader_reports_ends();
        let (is_notified, has_left) = {
            let mut parent = self.parent.lock();
            parent.has_gone |= parent.vmid == Some(vmid);
            let ends = counts && parent.has_gone && parent.vmid.is_some();
            if ends {
                parent.vmid = None;
                parent.pid = None;
            }
            let has_left = Some(vmid) == self.identity.parent && !parent.is_departure_reported;
            parent.is_departure_reported |= has_left;
            (ends && parent.is_watched, has_left)
        };
        if is_notified {
            self.enqueue_upcall(Upcall::ParentEnded(None));
        }
        if has_left {
            self.enqueue_upcall(Upcall::Left(vmid));
        }
    }
}

calls! {
    fn watch_parent_in(&self, is_wanted: bool, wait: Wait<'_>) -> Result<Option<Pid>, Error> {
        self.check_running()?;
        self.pid().ok_or(Error::NotJoined)?;
        self.parent.lock().is_watched = is_wanted;
        let note = if is_wanted {
            ProcessNote::WatchParent
        } else {
            ProcessNote::IgnoreParent
        };
        let wait = self.begin(wait);
        let message = Message::ProcessNote(RelativeNote {
            note,
            pid: 0,
            vmid: 0,
        });
        self.check_running()?;
        if !self.has_extensions() && self.led_by().is_some() {
            return Ok(self.parent.lock().pid);
        }
        wait!(self.send_to(self.leader_vmid(), &message, wait))?;
        let process = wait!(self.process_in(None, wait))?;
        Ok(process.parent)
    }
}
