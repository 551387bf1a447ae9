//! Which members have which open files.

use crate::Vmid;
use crate::error::Error;
use crate::store::{Arena, Buckets, Places, Table, bytes_for, mix};

#[derive(Clone, Copy)]
struct Share {
    handle: u64,
    /// None: free.
    vmid: Option<Vmid>,
    /// Which member said so, if it was not this one.
    by: Option<Vmid>,
}

/// A fixed number of pairs of an open file and a member that has it.
pub(super) struct Handles<'m> {
    shares: Table<'m, Share>,
    places: Places<'m>,
    by_handle: Buckets<'m>,
}

impl<'m> Handles<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        bytes_for::<Share>(capacity)
            .saturating_add(Places::bytes(capacity))
            .saturating_add(Buckets::bytes(capacity))
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(Handles {
            shares: arena.table(capacity, |_| {
                Ok(Share {
                    handle: 0,
                    vmid: None,
                    by: None,
                })
            })?,
            places: Places::new(arena, capacity)?,
            by_handle: Buckets::new(arena, capacity)?,
        })
    }

    fn find(&self, handle: u64, vmid: Vmid) -> Option<u32> {
        self.by_handle.find(mix(handle), |place| {
            self.shares
                .get(place as usize)
                .is_some_and(|share| share.handle == handle && share.vmid == Some(vmid))
        })
    }

    /// Notes that the member has the open file. False if there is no room.
    pub(super) fn hold(&mut self, handle: u64, vmid: Vmid) -> bool {
        self.hold_for(handle, vmid, None)
    }

    /// The same, on the word of the member `by`.
    pub(super) fn hold_for(&mut self, handle: u64, vmid: Vmid, by: Option<Vmid>) -> bool {
        if self.find(handle, vmid).is_some() {
            return true;
        }
        let Some(place) = self.places.take() else {
            return false;
        };
        if let Some(share) = self.shares.get_mut(place as usize) {
            *share = Share {
                handle,
                vmid: Some(vmid),
                by,
            };
        }
        self.by_handle.insert(mix(handle), place);
        true
    }

    /// The member has it no more. True if it was the last that had.
    pub(super) fn close(&mut self, handle: u64, vmid: Vmid) -> bool {
        let Some(place) = self.find(handle, vmid) else {
            return false;
        };
        self.by_handle.remove(mix(handle), place);
        if let Some(share) = self.shares.get_mut(place as usize) {
            share.vmid = None;
        }
        self.places.give(place);
        let others = self.by_handle.find(mix(handle), |place| {
            self.shares
                .get(place as usize)
                .is_some_and(|share| share.handle == handle)
        });
        others.is_none()
    }

    /// The next open file that the member has, from the place `at` on, which moves behind it.
    pub(super) fn next_of(&self, vmid: Vmid, at: &mut u32) -> Option<u64> {
        while *at < self.places.used() {
            let share = self.shares.get(*at as usize)?;
            *at = at.saturating_add(1);
            if share.vmid == Some(vmid) {
                return Some(share.handle);
            }
        }
        None
    }

    /// The next open file that another has on the word of that member, and who, from the place `at`
    /// on, which moves behind it.
    pub(super) fn next_by(&self, vmid: Vmid, at: &mut u32) -> Option<(u64, Vmid)> {
        while *at < self.places.used() {
            let share = self.shares.get(*at as usize)?;
            *at = at.saturating_add(1);
            if share.by == Some(vmid)
                && let Some(child) = share.vmid
            {
                return Some((share.handle, child));
            }
        }
        None
    }

    pub(super) fn fill(&self) -> (usize, usize) {
        (self.places.taken(), self.places.most())
    }
}
