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

mod ledger;
mod pool;
#[cfg(test)]
mod tests;

use ledger::{Account, Ledger};
use pool::Pool;

use super::{Arena, Digest, Image, Loader, MalformedImage, NONE, Saver};
use crate::Vmid;
use crate::invariant::{Count, OrBroken};

/// The account that a place is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Payer(u32);

impl Default for Payer {
    fn default() -> Payer {
        Payer::NOBODY
    }
}

impl Payer {
    /// The payer of a free place, and of every place if there are no quotas.
    pub(crate) const NOBODY: Payer = Payer(NONE);

    /// Returns the number of the account.
    pub(crate) const fn account(self) -> u32 {
        self.0
    }

    pub(crate) const fn of_account(account: u32) -> Payer {
        Payer(account)
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).or_broken(u32::MAX)
}

/// Returns the member that is to pay for a place from now on: a user of it, or the leader if it has
/// none.
pub(crate) fn payer_or_leader(user: Option<Vmid>) -> Vmid {
    user.unwrap_or(Vmid::LEADER)
}

/// The quotas of the tables of one machine; none, unless they are [on](Quotas::new). The tables have
/// numbers from 0 on.
pub(crate) struct Quotas<'m>(Option<&'m mut Ledger<'m>>);

impl Image for Quotas<'_> {
    fn save(&self, out: &mut Saver<'_>) {
        if let Some(ledger) = self.0.as_deref() {
            ledger.save(out);
        }
    }

    fn load(&mut self, from: &mut Loader<'_>) -> Result<(), MalformedImage> {
        match self.0.as_deref_mut() {
            Some(ledger) => ledger.load(from),
            None => Ok(()),
        }
    }

    fn clear_unused(&mut self) {
        if let Some(ledger) = self.0.as_deref_mut() {
            ledger.clear_unused();
        }
    }
}

impl<'m> Quotas<'m> {
    /// Computes what an image leaves out. Returns false if the loaded image is not valid.
    pub(crate) fn complete_image(&mut self) -> bool {
        let ledger = self.0.as_deref_mut();
        ledger.is_none_or(Ledger::complete_image)
    }

    /// Returns the memory of the quotas, in bytes; see [`Quotas::new`].
    pub(crate) const fn bytes(members: usize) -> usize {
        if members == 0 {
            return 0;
        }
        Ledger::bytes(members)
    }

    /// Makes the quotas of tables with those capacities for a family of at most `members`, the
    /// leader included; 0 members: no quotas.
    #[inline(never)]
    pub(crate) fn new(arena: &mut Arena<'m>, members: usize, capacities: &[usize]) -> Self {
        if members == 0 {
            return Quotas(None);
        }
        let ledger = arena.alloc_with(|arena| Ledger::new(arena, members, capacities));
        let mut quotas = Quotas(ledger.ok());
        if let Some(ledger) = &mut quotas.0 {
            ledger.find_or_add(Vmid::LEADER);
        }
        quotas
    }

    /// Returns true if the member may have `count` more places of the table. If not, the refusal is
    /// counted.
    #[inline]
    pub(crate) fn may_grow(&mut self, vmid: Vmid, table: usize, count: usize) -> bool {
        let may_grow = self.has_room(vmid, table, count);
        if !may_grow {
            self.count_refusal();
        }
        may_grow
    }

    /// Like [`Quotas::may_grow`], for a caller that can do without.
    #[inline]
    pub(crate) fn has_room(&mut self, vmid: Vmid, table: usize, count: usize) -> bool {
        // The machines of members have no quotas.
        let ledger = self.0.as_deref_mut();
        ledger.is_none_or(|ledger| ledger.has_room(vmid, table, count))
    }

    /// Returns true if a place of that payer may be split in two: as long as shared places are
    /// free, also beyond its quota. If not, the refusal is counted.
    pub(crate) fn may_split(&mut self, payer: Payer, table: usize) -> bool {
        let Some(ledger) = self.0.as_deref() else {
            return true;
        };
        let charge = ledger.charge_of(payer.0, table);
        let may_split = ledger
            .pools
            .get(table)
            .is_none_or(|pool| charge < pool.reserve || pool.used < pool.shared);
        if !may_split {
            self.count_refusal();
        }
        may_split
    }

    /// Returns true if that payer may have `count` more places. If not, the refusal is counted.
    pub(crate) fn payer_may_grow(&mut self, payer: Payer, table: usize, count: usize) -> bool {
        let Some(ledger) = self.0.as_deref() else {
            return true;
        };
        let charge = ledger.charge_of(payer.0, table);
        let pool = ledger.pools.get(table);
        let may_grow = pool.is_none_or(|pool| pool.may_grow(charge, number(count)));
        if !may_grow {
            self.count_refusal();
        }
        may_grow
    }

    #[cold]
    fn count_refusal(&mut self) {
        if let Some(ledger) = self.0.as_deref_mut() {
            ledger.refused = ledger.refused.wrapping_add(1);
        }
    }

    /// Charges places to the member, if its quota allows that. If not, the refusal is counted.
    #[inline]
    pub(crate) fn try_charge(&mut self, vmid: Vmid, table: usize, count: usize) -> Option<Payer> {
        let Some(ledger) = self.0.as_deref_mut() else {
            return Some(Payer::NOBODY);
        };
        let charged = ledger.charge_within_reserve(vmid, [(table, count)]);
        charged.or_else(|| ledger.try_charge(vmid, table, count))
    }

