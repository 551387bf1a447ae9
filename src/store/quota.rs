//! Quotas: how the members of a family share the tables of the leader.
//!
//! Each place of a table is charged to the account of one member. A table has a reserve for each
//! member, a quarter of an equal part, and shares the rest: a member always gets its reserve, and
//! beyond it one more place if it then has at most as many shared places as would stay free, divided
//! by the number of members that have some. So a member that is alone gets about half of a table,
//! and each further one a fair part of what is left, whatever the others did. Nothing is ever taken
//! away. In a table without reserves, which has fewer than four places for each member, a member gets
//! its first place as long as one is free.
//!
//! The decision depends on the charges alone, and takes a constant number of steps.

use core::hash::Hash;

use super::{Arena, Digest, HashIndex, NONE, SlotAllocator, Table, bytes_for, hash64, total};
use crate::Vmid;
use crate::error::Error;
use crate::invariant::{Count, OrBroken};

/// The account that a place is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Payer(u32);

impl Payer {
    /// The payer of a free place, and of every place if there are no quotas.
    pub(crate) const NOBODY: Payer = Payer(NONE);
}

/// The most tables of one machine.
const MAX_TABLES: usize = 4;

#[derive(Clone, Copy, Hash)]
struct Account {
    /// `None` for a free account.
    vmid: Option<Vmid>,
    /// The member is gone: its account is freed with its last charge.
    has_left: bool,
    /// The number of places in each table.
    charges: [u32; MAX_TABLES],
}

const FREE: Account = Account {
    vmid: None,
    has_left: false,
    charges: [0; MAX_TABLES],
};

/// How one table is shared.
#[derive(Clone, Copy, Hash)]
struct Pool {
    /// The places that each member gets in any case.
    reserve: u32,
    /// The places that all members share.
    shared: u32,
    /// The number of shared places in use. Charges that were moved may make it greater than
    /// `shared`.
    used: u32,
    /// The number of members that use shared places.
    sharers: u32,
}

impl Pool {
    fn new(capacity: usize, members: usize) -> Pool {
        let reserve = (capacity / 4).checked_div(members).or_broken(0);
        let reserved = reserve.wrapping_mul(members);
        Pool {
            reserve: number(reserve),
            shared: number(capacity.minus(reserved)),
            used: 0,
            sharers: 0,
        }
    }

    /// Whether a member with that charge may have `count` more places.
    fn may_grow(&self, charge: u32, count: u32) -> bool {
        let before = self.share(charge);
        let after = self.share(charge.plus(count));
        let sharers = self.sharers.plus((before == 0).into());
        let free = self.shared.max(self.used).minus(self.used).plus(before);
        let needed = u64::from(after).checked_mul(u64::from(sharers).plus(1));
        // A table that is too small for reserves still has a place for each that comes in time.
        let is_first = self.reserve == 0 && charge == 0 && count == 1 && self.used < self.shared;
        after == 0 || is_first || needed.is_some_and(|needed| needed <= free.into())
    }

    /// The shared places of a member with that charge.
    fn share(&self, charge: u32) -> u32 {
        charge.max(self.reserve).minus(self.reserve)
    }

    fn change(&mut self, before: u32, after: u32) {
        let (before, after) = (self.share(before), self.share(after));
        self.used = self.used.plus(after).minus(before);
        match (before, after) {
            (0, 1..) => self.sharers.increment(),
            (1.., 0) => self.sharers.decrement(),
            _ => {}
        }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).or_broken(u32::MAX)
}

/// The accounts of all members for the tables of one machine.
struct Ledger<'m> {
    accounts: Table<'m, Account>,
    slots: SlotAllocator<'m>,
    by_vmid: HashIndex<'m>,
    pools: Table<'m, Pool>,
    /// The member that was looked up last, and its account.
    recent: (Option<Vmid>, u32),
    refused: u64,
    /// A charge was moved, or a place was split: some pool may have given more than the rule allows.
    has_moved: bool,
}

