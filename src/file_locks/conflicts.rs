//! Finding the lock that conflicts with a range, and changing an owner's locks when the owner locks or
//! unlocks a range.

use super::interval_tree::{InsertPoint, RangeLock, TreeKind};
use super::quotas::{Charge, LOCKS};
use super::{LockTable, Owner, Range, SpaceKind};
use crate::error::Errno;
use crate::invariant::Count;
use crate::store::Payer;

/// A range to lock, whether the lock is a write lock, and the payer if it is a part of an old lock.
type Piece = (Range, bool, Option<Payer>);

/// The changes that one request makes to an owner's locks.
#[derive(Default)]
struct Plan {
    /// The parts of the owner's locks that reach out of the range, and the new lock.
    pieces: [Option<Piece>; 3],
    /// The number of locks that are removed.
    removed: usize,
}

impl LockTable<'_> {
    /// Finds the lock of another holder than `mine` that conflicts with the request. Of several
    /// such locks it returns the one that starts lowest, and of several read locks with the same
    /// start the one whose holder locked the file first.
    pub(super) fn find_conflict(
        &self,
        file: u32,
        space: SpaceKind,
        range: Range,
        write: bool,
        mine: u32,
    ) -> Option<u32> {
        self.find_conflict_or_place(file, space, range, write, mine)
            .0
    }

    /// Like [`LockTable::find_conflict`]. If no lock at all overlaps the range of a write lock, it also returns the
    /// place for that.
    pub(super) fn find_conflict_or_place(
        &self,
        file: u32,
        space: SpaceKind,
        range: Range,
        write: bool,
        mine: u32,
    ) -> (Option<u32>, InsertPoint) {
        let of = self.file_at(file);
        if of.locks == 0 {
            return (None, InsertPoint::UNKNOWN);
        }
        let space = of.space(space);
        let trees = &self.trees;
        let (mut writer, place) = trees.first_of_disjoint(TreeKind::File, space.writes, range);
        if writer.is_some_and(|lock| trees.at(lock).holder == mine) {
            writer = trees.first_overlapping(space.writes, range, mine);
        }
        if !write {
            return (writer, InsertPoint::UNKNOWN);
        }
        let reader = trees.first_overlapping(space.reads, range, mine);
        // A read lock of another holder never starts at the first byte of a write lock.
        let start = |lock: &u32| trees.at(*lock).start;
        let first = writer.into_iter().chain(reader).min_by_key(start);
        (first, place)
    }

    /// Gives the range to the owner, and charges it. The caller has made sure that no lock conflicts, and serves
    /// the requests that waited for a lock which the owner had there.
    pub(super) fn grant(
        &mut self,
        file: u32,
        (owner, charge): (Owner, Charge),
        range: Range,
        write: bool,
    ) -> Result<(), Errno> {
        let mine = self.find_holder(owner, file);
        self.grant_to(
            mine,
            InsertPoint::UNKNOWN,
            file,
            (owner, charge),
            range,
            write,
        )
    }

    /// Like [`LockTable::grant`], for a caller that has looked up whether the owner has locks on the file, and
    /// perhaps the place.
    pub(super) fn grant_to(
        &mut self,
        mine: Option<u32>,
        place: InsertPoint,
        file: u32,
        (owner, charge): (Owner, Charge),
        range: Range,
        write: bool,
    ) -> Result<(), Errno> {
        let holder = match mine {
            Some(holder) => holder,
            None => self.add_holder(owner, file).ok_or(Errno::ENOLCK)?,
        };
        let outcome = self.insert_range(holder, charge, range, write, place);
        if outcome.is_err() {
            self.drop_holder_if_empty(holder);
        }
        self.waits.record_granted(owner);
        outcome
    }

    /// Unlocks the owner's part of the range. The caller serves the requests that waited for it.
    #[inline]
    pub(super) fn release_range(
        &mut self,
        file: u32,
        owner: Owner,
        range: Range,
    ) -> Result<(), Errno> {
        let Some(holder) = self.find_holder(owner, file) else {
            return Ok(());
        };
        let outcome = self.remove_range(holder, range);
        self.drop_holder_if_empty(holder);
        outcome
    }

    /// Like [`LockTable::release_range`], and serves the requests that waited for the range.
    #[inline]
    pub(super) fn unlock(&mut self, file: u32, owner: Owner, range: Range) -> Result<(), Errno> {
        self.release_range(file, owner, range)?;
        self.serve_unblocked();
        self.drop_file_if_unused(file);
        Ok(())
    }

    /// Returns the last of a holder's locks that overlaps the range.
    pub(super) fn own(&self, holder: u32, range: Range) -> Option<u32> {
        let root = self.holder_at(holder).root;
        self.trees.last_own(root, range)
    }

    fn plan(&self, holder: u32, range: Range, write: bool) -> Plan {
        let mut plan = Plan::default();
        let [left, right, new] = &mut plan.pieces;
        let mut whole = range;
        let mut unseen = Some(range);
        while let Some(own) = unseen.and_then(|range| self.own(holder, range)) {
            let prev_byte = self.trees.at(own).start.checked_sub(1);
            unseen = prev_byte
                .filter(|prev_byte| *prev_byte >= range.0)
                .map(|prev_byte| (range.0, prev_byte));
            plan.removed.increment();
            let lock = self.trees.at(own);
            if lock.write == write {
                whole = (whole.0.min(lock.start), whole.1.max(lock.end));
                continue;
            }
            if lock.start < range.0 {
                *left = Some(((lock.start, range.0.minus(1)), lock.write, Some(lock.payer)));
            }
            if lock.end > range.1 {
                *right = Some(((range.1.plus(1), lock.end), lock.write, Some(lock.payer)));
            }
        }
        // Adjacent locks of the same kind are merged with the new lock.
        if let Some(prev_byte) = range.0.checked_sub(1)
            && let Some(own) = self.own(holder, (prev_byte, prev_byte))
            && self.trees.at(own).end < range.0
            && self.trees.at(own).write == write
        {
            whole.0 = self.trees.at(own).start;
            plan.removed.increment();
        }
        if let Some(next_byte) = range.1.checked_add(1)
            && let Some(own) = self.own(holder, (next_byte, next_byte))
            && self.trees.at(own).start > range.1
            && self.trees.at(own).write == write
        {
            whole.1 = self.trees.at(own).end;
            plan.removed.increment();
        }
        *new = Some((whole, write, None));
        plan
    }

    /// Gives the range to the holder, or changes nothing.
    fn insert_range(
        &mut self,
        holder: u32,
        charge: Charge,
        range: Range,
        write: bool,
        place: InsertPoint,
    ) -> Result<(), Errno> {
        // In most cases the holder has no lock in the range or beside it, or exactly this lock.
        // Beyond the ends of a file there is nothing.
        let near = (range.0.saturating_sub(1), range.1.saturating_add(1));
        if self.own(holder, near).is_none() {
            if self.unreserved_slots() == 0 {
                return Err(Errno::ENOLCK);
            }
            let payer = self.charge_lock(charge).ok_or(Errno::ENOLCK)?;
            self.insert_at(place, holder, range, write, payer);
            return Ok(());
        }
        if let Some(own) = self.own(holder, range) {
            let lock = self.trees.at(own);
            if lock.write == write && lock.start <= range.0 && lock.end >= range.1 {
                return Ok(());
            }
        }
        let plan = self.plan(holder, range, write);
        let needed = plan.pieces.iter().flatten().count();
        if needed > self.unreserved_slots().plus(plan.removed) {
            return Err(Errno::ENOLCK);
        }
        // The parts of a lock that is split are charged to the payer of that lock, within its quota.
        let more = needed.max(plan.removed).minus(plan.removed);
        if more > 0 && !self.may_add_locks(charge, more) {
            return Err(Errno::ENOLCK);
        }
        let payers = plan.pieces.map(|piece| match piece {
            Some((.., Some(payer))) => self.quotas.charge_also(payer, LOCKS),
            Some(_) => self.quotas.charge(charge.to, LOCKS, 1),
            None => Payer::NOBODY,
        });
        let mut reach = range;
        if let [.., Some((whole, ..))] = plan.pieces {
            reach = whole;
        }
        for _ in 0..plan.removed {
            // The range of the new lock covers only locks that are to be removed.
            let Some(own) = self.own(holder, reach) else {
                break;
            };
            self.remove(holder, own);
        }
        for (piece, payer) in plan.pieces.into_iter().zip(payers) {
            if let Some((range, write, _)) = piece {
                self.insert(holder, range, write, payer);
            }
        }
        Ok(())
    }

    /// Takes the range from the holder, or changes nothing.
    fn remove_range(&mut self, holder: u32, range: Range) -> Result<(), Errno> {
        while let Some(own) = self.own(holder, range) {
            let RangeLock {
                start,
                end,
                write,
                payer,
                ..
            } = *self.trees.at(own);
            let (has_left, has_right) = (start < range.0, end > range.1);
            // Only a lock that is split in two needs another slot, and then the range overlaps no
            // other lock.
            if has_left
                && has_right
                && (self.unreserved_slots() == 0 || !self.quotas.may_split(payer, LOCKS))
            {
                return Err(Errno::ENOLCK);
            }
            // The payer of the lock pays for what is left of it.
            if has_left {
                self.quotas.charge_also(payer, LOCKS);
            }
            if has_right {
                self.quotas.charge_also(payer, LOCKS);
            }
            self.remove(holder, own);
            if has_left {
                self.insert(holder, (start, range.0.minus(1)), write, payer);
            }
            if has_right {
                self.insert(holder, (range.1.plus(1), end), write, payer);
            }
        }
        Ok(())
    }

    /// Returns the number of slots for locks that are not reserved for delegations.
    #[inline]
    pub(super) fn unreserved_slots(&self) -> usize {
        let left = self.trees.slots().remaining();
        left.minus(self.delegations.reserved())
    }

    /// Inserts a lock, which is charged to the payer already.
    fn insert(&mut self, holder: u32, range: Range, write: bool, payer: Payer) {
        self.insert_at(InsertPoint::UNKNOWN, holder, range, write, payer);
    }

    /// Like [`LockTable::insert`], at that place of the tree of the file.
    fn insert_at(
        &mut self,
        place: InsertPoint,
        holder: u32,
        range: Range,
        write: bool,
        payer: Payer,
    ) {
        let of = *self.holder_at(holder);
        let Some(lock) = self.trees.alloc(range, write, (holder, of.since), payer) else {
            return;
        };
        let root = self
            .trees
            .insert(TreeKind::Holder, of.root, lock, InsertPoint::UNKNOWN);
        self.set_root(holder, root);
        if let Some(file) = self.files.get_mut(of.file as usize) {
            file.locks.increment();
            let root = file.root_mut(of.owner.space(), write);
            *root = self.trees.insert(TreeKind::File, *root, lock, place);
        }
    }

    pub(super) fn remove(&mut self, holder: u32, lock: u32) {
        let of = *self.holder_at(holder);
        let root = self.trees.remove(TreeKind::Holder, of.root, lock);
        self.set_root(holder, root);
        let RangeLock { write, payer, .. } = *self.trees.at(lock);
        if let Some(file) = self.files.get_mut(of.file as usize) {
            file.locks.decrement();
            let root = file.root_mut(of.owner.space(), write);
            *root = self.trees.remove(TreeKind::File, *root, lock);
        }
        self.unblock_requests(lock);
        self.quotas.release(payer, LOCKS, 1);
        self.trees.free(lock);
        self.removed = self.removed.wrapping_add(1);
    }
}
