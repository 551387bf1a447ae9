//! The VMIDs that the leader has given out, or that the embedder has announced: each is used by one process.
//!
//! VMIDs are given out in rising order. So the table contains only those that a process may still use, and
//! those of connected processes: any other VMID below the next one is used up.

use core::hash::Hasher;

use super::grants::{Grant, GrantKey, Grants};
use crate::Vmid;
use crate::error::{Error, Invalid, Resource};
use crate::store::{Arena, Digest, image, memory_sum};

/// The greatest number of unused VMIDs, for any number of ranges.
const MAX_UNUSED: usize = 4096;

/// No process answers for the VMID: its asker has left, or the embedder has announced it. At the limit of the
/// table the lowest such VMID is used up.
const NOBODY: u32 = 0;
/// The mark, in place of the receiver, of a VMID that is used up and not below the next one yet.
const USED_UP: u32 = 1;

/// A process answers for each VMID: the one that asked for it, until a process connects with it; then that one.
pub(in crate::leader) struct Vmids<'m> {
    /// The next VMID; `None` when all are used up.
    next: Option<Vmid>,
    grants: Grants<'m>,
}

image!(Vmids<'_> {
    fields { next }
    parts { grants }
});

impl<'m> Vmids<'m> {
    /// Returns the number of VMIDs that may be unused or in use, for a leader of that many ranges and
    /// processes.
    pub(in crate::leader) const fn capacity(ranges: usize, processes: usize) -> usize {
        let unused = memory_sum!(ranges.div_ceil(4), 16);
        memory_sum!(
            if unused < MAX_UNUSED {
                unused
            } else {
                MAX_UNUSED
            },
            processes
        )
    }

    pub(in crate::leader) const fn bytes(capacity: usize, members: usize) -> usize {
        Grants::bytes(capacity, members)
    }

    pub(in crate::leader) fn new(arena: &mut Arena<'m>, capacity: usize, members: usize) -> Self {
        Vmids {
            next: Vmid::new(2),
            grants: Grants::new(arena, capacity, members),
        }
    }