/// The account of the leader, which pays for a member when all accounts are in use.
const OF_LEADER: u32 = 0;

impl Ledger<'_> {
    #[inline]
    fn find(&mut self, vmid: Vmid) -> Option<u32> {
        let (member, account) = self.recent;
        if member == Some(vmid) {
            return Some(account);
        }
        self.look_up(vmid)
    }

    #[cold]
    fn look_up(&mut self, vmid: Vmid) -> Option<u32> {
        let found = self.by_vmid.find(hash_vmid(vmid), |slot| {
            member_of(&self.accounts, slot).cmp(&Some(vmid))
        })?;
        self.recent = (Some(vmid), found);
        Some(found)
    }

    fn find_or_add(&mut self, vmid: Vmid) -> u32 {
        if let Some(found) = self.find(vmid) {
            return found;
        }
        let Some(slot) = self.slots.alloc() else {
            return OF_LEADER;
        };
        if let Some(account) = self.accounts.get_mut(slot as usize) {
            account.vmid = Some(vmid);
        }
        let accounts = &self.accounts;
        self.by_vmid.insert(hash_vmid(vmid), slot, &|other| {
            member_of(accounts, other).cmp(&Some(vmid))
        });
        self.recent = (Some(vmid), slot);
        slot
    }

    fn charge(&self, account: u32, table: usize) -> u32 {
        let account = self.accounts.get(account as usize).or_broken(&FREE);
        account.charges.get(table).copied().or_broken(0)
    }

    #[inline]
    fn add(&mut self, account: u32, table: usize, count: u32) {
        self.change(account, table, |charge| charge.plus(count));
    }

    #[inline]
    fn change(&mut self, account: u32, table: usize, new: impl FnOnce(u32) -> u32) {
        if let Some(account) = self.accounts.get_mut(account as usize)
            && let Some(place) = account.charges.get_mut(table)
            && let Some(pool) = self.pools.get_mut(table)
        {
            let charge = new(*place);
            pool.change(*place, charge);
            *place = charge;
        }
    }

    #[inline(never)]
    fn has_room(&mut self, vmid: Vmid, table: usize, count: usize) -> bool {
        let charge = match self.find(vmid) {
            Some(account) => self.charge(account, table),
            None => 0,
        };
        let pool = self.pools.get(table);
        pool.is_none_or(|pool| pool.may_grow(charge, number(count)))
    }

    #[inline(never)]
    fn charge_to(&mut self, vmid: Vmid, table: usize, count: usize) -> Payer {
        let account = self.find_or_add(vmid);
        self.add(account, table, number(count));
        if let Some(account) = self.accounts.get_mut(account as usize) {
            // Another process with the VMID may have come.
            account.has_left = false;
        }
        Payer(account)
    }

    #[inline(never)]
    fn release(&mut self, payer: Payer, table: usize, count: usize) {
        let count = number(count);
        self.change(payer.0, table, |charge| charge.minus(count));
        self.free_if_unused(payer.0);
    }

    /// Frees the account of a member that has left, if nothing is charged to it.
    #[inline]
    fn free_if_unused(&mut self, slot: u32) {
        let account = self.accounts.get(slot as usize);
        // Most members have not left, and this is called for each place that they free.
        if let Some(account) = account.filter(|account| account.has_left)
            && let Some(vmid) = account.vmid
            && account.charges.iter().all(|charge| *charge == 0)
        {
            self.free(slot, vmid);
        }
    }

    #[cold]
    fn free(&mut self, slot: u32, vmid: Vmid) {
        let accounts = &self.accounts;
        self.by_vmid.remove(hash_vmid(vmid), slot, &|other| {
            member_of(accounts, other).cmp(&Some(vmid))
        });
        if let Some(account) = self.accounts.get_mut(slot as usize) {
            *account = FREE;
        }
        self.slots.free(slot);
        self.recent = (None, NONE);
    }
}

fn member_of(accounts: &Table<'_, Account>, slot: u32) -> Option<Vmid> {
    accounts.get(slot as usize)?.vmid
}

