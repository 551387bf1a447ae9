//! Which members hold which open files.
//!
//! A member holds an open file that it has locked or has said that it has, and one that another
//! member has handed on to it. A process that starts inherits an open file once. Each one that is
//! sent to a member takes a place of its own until it has arrived: several may be under way at once, and
//! closing one of them leaves the others. The locks of an open file go with its last holder.

mod locks;
mod notes;

use crate::Vmid;
use crate::error::Error;
use crate::store::{Arena, HashIndex, NONE, SlotAllocator, Table, bytes_for, hash64};

/// How a member stands to an open file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It uses the open file.
    Held,
    /// It has closed the open file while a request of its own still waits for a lock of it. Like a
    /// system call under way, the request keeps the open file until it ends.
    Closing,
    /// It has inherited the open file from `by`, and has not used it yet.
    Inherited {
        by: Vmid,
        /// The heir's process is there.
        has_come: bool,
    },
    /// `by` sends it the open file, which is under way.
    Sent { by: Vmid },
}

/// Whether the receiver knows that it was handed an open file, and so has to say when it closes it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Note {
    /// The receiver can't be told yet.
    None,
    /// The receiver is to be told.
    Due,
    Sent,
}

#[derive(Clone, Copy)]
struct Share {
    handle: u64,
    /// None: the place is free.
    vmid: Option<Vmid>,
    standing: Standing,
    note: Note,
    /// How many requests of the member wait for a lock of the open file.
    requests: u32,
    /// It is among those that [`Handles::take_closed`] has to look at.
    is_listed: bool,
    /// Its neighbours among those that are [`Note::Due`].
    before: u32,
    behind: u32,
}

const FREE: Share = Share {
    handle: 0,
    vmid: None,
    standing: Standing::Held,
    note: Note::Sent,
    requests: 0,
    is_listed: false,
    before: NONE,
    behind: NONE,
};

impl Share {
    fn is_closing(&self) -> bool {
        self.standing == Standing::Closing
    }

    fn is_unborn(&self) -> bool {
        matches!(
            self.standing,
            Standing::Inherited {
                has_come: false,
                ..
            }
        )
    }
}

/// A fixed number of pairs of an open file and a member that holds it.
pub(super) struct Handles<'m> {
    shares: Table<'m, Share>,
    places: SlotAllocator<'m>,
    by_handle: HashIndex<'m>,
    /// The first `listed` are the places of shares whose last request has ended while they were
    /// [`Standing::Closing`]. A place is there once at most, and none is at the end of an operation.
    closed: Table<'m, u32>,
    listed: usize,
    /// How many are [`Standing::Inherited`] by a process that has not come.
    unborn: usize,
    /// How many are [`Note::None`].
    untold: usize,
    /// Those that are [`Note::Due`], a list.
    first_due: u32,
    last_due: u32,
}

