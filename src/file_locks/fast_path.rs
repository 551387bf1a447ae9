//! The fast path of a lock on a file that nobody else uses.
//!
//! Most locks are set on a file without locks, and released as a whole before another process wants one. Then nothing has
//! to be searched, and nobody waits. The tables are afterwards as if the request had taken the slow path.

use core::cmp::Reverse;
use core::mem::replace;

use super::holders::holder_in;
use super::quotas::{FILES, LOCKS};
use super::table::EMPTY_FILE;
use super::{Holder, LockTable, Owner, Range, SpaceKind};
use crate::invariant::{Count, OrBroken};
use crate::store::{NONE, Payer};
use crate::wire::{FileLock, LockFamily, LockKind};
use crate::{Id, Vmid};

impl LockTable<'_> {
    /// Like [`LockTable::try_set`], on the fast path. Returns false, and changes nothing, if the request has to take the
    /// slow path.
    #[inline]
    pub(crate) fn try_set_fast(&mut self, from: Vmid, lock: &FileLock<'_>, hash: u64) -> bool {
        // The slow path also records which member uses a file that several members have used.
        let is_quiet = self.waits.usage().0 == 0
            && !self.open_files.has_closed()
            && self.delegations.contention.is_empty();
        if !is_quiet || lock.family != LockFamily::Posix || lock.start > lock.end {
            return false;
        }
        // A slot without a file is not idle, and nobody uses it.
        let file = self.last_added;
        let of = self.files.get(file as usize);
        if !of.is_some_and(|of| self.is_file(of, lock.path, hash)) {
            return false;
        }
        let (process, range) = ((from, lock.pid), (lock.start, lock.end));
        let done = if lock.kind == LockKind::Unlock {
            self.release_only_lock(file, process, range)
        } else {
            self.set_first_lock(file, process, range, lock.kind == LockKind::Write)
        };
        done.is_some()
    }

    /// Sets a lock on the idle file.
    #[inline]
    fn set_first_lock(
        &mut self,
        file: u32,
        (vmid, pid): (Vmid, Id),
        range: Range,
        write: bool,
    ) -> Option<()> {
        // There are as many slots for holders as for locks.
        if file != self.idle_file || self.unreserved_slots() == 0 {
            return None;
        }
        let of = self.files.get_mut(file as usize)?;
        let places = [(FILES, of.cost()), (LOCKS, 1)];
        let payer = self.quotas.charge_within_reserve(vmid, places)?;
        self.search.begin();
        self.idle_file = NONE;
        self.last_holder.increment();
        let since = self.last_holder;
        let slot = self.holder_slots.alloc().or_broken(NONE);
        let lock = self.trees.alloc(range, write, (slot, since), payer);
        let root = lock.or_broken(NONE);
        (of.ref_count, of.payer, of.locks, of.first_holder) = (1, payer, 1, slot);
        *of.root_mut(SpaceKind::Ranges, write) = root;
        if let Some(holder) = self.holders.get_mut(slot as usize) {
            *holder = Holder {
                owner: Owner::Process { vmid, pid },
                file,
                root,
                since,
            };
        }
        let key = (Owner::Process { vmid, pid }.key(), Reverse(since));
        let hash = Owner::hash_of(vmid, pid);
        let holders = &self.holders;
        let order = move |other| holder_in(holders, other).by_owner().cmp(&key);
        self.by_owner.insert(hash, slot, &order);
        Some(())
    }

    /// Releases the only lock of the only user of the file, if all of it is in the range.
    #[inline]
    fn release_only_lock(
        &mut self,
        file: u32,
        (vmid, pid): (Vmid, Id),
        range: Range,
    ) -> Option<()> {
        let is_owner = |owner| owner == Owner::Process { vmid, pid };
        let of = self.files.get_mut(file as usize)?;
        let slot = of.first_holder;
        let held = self.holders.get_mut(slot as usize)?;
        let lock = self.trees.at(held.root);
        let is_all = lock.start >= range.0 && lock.end <= range.1;
        if of.ref_count != 1 || of.locks != 1 || !is_owner(held.owner) || !is_all {
            return None;
        }
        let (root, since) = (held.root, held.since);
        let key = (Owner::Process { vmid, pid }.key(), Reverse(since));
        let hash = Owner::hash_of(vmid, pid);
        (held.file, held.root) = (NONE, NONE);
        self.quotas.release(lock.payer, LOCKS, 1);
        self.quotas.release(of.payer, FILES, of.cost());
        (of.spaces, of.locks, of.first_holder) = (EMPTY_FILE.spaces, 0, NONE);
        (of.ref_count, of.payer) = (EMPTY_FILE.ref_count, Payer::NOBODY);
        self.search.begin();
        self.trees.free(root);
        self.removed = self.removed.wrapping_add(1);
        let holders = &self.holders;
        let order = move |other| holder_in(holders, other).by_owner().cmp(&key);
        self.by_owner.remove(hash, slot, &order);
        self.holder_slots.free(slot);
        let idle = replace(&mut self.idle_file, file);
        if idle != NONE {
            self.remove_file(idle);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher;
    use std::boxed::Box;

    use super::*;
    use crate::file_locks::{LockLimits, SetOutcome};
    use crate::path::hash_path;
    use crate::store::{Arena, Digest};

    const LIMITS: LockLimits = LockLimits {
        locks: 24,
        files: 12,
        waiting: 2,
        open_files: 4,
    };

    const PATHS: [&[u8]; 3] = [b"one", b"two", &[b'p'; 300]];

    fn digest(table: &LockTable<'_>) -> u64 {
        let mut digest = Digest::anew();
        table.digest(&mut digest);
        digest.finish()
    }

    /// Ends all requests that wait, and releases all locks.
    fn clear(table: &mut LockTable<'_>, last: u64) {
        for (from, seq) in (1..=last).flat_map(|seq| [(1, seq), (2, seq)]) {
            table.cancel(Vmid::new(from).unwrap(), seq);
        }
        while table.take_completion().is_some() {}
        for number in 0..24 {
            let lock = FileLock {
                family: [LockFamily::Posix, LockFamily::Flock][number % 2],
                kind: LockKind::Unlock,
                start: 0,
                end: u64::MAX,
                pid: [5, 6][number / 2 % 2],
                handle: 9,
                wait: false,
                path: PATHS[number / 8],
            };
            let from = Vmid::new([1, 2][number / 4 % 2]).unwrap();
            table.set(from, 0, &lock).unwrap();
        }
    }

    #[test]
    fn short_way_leads_to_the_state_of_the_general_way() {
        let mut memory = [(); 2]
            .map(|()| Box::new_uninit_slice(LockTable::bytes(&LIMITS) + LockTable::quota_bytes(2)));
        let [mut short, mut general] = memory
            .each_mut()
            .map(|memory| LockTable::shared(&mut Arena::new(memory), &LIMITS, 2).unwrap());
        let mut rng = fastrand::Rng::with_seed(1);
        let mut count = 0;
        for round in 0..100 {
            // Three of four rounds are of one process, most of them with one file.
            let kinds = if round % 4 == 3 { 2 } else { 1 };
            for seq in 1..100 {
                let mut some = |of: u32| rng.usize(0..of as usize);
                let from = Vmid::new([1, 2][some(kinds)]).unwrap();
                let start = some(4) as u64;
                let mut lock = FileLock {
                    family: [LockFamily::Posix, LockFamily::Flock][some(kinds) * some(2)],
                    kind: [LockKind::Read, LockKind::Write, LockKind::Unlock][some(3)],
                    start,
                    end: (start + some(6) as u64).saturating_sub(some(40) as u64 / 39),
                    pid: [5, 6][some(kinds)],
                    handle: 9,
                    wait: kinds == 2 && some(10) == 0,
                    path: PATHS[if kinds == 2 || some(8) == 0 {
                        some(3)
                    } else {
                        0
                    }],
                };
                if lock.kind == LockKind::Unlock && some(4) > 0 {
                    (lock.start, lock.end) = (0, 20);
                }
                let is_short = short.try_set_fast(from, &lock, hash_path(lock.path));
                if !is_short {
                    let _ = short.set(from, seq, &lock);
                }
                let set = general.set(from, seq, &lock);
                assert!(!is_short || set == Ok(SetOutcome::Done));
                count += u32::from(is_short);
                assert_eq!(digest(&short), digest(&general), "{lock:?}");
                assert_eq!(short.removed(), general.removed());
                assert!(short.check_invariants() && short.check_quotas());
            }
            clear(&mut short, 100);
            clear(&mut general, 100);
            assert_eq!(digest(&short), digest(&general));
        }
        assert!(count > 500, "{count}");
    }
}