fn hash_vmid(vmid: Vmid) -> u64 {
    hash64(vmid.get().into())
}

/// The member that is to pay for a place from now on: a user of it, or the leader if it has none.
pub(crate) fn payer_among(user: Option<Vmid>) -> Vmid {
    user.unwrap_or(Vmid::LEADER)
}

/// The quotas of the tables of one machine; none, unless they are [on](Quotas::new). The tables have
/// numbers from 0 on.
pub(crate) struct Quotas<'m>(Option<&'m mut Ledger<'m>>);

impl<'m> Quotas<'m> {
    /// The memory of the quotas of that many tables, in bytes; see [`Quotas::new`].
    pub(crate) const fn bytes(members: usize, tables: usize) -> usize {
        if members == 0 {
            return 0;
        }
        total!(
            bytes_for::<Ledger<'m>>(1),
            bytes_for::<Account>(members),
            SlotAllocator::bytes(members),
            HashIndex::bytes(members),
            bytes_for::<Pool>(tables),
        )
    }

    /// Makes the quotas of tables with those capacities for a family of at most `members`, the
    /// leader included; 0 members: no quotas.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    #[inline(never)]
    pub(crate) fn new(
        arena: &mut Arena<'m>,
        members: usize,
        capacities: &[usize],
    ) -> Result<Self, Error> {
        if members == 0 {
            return Ok(Quotas(None));
        }
        let ledger = arena.alloc_with(|arena| {
            Ok(Ledger {
                accounts: arena.alloc_table(members, |_| Ok(FREE))?,
                slots: SlotAllocator::new(arena, members)?,
                by_vmid: HashIndex::new(arena, members)?,
                pools: arena.alloc_table(capacities.len(), |table| {
                    let capacity = capacities.get(table).copied().or_broken(0);
                    Ok(Pool::new(capacity, members))
                })?,
                recent: (None, NONE),
                refused: 0,
                has_moved: false,
            })
        })?;
        ledger.find_or_add(Vmid::LEADER);
        Ok(Quotas(Some(ledger)))
    }

    /// Whether the member may have `count` more places of the table. If not, the refusal is counted.
    #[inline]
    pub(crate) fn may_grow(&mut self, vmid: Vmid, table: usize, count: usize) -> bool {
        let may_grow = self.has_room(vmid, table, count);
        if !may_grow {
            self.count_refusal();
        }
        may_grow
    }

    /// As [`Quotas::may_grow`], for a caller that can do without.
    #[inline]
    pub(crate) fn has_room(&mut self, vmid: Vmid, table: usize, count: usize) -> bool {
        // The machines of members have no quotas.
        let ledger = self.0.as_deref_mut();
        ledger.is_none_or(|ledger| ledger.has_room(vmid, table, count))
    }

    /// Whether a place of that payer may be split in two: as long as shared places are free, also
    /// beyond its quota. If not, the refusal is counted.
    pub(crate) fn may_split(&mut self, payer: Payer, table: usize) -> bool {
        let Some(ledger) = self.0.as_deref() else {
            return true;
        };
        let charge = ledger.charge(payer.0, table);
        let may_split = ledger
            .pools
            .get(table)
            .is_none_or(|pool| charge < pool.reserve || pool.used < pool.shared);
        if !may_split {
            self.count_refusal();
        }
        may_split
    }

    #[cold]
    fn count_refusal(&mut self) {
        if let Some(ledger) = self.0.as_deref_mut() {
            ledger.refused = ledger.refused.wrapping_add(1);
        }
    }

    /// Charges places to the member. Returns its account, which the places are released to.
    #[inline]
    pub(crate) fn charge(&mut self, vmid: Vmid, table: usize, count: usize) -> Payer {
        match self.0.as_deref_mut() {
            Some(ledger) => ledger.charge_to(vmid, table, count),
            None => Payer::NOBODY,
        }
    }

