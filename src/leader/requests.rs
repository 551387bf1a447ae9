//! Requests that concern several of the leader's tables.

use super::{Leader, Presence};
use crate::error::{Errno, Error, Invalid, Resource};
use crate::wire::{Hello, IdRange};
use crate::{Id, Vmid};

impl Leader<'_> {
    /// Gives an ID of a range of `from` to `to`, as [`Ranges::change_owner`] does. If `to` has not
    /// connected when `from` leaves, the ID is freed.
    ///
    /// # Errors
    /// As there; [`Error::NoSuchProcess`] if `to` has left, [`Error::Full`] if too many IDs are
    /// given to processes that have not connected.
    pub(super) fn change_owner(
        &mut self,
        from: Vmid,
        id: Id,
        to: Vmid,
        presence: Presence,
    ) -> Result<(), Error> {
        if self.departed.contains(to) {
            return Err(Error::NoSuchProcess);
        }
        if self.processes.is_pid_in_use(id) {
            return Err(Error::Refused {
                errno: Errno::EPERM,
                by: None,
            });
        }
        if to == from || to == self.own() || presence.is_connected() {
            return self.ranges.change_owner(from, id, to);
        }
        if !self.pending_grants.has_room(from) {
            return Err(Error::Full(Resource::Ranges));
        }
        self.ranges.grant_pending(from, id, to)?;
        self.pending_grants.record(from, id, to);
        Ok(())
    }

    /// Releases a range, as [`Ranges::release`] does.
    ///
    /// # Errors
    /// As there; and [`Error::Refused`] (`EPERM`) for the pid of a process, which is freed when its
    /// parent has reaped it.
    pub(super) fn release(&mut self, from: Vmid, range: IdRange) -> Result<(), Error> {
        if self.processes.is_pid_in_use(range.start) {
            return Err(Error::Refused {
                errno: Errno::EPERM,
                by: None,
            });
        }
        self.ranges.release(from, range)
    }

    /// Adds the process of `from`, which joins.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it does not own the pid as a range of one ID; [`Error::Full`] if there
    /// is no room.
    pub(super) fn join(&mut self, from: Vmid, hello: &Hello) -> Result<(), Error> {
        if hello.pid == 0 {
            return Ok(());
        }
        if !self.ranges.is_single(hello.pid, from) {
            return Err(Error::Invalid(Invalid::Pid));
        }
        self.processes
            .join(from, hello.pid, Vmid::new(hello.parent))
    }

    pub(super) fn start(&mut self, from: Vmid, vmid: u32, pid: Id) -> Result<(), Error> {
        let vmid = Vmid::new(vmid).ok_or(Error::Invalid(Invalid::Vmid))?;
        // A child's VMID was assigned before; the leader's own is not that of a child.
        let is_given = !self.vmids.is_ahead(vmid);
        // The child owns its pid, which its parent has given to it, and it has not connected.
        let is_granted = self.pending_grants.recipient(from, pid) == Some(vmid);
        let is_its = is_granted && self.ranges.is_single(pid, vmid);
        if vmid == self.own() || !is_given || !is_its {
            return Err(Error::Invalid(Invalid::Pid));
        }
        self.processes.start(from, vmid, pid)
    }

    /// Records that a member holds an open file (`held`), or has closed it; or, with another's
    /// VMID, that it gives the open file to the other, or takes it back. `presence` is the
    /// connection of the other. Returns false if only a portion of the locks of a closed file was
    /// released.
    ///
    /// # Errors
    /// `ESRCH` if the other has left, `ENOLCK` if there is no room; then nothing has changed.
    pub(super) fn update_open_file(
        &mut self,
        from: Vmid,
        other: Option<Vmid>,
        open_file: u64,
        held: bool,
        presence: Presence,
    ) -> Result<bool, Errno> {
        let is_connected = presence.is_connected();
        let is_noted = match (other, held) {
            (Some(to), true) if self.departed.contains(to) => return Err(Errno::ESRCH),
            (Some(to), true) if is_connected && !self.processes.is_starting(to) => {
                self.locks.send_open_file(from, to, open_file)
            }
            (Some(to), true) => {
                let is_noted = self.locks.inherit_open_file(from, to, open_file);
                if is_connected {
                    self.locks.mark_open_file_joined(to, open_file);
                }
                is_noted
            }
            (None, true) => self.locks.accept_open_file(from, open_file),
            (Some(to), false) => {
                self.locks.retract_open_file(from, to, open_file);
                true
            }
            (None, false) => {
                return Ok(self.locks.close_open_file_portion(from, open_file));
            }
        };
        if !is_noted {
            return Err(Errno::ENOLCK);
        }
        if let Some(to) = other
            && held
            && presence == Presence::Extended
        {
            self.locks.allow_notice(to, open_file);
        }
        Ok(true)
    }
}
