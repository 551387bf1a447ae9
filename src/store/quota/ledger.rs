//! The accounts of the members.

use super::pool::Pool;
use super::{Payer, number};
use crate::Vmid;
use crate::invariant::{Count, OrBroken};
use crate::store::{
    Arena, HashIndex, NONE, SlotAllocator, Table, bytes_for, entry, hash64, image, memory_sum,
};

/// The greatest number of tables of one machine.
const MAX_TABLES: usize = 4;

#[derive(Clone, Copy, Hash)]
pub(super) struct Account {
    /// `None` for a free account.
    pub(super) vmid: Option<Vmid>,
    /// The member has left: its account is freed with its last charge.
    pub(super) has_left: bool,
    /// By table: the number of places that are charged to the account.
    pub(super) charges: [u32; MAX_TABLES],
}

entry!(Account {
    vmid,
    has_left,
    charges
});

image!(Ledger<'_> {
    fields { pools, refused, moved, has_exceeded }
    tables { accounts: slots.high_water() as usize => FREE }
    parts { slots }
    omitted { by_vmid, recent }
});

const FREE: Account = Account {
    vmid: None,
    has_left: false,
    charges: [0; MAX_TABLES],
};

/// The accounts of all members for the tables of one machine.
pub(super) struct Ledger<'m> {
    pub(super) accounts: Table<'m, Account>,
    pub(super) slots: SlotAllocator<'m>,
    by_vmid: HashIndex<'m>,
    pub(super) pools: [Pool; MAX_TABLES],
    /// The member that was looked up last, and its account.
    recent: (Option<Vmid>, u32),
    pub(super) refused: u64,
    /// By table: the number of places that were charged by a move or a split and that the rule does not allow. It counts
    /// from the last time when nobody used shared places.
    pub(super) moved: [u32; MAX_TABLES],
    /// A member has got a place that the rule does not allow: the quotas are not right.
    pub(super) has_exceeded: bool,
}

/// The account of the leader, which pays for a member when all accounts are in use.
const OF_LEADER: u32 = 0;

impl<'m> Ledger<'m> {
    pub(super) const fn bytes(members: usize) -> usize {
        memory_sum!(
            bytes_for::<Ledger<'m>>(1),
            bytes_for::<Account>(members),
            SlotAllocator::bytes(members),
            HashIndex::bytes(members),
        )
    }

    pub(super) fn new(arena: &mut Arena<'m>, members: usize, capacities: &[usize]) -> Self {
        let pool = |table: usize| {
            let capacity = capacities.get(table).map_or(0, |capacity| *capacity);
            Pool::new(capacity, members)
        };
        Ledger {
            accounts: arena.alloc_filled(members, &FREE),
            slots: SlotAllocator::new(arena, members),
            by_vmid: HashIndex::new(arena, members),
            pools: core::array::from_fn(pool),
            recent: (None, NONE),
            refused: 0,
            moved: [0; MAX_TABLES],
            has_exceeded: false,
        }
    }

    /// Like [`Quotas::complete_image`](super::Quotas::complete_image).
    pub(super) fn complete_image(&mut self) -> bool {
        self.recent = (None, NONE);
        self.by_vmid.clear();
        if !self.slots.is_valid() {
            return false;
        }
        let accounts = &self.accounts;
        for (slot, account) in (0..self.slots.high_water()).zip(accounts.iter()) {
            if let Some(vmid) = account.vmid {
                self.by_vmid.insert(hash_vmid(vmid), slot, &|other| {
                    member_of(accounts, other).cmp(&Some(vmid))
                });
            }
        }
        let mut charges = accounts.iter().flat_map(|account| account.charges);
        let sum = charges.try_fold(0, u32::checked_add);
        let has_sharers = |pool: &Pool| pool.sharers as usize <= accounts.len();
        sum.is_some() && self.pools.iter().all(has_sharers)
    }

    /// Returns the account of the member, and keeps it for the next call.
    #[inline]
    pub(super) fn find(&mut self, vmid: Vmid) -> Option<u32> {
        let (member, account) = self.recent;
        if member == Some(vmid) {
            return Some(account);
        }
        self.look_up(vmid)
    }

    #[cold]
    fn look_up(&mut self, vmid: Vmid) -> Option<u32> {
        let found = self.account_of(vmid)?;
        self.recent = (Some(vmid), found);
        Some(found)
    }

    /// Like [`Ledger::find`], without a change of what is kept.
    pub(super) fn account_of(&self, vmid: Vmid) -> Option<u32> {
        self.by_vmid.find(hash_vmid(vmid), |slot| {
            member_of(&self.accounts, slot).cmp(&Some(vmid))
        })
    }