    /// Charges a place to the payer of another one.
    #[inline(never)]
    pub(crate) fn charge_also(&mut self, payer: Payer, table: usize) -> Payer {
        if let Some(ledger) = self.0.as_deref_mut() {
            ledger.add(payer.0, table, 1);
            ledger.has_moved = true;
        }
        payer
    }

    /// Whether this machine has quotas.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The member with that account.
    pub(crate) fn member(&self, payer: Payer) -> Option<Vmid> {
        let ledger = self.0.as_deref()?;
        ledger.accounts.get(payer.0 as usize)?.vmid
    }

    /// Records that places of that payer are free. Never fails.
    #[inline]
    pub(crate) fn release(&mut self, payer: Payer, table: usize, count: usize) {
        if let Some(ledger) = self.0.as_deref_mut() {
            ledger.release(payer, table, count);
        }
    }

    /// Charges places of the payer to a member from now on. Never refused: a member that this pushes
    /// above its quota gets nothing more.
    #[inline(never)]
    pub(crate) fn transfer(&mut self, from: Payer, to: Vmid, table: usize, count: usize) -> Payer {
        let payer = self.charge(to, table, count);
        self.finish_move(from, table, count);
        payer
    }

    /// Charges places of one payer to another one from now on.
    #[inline(never)]
    pub(crate) fn move_charge(&mut self, from: Payer, to: Payer, table: usize, count: usize) {
        if let Some(ledger) = self.0.as_deref_mut() {
            ledger.add(to.0, table, number(count));
        }
        self.finish_move(from, table, count);
    }

    fn finish_move(&mut self, from: Payer, table: usize, count: usize) {
        self.release(from, table, count);
        if let Some(ledger) = self.0.as_deref_mut() {
            ledger.has_moved = true;
        }
    }

    /// Whether the places of that payer are charged to the member.
    #[inline(never)]
    pub(crate) fn is_payer(&mut self, payer: Payer, vmid: Vmid) -> bool {
        let ledger = self.0.as_deref_mut();
        ledger.is_some_and(|ledger| ledger.find(vmid) == Some(payer.0))
    }

    /// Records that the member has left. What is still charged to it, such as an answer that was not
    /// taken yet, is released later.
    pub(crate) fn on_left(&mut self, vmid: Vmid) {
        if vmid != Vmid::LEADER
            && let Some(ledger) = self.0.as_deref_mut()
            && let Some(slot) = ledger.find(vmid)
            && let Some(account) = ledger.accounts.get_mut(slot as usize)
        {
            account.has_left = true;
            ledger.free_if_unused(slot);
        }
    }

    /// The number of requests that were refused because of a quota.
    pub(crate) fn refused(&self) -> u64 {
        self.0.as_deref().map_or(0, |ledger| ledger.refused)
    }

