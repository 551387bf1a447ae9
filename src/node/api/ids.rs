//! Calls for VMIDs and IDs.

use core::time::Duration;

use crate::error::{Error, Invalid, Resource};
use crate::leader::{Op, Outcome};
use crate::member::{Allocation, Purpose};
use crate::node::rpc::{Undo, done};
use crate::node::{Delivery, LateReply, Node, Phase, Wait};
use crate::pal::Pal;
use crate::wire::{Answer, IdRange, Message};
use crate::{Id, Vmid};

/// # IDs
///
/// Pids and the IDs of threads, from ranges that the leader allocates.
impl<P: Pal> Node<'_, P> {
    /// Returns a VMID for a new process of the family.
    ///
    /// # Errors
    /// [`Error::NoIds`] when all are used up, or too many that were given out, to all or to this process, are
    /// not used yet; else as [every call](Node#errors-of-every-call).
    pub fn new_vmid(&self, wait: Wait<'_>) -> Result<Vmid, Error> {
        self.new_vmid_in(wait)
    }

    /// As the leader: admits a process that will connect with a VMID which the leader has not given out, for
    /// example a program in C that its launcher has numbered. Needed with [`Admission::Known`] only. VMIDs
    /// should be announced in about rising order: if very many are announced that no process uses, the
    /// lowest are not admitted any more.
    ///
    /// # Errors
    /// [`Error::NotLeader`] if this process is not the leader; [`Error::Invalid`] if a process has used the
    /// VMID, or the VMID is the leader's own; [`Error::ShuttingDown`].
    ///
    /// [`Admission::Known`]: crate::Admission::Known
    pub fn announce(&self, vmid: Vmid) -> Result<(), Error> {
        self.check_running()?;
        let leader = self.leading().ok_or(Error::NotLeader)?;
        if vmid == self.identity.vmid {
            return Err(Error::Invalid(Invalid::Vmid));
        }
        match leader.lock().apply(&Op::Announce(vmid)) {
            Outcome::Done => Ok(()),
            _ => Err(Error::Invalid(Invalid::Vmid)),
        }
    }

    /// Returns a fresh range of IDs, which this process owns. [`Node::take_id`] calls this by
    /// itself.
    ///
    /// # Errors
    /// [`Error::NoIds`] if there are no more for this process; else as [every call](Node#errors-of-every-call).
    pub fn alloc_range(&self, wait: Wait<'_>) -> Result<IdRange, Error> {
        self.alloc_range_in(wait)
    }

    /// Releases a range: a whole one, as it was allocated or as [`Node::change_owner`] left it. The
    /// leader does not confirm it.
    ///
    /// # Errors
    /// As [every call](Node#errors-of-every-call); if this process is the leader,
    /// [`Error::Invalid`] if the range is not one of its own, or is a pid.
    pub fn release_range(&self, range: IdRange, wait: Wait<'_>) -> Result<(), Error> {
        self.release_range_in(range, wait)
    }

    /// Transfers one ID of this process's ranges to another process. The range is split into up to
    /// three, each of which is released separately. [`Node::transfer_id`] does this for IDs that
    /// were allocated. If this process ends before the other has connected, the ID is free again,
    /// unless the leader knows that process as one that is being started.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if no process owns the ID, or the other process has left;
    /// [`Error::Refused`] with `EPERM` if another process owns it, or it is a pid, and with
    /// `ENOMEM` at the limit of the leader's ranges; else as [every
    /// call](Node#errors-of-every-call).
    pub fn change_owner(&self, id: Id, to: Vmid, wait: Wait<'_>) -> Result<(), Error> {
        self.change_owner_in(id, to, wait)
    }

    /// Returns the process that owns an ID; `None` if none does.
    ///
    /// # Errors
    /// As [every call](Node#errors-of-every-call).
    pub fn owner_of(&self, id: Id, wait: Wait<'_>) -> Result<Option<Vmid>, Error> {
        self.owner_of_in(id, wait)
    }

    /// Allocates an ID that no process of the family uses, for a thread of this process. Sends a
    /// request to the leader only when the last range is used up. If there is no further range, the
    /// ID is one that was in use here before, or one that was reserved for children.
    ///
    /// # Errors
    /// [`Error::Full`] at the limit of own ranges, [`Error::NoIds`] if the family has none left:
    /// both only if all IDs that this process owns are in use. Else as [`Node::alloc_range`].
    pub fn take_id(&self, wait: Wait<'_>) -> Result<Id, Error> {
        self.take_for_in(Purpose::Own, wait)
    }

    /// Like [`Node::take_id`], for that purpose.
    #[cfg(feature = "capi")]
    pub(crate) fn take_for(&self, purpose: Purpose, wait: Wait<'_>) -> Result<Id, Error> {
        self.take_for_in(purpose, wait)
    }

    /// Allocates an ID for a new process: `to` owns it from the start, and that process calls
    /// [`Node::accept_id`]. Once a thread has an ID, those for processes are from a range of their
    /// own, so that a thread which lives between two forks does not split it.
    ///
    /// # Errors
    /// As [`Node::take_id`] and [`Node::transfer_id`].
    pub fn take_id_for(&self, to: Vmid, wait: Wait<'_>) -> Result<Id, Error> {
        self.take_id_for_in(to, wait)
    }

    /// Transfers an ID that this process uses to another process, which then calls
    /// [`Node::accept_id`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if the ID is not in use here, [`Error::Full`] at the limit of own ranges;
    /// else as [`Node::change_owner`]. After [`Error::TimedOut`] or [`Error::Interrupted`] neither
    /// process has the ID until the leader's answer arrives.
    pub fn transfer_id(&self, id: Id, to: Vmid, wait: Wait<'_>) -> Result<(), Error> {
        self.transfer_id_in(id, to, wait)
    }

    /// Accepts an ID that another process has transferred to this one.
    ///
    /// # Errors
    /// [`Error::Full`] at the limit of own ranges, [`Error::Invalid`] if the ID is here already.
    pub fn accept_id(&self, id: Id) -> Result<(), Error> {
        self.check_running()?;
        let mut own_ids = self.own_ids.lock();
        self.check_contact()?;
        own_ids.accept(id)
    }

    /// Releases an ID. Its range is released to the leader when no ID of the range is in use.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the ID is not in use here; else as [`Node::release_range`], and then
    /// the ID is released all the same, but its range stays allocated until this process ends.
    pub fn release_id(&self, id: Id, wait: Wait<'_>) -> Result<(), Error> {
        self.release_id_in(id, wait)
    }

    /// Releases every range of which no ID is in use, even the one that IDs are allocated from: the
    /// last call before [`Node::shut_down`]. Ranges in use stay. After [`Node::exit`] there are
    /// none.
    ///
    /// # Errors
    /// As [`Node::release_range`].
    pub fn release_idle_ranges(&self, wait: Wait<'_>) -> Result<(), Error> {
        self.release_idle_ranges_in(wait)
    }

    /// Returns the number of IDs that this process has in use.
    pub fn ids_in_use(&self) -> usize {
        self.own_ids.lock().in_use()
    }

    /// Finishes the transfer of an ID after the leader has decided.
    fn finish_transfer(&self, id: Id, done: bool) {
        let idle = self.own_ids.lock().finish_transfer(id, done);
        for range in idle.into_iter().flatten() {
            // If there is no room to send this, the range stays allocated until this process ends.
            let _ = self.release_range(range, Wait::at_most(Duration::ZERO));
        }
    }

    /// Handles a request that was abandoned before it was sent: no answer will come.
    pub(crate) fn handle_unsent(&self, late: LateReply) {
        if let LateReply::TransferId(id) = late {
            self.finish_transfer(id, false);
        }
    }

    /// Does the rest of the work for an answer that was delivered.
    #[inline]
    pub(in crate::node) fn finish_delivery(&self, delivery: &Delivery) {
        match *delivery {
            Delivery::Done => return,
            Delivery::Dropped | Delivery::Wrong => {}
            Delivery::Late(late, answer) => self.handle_late_reply(late, answer),
            Delivery::DroppedLock(token, dropped, answer) => {
                self.handle_dropped_lock(token, dropped, &answer);
            }
        }
        self.counters.late_answers.add(1);
    }

    /// Handles an answer to a call that has returned.
    fn handle_late_reply(&self, late: LateReply, answer: Answer<'static>) {
        match (late, answer) {
            (LateReply::ReleaseRange, Answer::IdRange(range)) if range.start != 0 => {
                let _ = self.release_range(range, Wait::at_most(Duration::ZERO));
            }
            (LateReply::TransferId(id), answer) => self.finish_transfer(id, done(answer).is_ok()),
            _ => {}
        }
    }
}

