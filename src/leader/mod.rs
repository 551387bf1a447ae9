//! What the first process of a family decides for all: VMIDs and who owns which IDs.
//!
//! A pure state machine: a message of a member goes in, an answer comes out. It has no clock, no
//! stream and no lock.

mod ranges;

use crate::error::{Error, errno};
use crate::store::Arena;
use crate::wire::{Answer, IdRange, Message};
use crate::{Id, Vmid};

pub use ranges::{Alloc, Ranges, Reclaim};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This is the answer to send to the asker.
    Answer(Answer<'static>),
    /// Done; no answer is due.
    Done,
    /// A well-formed request that can't be done, to which no answer is due: to be counted.
    CannotBeDone,
    /// The table is busy with something long: hand the same message in again.
    Again,
    /// No message of a leader's role.
    NotForLeader,
}

/// How many of those who left are remembered: more than can leave while a request is under way.
const DEPARTED: usize = 256;

/// The leader's tables.
pub struct Leader<'m> {
    ranges: Ranges<'m>,
    next_vmid: Option<Vmid>,
    /// Who left lately: a ring. An ID handed to one of them would be nobody's for ever.
    departed: [u32; DEPARTED],
    next_departed: usize,
}

impl<'m> Leader<'m> {
    /// The memory the tables take, with room for that many ID ranges.
    pub const fn bytes(ranges: usize) -> usize {
        Ranges::bytes(ranges)
    }

    /// Empty tables, cut from `arena`; `wrap_ids` as in [`Ranges::new`].
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn new(arena: &mut Arena<'m>, ranges: usize, wrap_ids: bool) -> Result<Self, Error> {
        Ok(Leader {
            ranges: Ranges::new(arena, ranges, wrap_ids)?,
            next_vmid: Vmid::new(2),
            departed: [0; DEPARTED],
            next_departed: 0,
        })
    }

    /// The next VMID; `None` when all are used up. The caller passes over one that somebody
    /// already goes by without having been given it.
    pub fn new_vmid(&mut self) -> Option<Vmid> {
        let vmid = self.next_vmid?;
        self.next_vmid = vmid.get().checked_add(1).and_then(Vmid::new);
        Some(vmid)
    }

    /// A member joined.
    pub fn joined(&mut self, vmid: Vmid) {
        for departed in self
            .departed
            .iter_mut()
            .filter(|departed| **departed == vmid.get())
        {
            *departed = 0;
        }
    }

    /// A member left. Its ranges are to be taken back with [`Ranges::reclaim`].
    pub fn left(&mut self, vmid: Vmid) {
        if let Some(place) = self.departed.get_mut(self.next_departed) {
            *place = vmid.get();
        }
        self.next_departed = self.next_departed.wrapping_add(1) % DEPARTED;
    }

    /// Gives an ID of a range of `from` to `to`, as [`Ranges::change_owner`] does.
    ///
    /// # Errors
    /// As there; and [`Error::NoSuchProcess`] if `to` has left.
    pub fn change_owner(&mut self, from: Vmid, id: Id, to: Vmid) -> Result<(), Error> {
        if self.departed.contains(&to.get()) {
            return Err(Error::NoSuchProcess);
        }
        self.ranges.change_owner(from, id, to)
    }

    /// The table of ID ranges.
    pub fn ranges(&mut self) -> &mut Ranges<'m> {
        &mut self.ranges
    }

    /// Handles a message of the member `from`.
    pub fn handle(&mut self, from: Vmid, message: &Message<'_>) -> Outcome {
        match *message {
            Message::GetNewVmid => {
                Outcome::Answer(Answer::Vmid(self.new_vmid().map_or(0, Vmid::get)))
            }
            Message::AllocIdRange => match self.ranges.alloc(from) {
                Alloc::Range(range) => Outcome::Answer(Answer::IdRange(range)),
                Alloc::NoneLeft | Alloc::TableFull => {
                    Outcome::Answer(Answer::IdRange(IdRange { start: 0, end: 0 }))
                }
                Alloc::Again => Outcome::Again,
            },
            Message::ReleaseIdRange(range) => match self.ranges.release(from, range) {
                Ok(()) => Outcome::Done,
                Err(_) => Outcome::CannotBeDone,
            },
            Message::ChangeIdOwner { id, owner } => {
                let changed = match Vmid::new(owner) {
                    Some(owner) => self.change_owner(from, id, owner),
                    None => Err(Error::Invalid),
                };
                Outcome::Answer(match changed {
                    Ok(()) => Answer::Empty,
                    Err(error) => Answer::Status(error.errno().saturating_neg()),
                })
            }
            Message::GetIdOwner(id) => {
                Outcome::Answer(Answer::Owner(self.ranges.owner_of(id).map_or(0, Vmid::get)))
            }
            Message::FileLockSet(_) | Message::FileLockClearPid(_) => {
                Outcome::Answer(Answer::Status(-errno::ENOSYS))
            }
            _ => Outcome::NotForLeader,
        }
    }
}