impl<'m> Handles<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        bytes_for::<Share>(capacity)
            .saturating_add(SlotAllocator::bytes(capacity))
            .saturating_add(HashIndex::bytes(capacity))
            .saturating_add(bytes_for::<u32>(capacity))
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(Handles {
            shares: arena.alloc_table(capacity, |_| Ok(FREE))?,
            places: SlotAllocator::new(arena, capacity)?,
            by_handle: HashIndex::new(arena, capacity)?,
            closed: arena.alloc_table(capacity, |_| Ok(0))?,
            listed: 0,
            unborn: 0,
            untold: 0,
            first_due: NONE,
            last_due: NONE,
        })
    }

    fn find(&self, handle: u64, fits: impl Fn(&Share) -> bool) -> Option<u32> {
        self.by_handle.find(hash64(handle), |place| {
            let share = self.shares.get(place as usize);
            share.is_some_and(|share| share.handle == handle && fits(share))
        })
    }

    fn find_of(&self, handle: u64, vmid: Vmid, fits: impl Fn(Standing) -> bool) -> Option<u32> {
        self.find(handle, |share| {
            share.vmid == Some(vmid) && fits(share.standing)
        })
    }

    /// The open file that the member has: not one that is under way to it.
    fn find_had(&self, handle: u64, vmid: Vmid) -> Option<u32> {
        self.find_of(handle, vmid, |standing| !is_sent(standing))
    }

    fn at(&self, place: u32) -> &Share {
        self.shares.get(place as usize).unwrap_or(&FREE)
    }

    fn add(&mut self, share: Share) -> bool {
        let Some(place) = self.places.alloc() else {
            return false;
        };
        self.change(place, |free| *free = share);
        self.by_handle.insert(hash64(share.handle), place);
        true
    }

    fn change(&mut self, place: u32, change: impl FnOnce(&mut Share)) {
        let Some(share) = self.shares.get_mut(place as usize) else {
            return;
        };
        let was = *share;
        change(share);
        (share.before, share.behind) = (was.before, was.behind);
        let is = *share;
        for (counter, fits) in [
            (&mut self.unborn, Share::is_unborn as fn(&Share) -> bool),
            (&mut self.untold, |share| share.note == Note::None),
        ] {
            *counter = match (fits(&was), fits(&is)) {
                (false, true) => counter.saturating_add(1),
                (true, false) => counter.saturating_sub(1),
                _ => *counter,
            };
        }
        match (was.note == Note::Due, is.note == Note::Due) {
            (false, true) => self.enlist_note(place),
            (true, false) => self.unlist_note(place),
            _ => {}
        }
    }

    fn with_share(&mut self, place: u32, change: impl FnOnce(&mut Share)) {
        if let Some(share) = self.shares.get_mut(place as usize) {
            change(share);
        }
    }

    /// Frees the place. True if nobody holds the open file any more.
    fn remove(&mut self, place: u32) -> bool {
        let handle = self.at(place).handle;
        self.by_handle.remove(hash64(handle), place);
        self.change(place, |share| *share = FREE);
        self.places.free(place);
        self.find(handle, |_| true).is_none()
    }

    /// The member uses the open file. False if there is no room to note that.
    pub(super) fn hold(&mut self, handle: u64, vmid: Vmid) -> bool {
        let had = self.find_had(handle, vmid);
        // What it uses has arrived.
        match had.or_else(|| self.find_of(handle, vmid, is_sent)) {
            Some(place) => {
                self.change(place, |share| {
                    share.standing = Standing::Held;
                    share.note = Note::Sent;
                });
                true
            }
            None => self.add(Share {
                handle,
                vmid: Some(vmid),
                ..FREE
            }),
        }
    }

    /// The member says that it has the open file: one that was sent to it has arrived. False if there
    /// is no room to note that.
    pub(super) fn accept(&mut self, handle: u64, vmid: Vmid) -> bool {
        if self.find_had(handle, vmid).is_some()
            && let Some(arrived) = self.find_of(handle, vmid, is_sent)
        {
            self.remove(arrived);
        }
        self.hold(handle, vmid)
    }

    /// The member `by`, which holds the open file from now on if it did not before, hands it on to a
    /// process that inherits it, or sends it to a member. False if there is no room to note all that;
    /// then nothing is noted.
    pub(super) fn give(&mut self, handle: u64, by: Vmid, to: Vmid, inherits: bool) -> bool {
        let is_new = to != by && !(inherits && self.find_had(handle, to).is_some());
        let is_held = self.find_of(handle, by, |_| true).is_some();
        let needed = usize::from(is_new).saturating_add(usize::from(!is_held));
        if self.places.remaining() < needed || !self.hold(handle, by) {
            return false;
        }
        let standing = if inherits {
            Standing::Inherited {
                by,
                has_come: false,
            }
        } else {
            Standing::Sent { by }
        };
        !is_new
            || self.add(Share {
                handle,
                vmid: Some(to),
                standing,
                note: Note::None,
                ..FREE
            })
    }

    /// What the member `by` handed on to `to` could not be sent, or its child will not come. True if
    /// nobody holds the open file any more.
    pub(super) fn take_back(&mut self, handle: u64, by: Vmid, to: Vmid) -> bool {
        let given = self.find_of(handle, to, |standing| match standing {
            Standing::Sent { by: giver } => giver == by,
            Standing::Inherited {
                by: giver,
                has_come,
            } => giver == by && !has_come,
            Standing::Held | Standing::Closing => false,
        });
        given.is_some_and(|place| self.remove(place))
    }

    /// The member has closed the open file; or, if it has not said that it has it, one that was sent to
    /// it. If a request of the member still waits for a lock of the open file, it keeps that until then.
    /// True if nobody holds the open file any more.
    pub(super) fn close(&mut self, handle: u64, vmid: Vmid) -> bool {
        let is_had = |standing| !is_sent(standing) && standing != Standing::Closing;
        let had = self.find_of(handle, vmid, is_had);
        if let Some(place) = had
            && self.at(place).requests > 0
        {
            self.change(place, |share| share.standing = Standing::Closing);
            return false;
        }
        let place = had.or_else(|| self.find_of(handle, vmid, is_sent));
        place.is_some_and(|place| self.remove(place))
    }

    /// Takes the next open file from a member that is gone, as [`Handles::take`] does.
    pub(super) fn take_from(&mut self, vmid: Vmid, at: &mut u32) -> Option<(u64, bool)> {
        self.take(at, |share| share.vmid == Some(vmid))
    }

    /// A request of the member, which holds the open file, waits for a lock of it from now on.
    pub(super) fn request_waits(&mut self, handle: u64, vmid: Vmid) {
        if let Some(place) = self.find_had(handle, vmid) {
            self.change(place, |share| {
                share.requests = share.requests.saturating_add(1);
            });
        }
    }

    /// One of them waits no more.
    pub(super) fn request_ended(&mut self, handle: u64, vmid: Vmid) {
        let Some(place) = self.find_had(handle, vmid) else {
            return;
        };
        self.change(place, |share| {
            share.requests = share.requests.saturating_sub(1);
        });
        let share = *self.at(place);
        if share.requests == 0
            && share.is_closing()
            && !share.is_listed
            && let Some(free) = self.closed.get_mut(self.listed)
        {
            *free = place;
            self.listed = self.listed.saturating_add(1);
            self.change(place, |share| share.is_listed = true);
        }
    }

    /// Takes an open file that a member has closed and none of whose requests waits for a lock of it
    /// any more, as [`Handles::take`] does.
    pub(super) fn take_closed(&mut self) -> Option<(u64, bool)> {
        loop {
            self.listed = self.listed.checked_sub(1)?;
            let place = *self.closed.get(self.listed)?;
            self.change(place, |share| share.is_listed = false);
            let share = *self.at(place);
            // The member may wait for another lock by now, or be gone.
            if share.requests == 0 && share.is_closing() {
                return Some((share.handle, self.remove(place)));
            }
        }
    }

    /// The member's process is there: what it has inherited is its own.
    pub(super) fn come(&mut self, vmid: Vmid) {
        if self.unborn == 0 {
            return;
        }
        self.change_all(|share| {
            if share.vmid == Some(vmid)
                && let Standing::Inherited { has_come, .. } = &mut share.standing
            {
                *has_come = true;
            }
        });
    }

    /// Takes the next open file that the member `by`, which is gone, has handed on to a process that
    /// has not come and never will, as [`Handles::take`] does.
    pub(super) fn take_unborn(
        &mut self,
        by: Vmid,
        at: &mut u32,
        is_unborn: impl Fn(Vmid) -> bool,
    ) -> Option<(u64, bool)> {
        let unborn = Standing::Inherited {
            by,
            has_come: false,
        };
        let is_its = |share: &Share| share.standing == unborn;
        self.take(at, |share| {
            is_its(share) && share.vmid.is_some_and(&is_unborn)
        })
    }

    /// Takes out the first share that fits, from the place `at` on, which moves behind it. Says which
    /// open file it is, and whether nobody else holds that.
    fn take(&mut self, at: &mut u32, fits: impl Fn(&Share) -> bool) -> Option<(u64, bool)> {
        while *at < self.places.high_water() {
            let place = *at;
            *at = at.saturating_add(1);
            let share = *self.shares.get(place as usize)?;
            if share.vmid.is_some() && fits(&share) {
                return Some((share.handle, self.remove(place)));
            }
        }
        None
    }

    fn change_all(&mut self, mut change: impl FnMut(&mut Share)) {
        for place in 0..self.places.high_water() {
            self.change(place, |share| change(share));
        }
    }

    /// Whether the counters agree with the table. Slow: for tests.
    pub(super) fn is_sound(&self) -> bool {
        let number =
            |fits: fn(&Share) -> bool| self.shares.iter().filter(|share| fits(share)).count();
        self.listed == 0
            && number(|share| share.is_closing() && share.requests == 0) == 0
            && self.unborn == number(Share::is_unborn)
            && self.untold == number(|share| share.note == Note::None)
            && self.due().count() == number(|share| share.note == Note::Due)
            && self.due().all(|share| share.note == Note::Due)
            && self.places.in_use() == number(|share| share.vmid.is_some())
    }

    pub(super) fn fill(&self) -> (usize, usize) {
        (self.places.in_use(), self.places.peak())
    }
}

fn is_sent(standing: Standing) -> bool {
    matches!(standing, Standing::Sent { .. })
}