calls! {
    fn new_vmid_in(&self, wait: Wait<'_>) -> Result<Vmid, Error> {
        let message = Message::GetNewVmid;
        match wait!(self.call(self.leader_vmid(), &message, wait))? {
            Answer::Vmid(vmid) => Vmid::new(vmid).ok_or(Error::NoIds),
            _ => Err(Error::NoIds),
        }
    }

    fn alloc_range_in(&self, wait: Wait<'_>) -> Result<IdRange, Error> {
        let message = Message::AllocIdRange;
        match wait!(self.call(self.leader_vmid(), &message, wait))? {
            Answer::IdRange(range) if range.start != 0 => Ok(range),
            _ => Err(Error::NoIds),
        }
    }

    fn release_range_in(&self, range: IdRange, wait: Wait<'_>) -> Result<(), Error> {
        let message = Message::ReleaseIdRange(range);
        wait!(self.send_to(self.leader_vmid(), &message, wait))
    }

    fn change_owner_in(&self, id: Id, to: Vmid, wait: Wait<'_>) -> Result<(), Error> {
        let message = Message::ChangeIdOwner {
            id,
            owner: to.get(),
        };
        done(wait!(self.call(self.leader_vmid(), &message, wait))?)
    }

    fn owner_of_in(&self, id: Id, wait: Wait<'_>) -> Result<Option<Vmid>, Error> {
        let message = Message::GetIdOwner(id);
        match wait!(self.call(self.leader_vmid(), &message, wait))? {
            Answer::Owner(owner) => Ok(Vmid::new(owner)),
            _ => Ok(None),
        }
    }

    fn take_for_in(&self, purpose: Purpose, wait: Wait<'_>) -> Result<Id, Error> {
        let wait = self.begin(wait);
        loop {
            self.check_running()?;
            {
                let mut own_ids = self.own_ids.lock();
                self.check_contact()?;
                if let Allocation::Id(id) = own_ids.alloc(purpose) {
                    return Ok(id);
                }
            }
            match wait!(self.add_range(wait)) {
                Ok(()) => {}
                Err(
                    error @ (Error::NoIds | Error::Full(Resource::Ranges | Resource::OwnRanges)),
                ) => {
                    let mut own_ids = self.own_ids.lock();
                    self.check_contact()?;
                    return own_ids.alloc_any().ok_or(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Adds a range from the leader, to allocate IDs from.
    fn add_range(&self, wait: Wait<'_>) -> Result<(), Error> {
        let range = wait!(self.alloc_range_in(wait))?;
        let added = self.own_ids.lock().add(range);
        if added.is_err() {
            // A future that is dropped while it waits for room leaves no range behind.
            let unsent = Undo::new(|| {
                let _ = self.release_range(range, Wait::at_most(Duration::ZERO));
            });
            let released = wait!(self.release_range_in(range, wait));
            unsent.keep();
            released?;
        }
        added
    }

    fn take_id_for_in(&self, to: Vmid, wait: Wait<'_>) -> Result<Id, Error> {
        let purpose = if to == self.identity.vmid {
            Purpose::Own
        } else {
            Purpose::Child
        };
        let wait = self.begin(wait);
        let id = wait!(self.take_for_in(purpose, wait))?;
        let taken = Undo::new(|| {
            // This fails if the owner is not known yet: then a late answer finishes the
            // transfer.
            let _ = self.release_id(id, Wait::at_most(Duration::ZERO));
        });
        wait!(self.transfer_id_in(id, to, wait))?;
        taken.keep();
        Ok(id)
    }

    fn transfer_id_in(&self, id: Id, to: Vmid, wait: Wait<'_>) -> Result<(), Error> {
        self.check_running()?;
        self.own_ids.lock().begin_transfer(id)?;
        // If the future is dropped here, the request finishes the transfer as after an interrupt.
        let changed = wait!(self.change_owner_in(id, to, wait));
        if !matches!(changed, Err(Error::TimedOut | Error::Interrupted)) {
            self.finish_transfer(id, changed.is_ok());
        }
        changed
    }

    fn release_id_in(&self, id: Id, wait: Wait<'_>) -> Result<(), Error> {
        self.check_running()?;
        let range = self.own_ids.lock().release(id)?;
        match range {
            Some(range) => wait!(self.release_range_in(range, wait)),
            None => Ok(()),
        }
    }

    fn release_idle_ranges_in(&self, wait: Wait<'_>) -> Result<(), Error> {
        if self.phase() >= Phase::Flushing {
            return Err(Error::ShuttingDown);
        }
        let wait = self.begin(wait);
        loop {
            let range = self.own_ids.lock().take_idle_range();
            let Some(range) = range else {
                return Ok(());
            };
            wait!(self.release_range_in(range, wait))?;
        }
    }
}