    /// Charges places of different tables to the member, if it was the last one that was charged for a place, and they are
    /// all within its reserve. If not, nothing is charged or counted.
    #[inline]
    pub(crate) fn charge_within_reserve<const TABLES: usize>(
        &mut self,
        vmid: Vmid,
        places: [(usize, usize); TABLES],
    ) -> Option<Payer> {
        match self.0.as_deref_mut() {
            Some(ledger) => ledger.charge_within_reserve(vmid, places),
            None => Some(Payer::NOBODY),
        }
    }

    /// Charges places to the member, also beyond its quota. Returns its account, which the places are released to.
    #[inline]
    pub(crate) fn charge(&mut self, vmid: Vmid, table: usize, count: usize) -> Payer {
        match self.0.as_deref_mut() {
            Some(ledger) => ledger.charge_to(vmid, table, count),
            None => Payer::NOBODY,
        }
    }

    /// Like [`Quotas::charge`], for places that the member [may have](Quotas::may_grow). A check reports if it may
    /// not.
    pub(crate) fn charge_allowed(&mut self, vmid: Vmid, table: usize, count: usize) -> Payer {
        let payer = self.charge(vmid, table, count);
        if let Some(ledger) = self.0.as_deref_mut() {
            ledger.note_growth(payer.0, table);
        }
        payer
    }

    /// Charges a place to the payer of another one.
    #[inline(never)]
    pub(crate) fn charge_also(&mut self, payer: Payer, table: usize) -> Payer {
        if let Some(ledger) = self.0.as_deref_mut() {
            ledger.add(payer.0, table, 1);
            ledger.note_move(payer.0, table, 1);
        }
        payer
    }

    /// Charges places to that payer, which [may have](Quotas::payer_may_grow) them.
    pub(crate) fn charge_more(&mut self, payer: Payer, table: usize, count: usize) {
        if let Some(ledger) = self.0.as_deref_mut() {
            ledger.add(payer.0, table, number(count));
        }
    }

    /// Returns true if this machine has quotas.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the member with that account.
    pub(crate) fn member(&self, payer: Payer) -> Option<Vmid> {
        let ledger = self.0.as_deref()?;
        ledger.accounts.get(payer.0 as usize)?.vmid
    }

    /// Records that places of that payer are free. Never fails.
    #[inline]
    pub(crate) fn release(&mut self, payer: Payer, table: usize, count: usize) {
        if let Some(ledger) = self.0.as_deref_mut()
            && !ledger.release_within_reserve(payer, table, number(count))
        {
            ledger.release(payer, table, count);
        }
    }

    /// Charges places of the payer to a member from now on. The charge is never refused: a member
    /// that this pushes above its quota gets nothing more.
    #[inline(never)]
    pub(crate) fn transfer(&mut self, from: Payer, to: Vmid, table: usize, count: usize) -> Payer {
        let payer = self.charge(to, table, count);
        self.finish_move((from, payer), table, count);
        payer
    }

    /// Charges places of one payer to another one from now on.
    #[inline(never)]
    pub(crate) fn move_charge(&mut self, from: Payer, to: Payer, table: usize, count: usize) {
        if let Some(ledger) = self.0.as_deref_mut() {
            ledger.add(to.0, table, number(count));
        }
        self.finish_move((from, to), table, count);
    }

    fn finish_move(&mut self, (from, to): (Payer, Payer), table: usize, count: usize) {
        self.release(from, table, count);
        if let Some(ledger) = self.0.as_deref_mut() {
            ledger.note_move(to.0, table, number(count));
        }
    }

    /// Returns true if the places of that payer are charged to the member.
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

    /// Returns the number of requests that were refused because of a quota.
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

    /// Returns true if the charges for each table add up to the places in use, the pools agree with the charges, a
    /// member that has left pays only for places of the tables `kept`, and no member has got a place that the rule does
    /// not allow. The reserves of a table must be free as well, and a fair part of its pool for one more member, and no
    /// member may have more than half of the pool, but for places that were moved. It is slow, and meant for tests.
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
            let moved = ledger.moved.get(table).copied().or_broken(0);
            let free = pool.shared.plus(moved).checked_sub(pool.used);
            let is_fair = |free: u32| {
                pool.reserve == 0 || free.wrapping_mul(pool.sharers.plus(1)) >= pool.shared
            };
            // One member alone gets half of the pool. The leader, whose account is the first, also pays for members without one.
            let of_members = of_pool.clone().skip(1);
            let has_most = of_members.max() > Some((pool.shared / 2).max(1).plus(moved));
            of_table(table).map(|charge| charge as usize).sum::<usize>() == *in_use
                && of_pool.clone().sum::<u32>() == pool.used
                && of_pool.filter(|share| *share > 0).count() == pool.sharers as usize
                && free.is_some_and(is_fair)
                && !has_most
        };
        let pays_only_for_kept = |account: &Account| {
            let charges = account.charges.iter().enumerate();
            let mut charges = charges.filter(|(table, _)| !kept.contains(table));
            !account.has_left || charges.all(|(_, charge)| *charge == 0)
        };
        let named = accounts.clone().filter(|account| account.vmid.is_some());
        !ledger.has_exceeded
            && named.count() == ledger.slots.in_use()
            && accounts.clone().all(pays_only_for_kept)
            && ledger.pools.iter().zip(in_use).enumerate().all(is_right)
    }

    /// Returns the number of places of the table that the member pays for.
    pub(crate) fn charge_of(&self, vmid: Vmid, table: usize) -> usize {
        let Some(ledger) = self.0.as_deref() else {
            return 0;
        };
        let account = ledger.account_of(vmid);
        account.map_or(0, |account| ledger.charge_of(account, table) as usize)
    }
}