    /// Adds the charges. The number of refusals is left out: a refusal changes nothing.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        if let Some(ledger) = self.0.as_deref() {
            ledger.slots.digest(digest);
            let count = ledger.slots.high_water() as usize;
            digest.add_all(ledger.accounts.iter().take(count));
            digest.add_all(ledger.pools.iter());
        }
    }

    /// Whether the charges for each table add up to the places in use, the pools agree with the charges,
    /// and a member that has left pays only for what is in the first tables. As long as no charge was moved,
    /// the reserves must be free as well, and a fair part of each pool for one more member. Slow: for
    /// tests.
    pub(crate) fn check(&self, in_use: &[usize], kept: &[usize]) -> bool {
        let Some(ledger) = self.0.as_deref() else {
            return true;
        };
        let accounts = ledger.accounts.iter();
        let accounts = accounts.take(ledger.slots.high_water() as usize);
        let of_table = |table: usize| {
            let charges = accounts.clone().map(move |of| of.charges.get(table));
            charges.map(|charge| charge.copied().or_broken(0))
        };
        let is_right = |(table, (pool, in_use)): (usize, (&Pool, &usize))| {
            let of_pool = of_table(table).map(|charge| pool.share(charge));
            let has_fair_part = pool.used <= pool.shared && {
                let (free, sharers) = (pool.shared.minus(pool.used), pool.sharers);
                pool.reserve == 0 || free.wrapping_mul(sharers.plus(1)) >= pool.shared
            };
            of_table(table).map(|charge| charge as usize).sum::<usize>() == *in_use
                && of_pool.clone().sum::<u32>() == pool.used
                && of_pool.filter(|share| *share > 0).count() == pool.sharers as usize
                && (ledger.has_moved || has_fair_part)
        };
        let has_nothing_left = |account: &Account| {
            let charges = account.charges.iter().enumerate();
            let mut charges = charges.filter(|(table, _)| !kept.contains(table));
            !account.has_left || charges.all(|(_, charge)| *charge == 0)
        };
        let named = accounts.clone().filter(|account| account.vmid.is_some());
        named.count() == ledger.slots.in_use()
            && accounts.clone().all(has_nothing_left)
            && ledger.pools.len() == in_use.len()
            && ledger.pools.iter().zip(in_use).enumerate().all(is_right)
    }

    /// The number of places of the table that the member pays for.
    pub(crate) fn charge_of(&self, vmid: Vmid, table: usize) -> usize {
        let accounts = self
            .0
            .as_deref()
            .into_iter()
            .flat_map(|ledger| ledger.accounts.iter());
        let mut accounts = accounts.filter(|account| account.vmid == Some(vmid));
        let charge = accounts
            .next()
            .and_then(|account| account.charges.get(table));
        charge.map_or(0, |charge| *charge as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use super::*;

    fn vmid(number: u32) -> Vmid {
        Vmid::new(number).unwrap()
    }

    fn with_quotas(members: usize, capacities: &[usize], test: impl FnOnce(&mut Quotas<'_>)) {
        let mut memory = Box::new_uninit_slice(Quotas::bytes(members, capacities.len()));
        let mut arena = Arena::new(&mut memory);
        test(&mut Quotas::new(&mut arena, members, capacities).unwrap());
    }

    /// Takes places for the member until it is refused. Returns how many it got.
    fn fill(quotas: &mut Quotas<'_>, member: u32) -> usize {
        let mut count = 0;
        while quotas.may_grow(vmid(member), 0, 1) {
            quotas.charge(vmid(member), 0, 1);
            count += 1;
        }
        count
    }

    #[test]
    fn lone_member_gets_about_half_and_each_further_one_a_fair_part() {
        let tables: [(usize, &[usize]); 4] = [
            (2048, &[803, 272, 140]),
            (1024, &[417, 141, 72]),
            (512, &[224, 75, 38]),
            (264, &[100, 34, 17]),
        ];
        for (capacity, parts) in tables {
            with_quotas(65, &[capacity], |quotas| {
                for (member, part) in (2..).zip(parts) {
                    let got = fill(quotas, member);
                    assert!(got.abs_diff(*part) <= 1, "{got} of {capacity}, not {part}");
                }
            });
        }
    }

    #[test]
    fn reserve_is_free_for_each_member_however_many_took_what_they_could() {
        let members = 16;
        with_quotas(members, &[256], |quotas| {
            let reserve = 256 / 4 / members;
            let mut taken = 0;
            for member in 1..=u32::try_from(members).unwrap() {
                let got = fill(quotas, member);
                assert!(got >= reserve, "member {member} got {got}");
                taken += got;
                assert!(quotas.check(&[taken], &[]));
            }
            assert!(taken <= 256);
        });
    }

    #[test]
    fn refusal_changes_nothing_and_is_counted() {
        with_quotas(4, &[16], |quotas| {
            fill(quotas, 2);
            let state = |quotas: &Quotas<'_>| {
                let mut digest = Digest::new();
                quotas.digest(&mut digest);
                core::hash::Hasher::finish(&digest)
            };
            let (before, refused) = (state(quotas), quotas.refused());
            assert!(!quotas.may_grow(vmid(2), 0, 1));
            assert!(!quotas.has_room(vmid(2), 0, 1));
            assert_eq!(state(quotas), before);
            assert_eq!(quotas.refused(), refused + 1);
        });
    }

    #[test]
    fn member_with_more_than_its_quota_after_a_move_gets_no_more_and_loses_nothing() {
        with_quotas(4, &[64], |quotas| {
            let count = fill(quotas, 2);
            let payer = quotas.charge(vmid(2), 0, 0);
            fill(quotas, 3);
            let moved = quotas.transfer(payer, vmid(3), 0, count);
            assert!(!quotas.may_grow(vmid(3), 0, 1));
            assert!(quotas.may_grow(vmid(2), 0, 1));
            quotas.on_left(vmid(2));
            assert_eq!(quotas.charge_of(vmid(2), 0), 0);
            quotas.release(moved, 0, count);
            let all = quotas.charge_of(vmid(3), 0);
            assert!(quotas.check(&[all], &[]));
        });
    }

    #[test]
    fn each_member_gets_one_place_of_a_table_without_reserves_while_one_is_free() {
        with_quotas(65, &[3], |quotas| {
            for member in 2..5 {
                assert_eq!(fill(quotas, member), 1);
            }
            assert!(!quotas.may_grow(vmid(5), 0, 1));
            assert!(quotas.check(&[3], &[]));
        });
        with_quotas(65, &[1], |quotas| {
            let payer = quotas.charge(vmid(2), 0, 1);
            assert!(!quotas.may_grow(vmid(3), 0, 1));
            quotas.release(payer, 0, 1);
            assert!(quotas.may_grow(vmid(3), 0, 1) && !quotas.may_grow(vmid(3), 0, 2));
        });
    }

    #[test]
    fn account_of_a_member_that_left_is_free_for_another_one() {
        with_quotas(3, &[64], |quotas| {
            for member in 2..100 {
                let payer = quotas.charge(vmid(member), 0, 1);
                assert!(quotas.is_payer(payer, vmid(member)), "{member}");
                quotas.on_left(vmid(member));
                assert!(!quotas.check(&[1], &[]), "it pays, but it has left");
                quotas.release(payer, 0, 1);
                assert!(quotas.check(&[0], &[]));
            }
        });
    }

    /// The rule in the words of its definition, on plain maps.
    #[test]
    fn random_programs_agree_with_a_model() {
        const MEMBERS: usize = 7;
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let capacity = rng.usize(1..200);
            with_quotas(MEMBERS, &[capacity], |quotas| {
                let reserve = capacity / (4 * MEMBERS);
                let shared = capacity - MEMBERS * reserve;
                let mut charges = [0_usize; MEMBERS];
                let mut payers: Vec<(usize, Payer)> = Vec::new();
                for _ in 0..400 {
                    let member = rng.usize(..MEMBERS);
                    let of = vmid(u32::try_from(member).unwrap() + 1);
                    if rng.u8(..3) == 0 && !payers.is_empty() {
                        let (payer, account) = payers.swap_remove(rng.usize(..payers.len()));
                        quotas.release(account, 0, 1);
                        charges[payer] -= 1;
                    } else {
                        let above = charges.map(|charge| charge.saturating_sub(reserve));
                        let free = shared - above.iter().sum::<usize>();
                        let others = (0..MEMBERS).filter(|at| *at != member && above[*at] > 0);
                        let sharers = others.count() + 1;
                        let share = above[member];
                        let expected = charges[member] < reserve
                            || (share + 1) * (sharers + 1) <= free + share
                            || reserve == 0 && charges[member] == 0 && free > 0;
                        assert_eq!(quotas.may_grow(of, 0, 1), expected);
                        if expected {
                            payers.push((member, quotas.charge(of, 0, 1)));
                            charges[member] += 1;
                        }
                    }
                    assert!(quotas.check(&[charges.iter().sum()], &[]));
                }
            });
        }
    }
}