    /// Returns the account of the member, a new one if it has none, and that of the leader if all are in use.
    pub(super) fn find_or_add(&mut self, vmid: Vmid) -> u32 {
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

    /// Returns the number of places of the table that are charged to the account.
    pub(super) fn charge_of(&self, account: u32, table: usize) -> u32 {
        let account = self.accounts.get(account as usize).or_broken(&FREE);
        account.charges.get(table).copied().or_broken(0)
    }

    /// Returns true if the rule allows what was charged last, to that account.
    fn is_within(&self, account: u32, table: usize) -> bool {
        let charge = self.charge_of(account, table);
        let pool = self.pools.get(table);
        pool.is_none_or(|pool| pool.is_within(charge))
    }

    /// Counts places that were charged to the account by a move or a split, if the rule does not allow them.
    pub(super) fn note_move(&mut self, account: u32, table: usize, count: u32) {
        let is_within = self.is_within(account, table);
        if !is_within && let Some(moved) = self.moved.get_mut(table) {
            *moved = moved.plus(count);
        }
    }

    /// Notes if the rule does not allow what was charged to the account. The leader also pays for members without an
    /// account.
    pub(super) fn note_growth(&mut self, account: u32, table: usize) {
        self.has_exceeded |= account != OF_LEADER && !self.is_within(account, table);
    }

    #[inline]
    pub(super) fn add(&mut self, account: u32, table: usize, count: u32) {
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
            if pool.sharers == 0
                && let Some(moved) = self.moved.get_mut(table)
            {
                *moved = 0;
            }
        }
    }

    #[inline(never)]
    pub(super) fn has_room(&mut self, vmid: Vmid, table: usize, count: usize) -> bool {
        let charge = match self.find(vmid) {
            Some(account) => self.charge_of(account, table),
            None => 0,
        };
        let pool = self.pools.get(table);
        pool.is_none_or(|pool| pool.may_grow(charge, number(count)))
    }

    /// Charges places of different tables to the member that was looked up last, if they are within its reserve. Most
    /// charges are.
    #[inline]
    pub(super) fn charge_within_reserve<const TABLES: usize>(
        &mut self,
        vmid: Vmid,
        places: [(usize, usize); TABLES],
    ) -> Option<Payer> {
        let (member, slot) = self.recent;
        let account = self.accounts.get_mut(slot as usize)?;
        if member != Some(vmid) || account.has_left {
            return None;
        }
        for (table, count) in places {
            let reserve = self.pools.get(table)?.reserve;
            let charge = account.charges.get(table)?;
            if number(count) > reserve.checked_sub(*charge)? {
                return None;
            }
        }
        for (table, count) in places {
            let charge = account.charges.get_mut(table)?;
            *charge = charge.wrapping_add(number(count));
        }
        Some(Payer(slot))
    }

    /// Releases places of a member that uses no shared places of the table. Returns false, and does
    /// nothing, for any other payer.
    #[inline]
    pub(super) fn release_within_reserve(
        &mut self,
        payer: Payer,
        table: usize,
        count: u32,
    ) -> bool {
        if let Some(pool) = self.pools.get(table)
            && let Some(account) = self.accounts.get_mut(payer.0 as usize)
            && let Some(charge) = account.charges.get_mut(table)
            && *charge <= pool.reserve
            && !account.has_left
        {
            *charge = charge.minus(count);
            return true;
        }
        false
    }

    /// Charges places to the member, or counts a refusal.
    #[inline(never)]
    pub(super) fn try_charge(&mut self, vmid: Vmid, table: usize, count: usize) -> Option<Payer> {
        if self.has_room(vmid, table, count) {
            return Some(self.charge_to(vmid, table, count));
        }
        self.refused = self.refused.wrapping_add(1);
        None
    }

    #[inline(never)]
    pub(super) fn charge_to(&mut self, vmid: Vmid, table: usize, count: usize) -> Payer {
        let account = self.find_or_add(vmid);
        let count = number(count);
        self.add(account, table, count);
        if account == OF_LEADER {
            // The leader may pay for a member without an account.
            self.note_move(account, table, count);
        }
        if let Some(account) = self.accounts.get_mut(account as usize) {
            // Another process with the VMID may have connected.
            account.has_left = false;
        }
        Payer(account)
    }

    #[inline(never)]
    pub(super) fn release(&mut self, payer: Payer, table: usize, count: usize) {
        let count = number(count);
        self.change(payer.0, table, |charge| charge.minus(count));
        self.free_if_unused(payer.0);
    }

    /// Frees the account of a member that has left, if nothing is charged to it.
    #[inline]
    pub(super) fn free_if_unused(&mut self, slot: u32) {
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