    pub(in crate::leader) fn quotas(&self) -> &Grants<'m> {
        &self.grants
    }

    pub(in crate::leader) fn complete_image(&mut self) -> bool {
        self.grants.complete_image()
    }

    pub(in crate::leader) fn digest(&self, digest: &mut Digest) {
        digest.write_u32(self.next.map_or(0, Vmid::get));
        self.grants.digest(digest);
    }

    /// Returns the number of table entries that were visited.
    #[cfg(debug_assertions)]
    pub(in crate::leader) fn steps(&self) -> u64 {
        self.grants.steps()
    }

    /// Returns true if the VMID was not given out yet.
    pub(in crate::leader) fn is_ahead(&self, vmid: Vmid) -> bool {
        self.next.is_some_and(|next| vmid >= next)
    }

    /// Returns true if a process may connect with that VMID: it was given out or announced, and no process has
    /// used it.
    pub(in crate::leader) fn is_unused(&self, vmid: Vmid) -> bool {
        let grant = self.find(vmid);
        grant.is_some_and(|grant| grant.to != USED_UP && grant.giver != vmid.get())
    }

    /// Returns the next VMID.
    pub(in crate::leader) fn next(&self) -> Option<Vmid> {
        self.next
    }

    /// Passes over the next VMID: a process uses it without having been given it.
    pub(in crate::leader) fn skip_next(&mut self) {
        if let Some(vmid) = self.next {
            self.advance(vmid);
        }
    }

    /// Returns the next VMID, for a process that `by` is about to start; `None` when all are used up, or so
    /// many that were given out, to all or to `by`, are not used yet.
    pub(in crate::leader) fn issue(&mut self, by: Vmid) -> Option<Vmid> {
        if !self.grants.may_grow(by) || !self.make_room() {
            return None;
        }
        let vmid = self.next?;
        self.advance(vmid);
        self.set(vmid, by.get(), 0);
        Some(vmid)
    }

    /// Admits a VMID that the embedder has chosen. It is not given out any more.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it was used already; [`Error::Full`] if too many are not used yet.
    pub(in crate::leader) fn announce(&mut self, vmid: Vmid) -> Result<(), Error> {
        match self.find(vmid) {
            Some(grant) if grant.to == USED_UP => return Err(Error::Invalid(Invalid::Vmid)),
            Some(_) => return Ok(()),
            None if !self.is_ahead(vmid) => return Err(Error::Invalid(Invalid::Vmid)),
            None if !self.make_room() => return Err(Error::Full(Resource::Ranges)),
            None => {}
        }
        self.set(vmid, NOBODY, 0);
        if self.next == Some(vmid) {
            self.advance(vmid);
        }
        Ok(())
    }

    /// Records that a process is connected with that VMID.
    pub(in crate::leader) fn on_connected(&mut self, vmid: Vmid) {
        self.change(vmid, vmid.get(), 0);
    }

    /// Lets a process connect with that VMID although one has used it.
    pub(in crate::leader) fn allow_return(&mut self, vmid: Vmid) {
        self.change(vmid, NOBODY, 0);
    }

    /// Records that the process with that VMID has left, or will never come.
    pub(in crate::leader) fn on_left(&mut self, vmid: Vmid) {
        match self.find(vmid) {
            // The process may come back.
            Some(grant) if grant.giver == NOBODY => {}
            Some(_) if self.is_ahead(vmid) => self.set(vmid, NOBODY, USED_UP),
            _ => self.grants.remove(vmid.get()),
        }
        self.grants.on_left(vmid);
    }

    /// Keeps the unused VMIDs that `by`, which has left, has asked for, up to `limit`, as those of nobody: the
    /// processes may have been started. True when that was all.
    pub(in crate::leader) fn release(&mut self, by: Vmid, limit: usize) -> bool {
        for _ in 0..limit {
            let Some(grant) = self.grants.first(GrantKey::Giver, by.get()) else {
                return true;
            };
            self.grants.set(Grant {
                giver: NOBODY,
                ..grant
            });
        }
        false
    }

    /// Makes the VMID after `vmid` the next one that was not announced.
    fn advance(&mut self, vmid: Vmid) {
        let mut vmid = vmid;
        loop {
            self.next = vmid.get().checked_add(1).and_then(Vmid::new);
            let Some(next) = self.next else { return };
            match self.find(next) {
                Some(grant) if grant.to == USED_UP => self.grants.remove(grant.number),
                Some(_) => {}
                None => return,
            }
            vmid = next;
        }
    }

    /// Makes sure that there is room for a VMID: at the limit it removes the lowest one that nobody answers
    /// for. Returns false if there is none.
    fn make_room(&mut self) -> bool {
        if self.grants.has_room() {
            return true;
        }
        let Some(grant) = self.grants.first(GrantKey::Giver, NOBODY) else {
            return false;
        };
        self.grants.remove(grant.number);
        // The VMID is used up, since it is below the next one.
        if let Some(vmid) = Vmid::new(grant.number).filter(|vmid| self.is_ahead(*vmid)) {
            self.advance(vmid);
        }
        true
    }

    fn find(&self, vmid: Vmid) -> Option<Grant> {
        self.grants.first(GrantKey::Number, vmid.get())
    }

    fn set(&mut self, vmid: Vmid, giver: u32, to: u32) {
        let number = vmid.get();
        self.grants.set(Grant { number, to, giver });
    }

    /// Like [`Vmids::set`], if the table has the VMID.
    fn change(&mut self, vmid: Vmid, giver: u32, to: u32) {
        if self.find(vmid).is_some() {
            self.set(vmid, giver, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::collections::{BTreeMap, BTreeSet};
    use std::vec::Vec;

    use super::*;

    const ROOM: usize = 6;

    fn vmid(number: u32) -> Vmid {
        Vmid::new(number).unwrap()
    }

    fn with_room(room: usize, test: impl FnOnce(&mut Vmids<'_>)) {
        let mut memory = Box::new_uninit_slice(Vmids::bytes(room, 0));
        test(&mut Vmids::new(&mut Arena::new(&mut memory), room, 0));
    }

    fn issue(vmids: &mut Vmids<'_>, by: u32) -> Option<u32> {
        vmids.issue(vmid(by)).map(Vmid::get)
    }

    fn unused(vmids: &Vmids<'_>, below: u32) -> Vec<u32> {
        let all = (2..below).filter(|number| vmids.is_unused(vmid(*number)));
        all.collect()
    }

    #[test]
    fn vmid_is_used_by_one_process_unless_it_may_come_back() {
        with_room(ROOM, |vmids| {
            assert_eq!([issue(vmids, 1), issue(vmids, 1)], [Some(2), Some(3)]);
            assert_eq!(unused(vmids, 9), [2, 3]);
            for number in [2, 3] {
                vmids.on_connected(vmid(number));
            }
            assert_eq!(unused(vmids, 9), []);
            vmids.on_left(vmid(2));
            vmids.allow_return(vmid(3));
            vmids.on_left(vmid(3));
            assert_eq!(unused(vmids, 9), [3]);
            vmids.on_connected(vmid(3));
            vmids.on_left(vmid(3));
            assert_eq!(unused(vmids, 9), []);
            assert!((2..9).all(|number| vmids.find(vmid(number)).is_none()));
        });
    }

    #[test]
    fn unused_vmids_of_a_process_that_left_make_room_first_and_others_do_not() {
        with_room(ROOM, |vmids| {
            for number in 2..8 {
                assert_eq!(issue(vmids, 1 + number % 2), Some(number));
            }
            // No more while all that asked are there; a connected process is not in the way of its own.
            assert_eq!(issue(vmids, 1), None);
            assert!(!vmids.release(vmid(2), 2));
            assert!(vmids.release(vmid(2), 2));
            assert_eq!(unused(vmids, 20), [2, 3, 4, 5, 6, 7]);
            for number in 8..11 {
                assert_eq!(issue(vmids, 1), Some(number));
            }
            assert_eq!(issue(vmids, 1), None);
            assert_eq!(unused(vmids, 20), [2, 4, 6, 8, 9, 10]);
        });
    }

    #[test]
    fn announced_vmid_is_not_given_out_and_is_used_once() {
        with_room(ROOM, |vmids| {
            for number in [4, 9, 3] {
                assert_eq!(vmids.announce(vmid(number)), Ok(()));
            }
            assert_eq!(vmids.announce(vmid(9)), Ok(()), "again");
            assert_eq!([issue(vmids, 1), issue(vmids, 1)], [Some(2), Some(5)]);
            for number in [4, 9] {
                vmids.on_connected(vmid(number));
                vmids.on_left(vmid(number));
                assert_eq!(
                    vmids.announce(vmid(number)),
                    Err(Error::Invalid(Invalid::Vmid))
                );
                assert!(!vmids.is_unused(vmid(number)));
            }
            for number in [6, 7, 8, 10] {
                assert_eq!(issue(vmids, 1), Some(number));
                vmids.on_left(vmid(number));
            }
        });
    }

    #[test]
    fn embedder_may_announce_any_number_of_processes_one_after_another() {
        with_room(2, |vmids| {
            for number in (2..200).chain((1_000..2_000).step_by(7)) {
                assert_eq!(vmids.announce(vmid(number)), Ok(()));
                vmids.on_connected(vmid(number));
                vmids.on_left(vmid(number));
                assert!(!vmids.is_unused(vmid(number)));
            }
            // The numbers between those that were used are used up with them.
            assert_eq!(issue(vmids, 1), Some(1_988));
        });
    }

    #[test]
    fn random_programs_never_use_a_vmid_twice() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..300 {
            with_room(ROOM, |vmids| {
                // The connected processes, and those that have left for good.
                let (mut connected, mut left) = (BTreeMap::new(), BTreeSet::new());
                for _ in 0..100 {
                    let number = rng.u32(2..14);
                    let at = vmid(number);
                    match rng.u8(..6) {
                        0 => {
                            if let Some(new) = vmids.issue(vmid(rng.u32(1..4))) {
                                assert!(!left.contains(&new) && !connected.contains_key(&new));
                            }
                        }
                        1 => drop(vmids.announce(at)),
                        2 => {
                            if vmids.is_unused(at) && !connected.contains_key(&at) {
                                assert!(!left.contains(&at), "{at:?}");
                                vmids.on_connected(at);
                                connected.insert(at, false);
                            }
                        }
                        3 => {
                            if let Some(returns) = connected.remove(&at) {
                                vmids.on_left(at);
                                if !returns {
                                    left.insert(at);
                                }
                            }
                        }
                        4 => {
                            if let Some(returns) = connected.get_mut(&at) {
                                vmids.allow_return(at);
                                *returns = true;
                            }
                        }
                        _ => drop(vmids.release(vmid(rng.u32(1..4)), 9)),
                    }
                }
            });
        }
    }
}
