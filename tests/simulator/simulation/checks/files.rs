//! **locks**: no process gets a lock that conflicts with another, whether the leader or a member
//! grants it. **fencing**: a holder's number is higher than those of all conflicting holders before it.
//! **deadlocks**: `EDEADLK` is returned only if there may be a cycle. That no cycle is
//! missed, no waiter is forgotten, and no lock survives its holder, follows from the end of every
//! wait (**calls**).

use std::collections::BTreeMap;
use std::ops::Range;

use super::holders::Holders;

/// The number of bytes of a file that are ever locked.
pub(crate) const BYTES: usize = 6;

/// The locks of a file, those of `flock` separate from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Space {
    pub(crate) is_flock: bool,
    /// The number of the file.
    pub(crate) file: usize,
}

impl Space {
    /// Returns the space of the record locks of a file, and those of its open files.
    pub(crate) fn fcntl(file: usize) -> Space {
        Space {
            is_flock: false,
            file,
        }
    }
}

/// The owner of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    Process(u32),
    /// An open file, which several processes may hold.
    Handle(u64),
}

/// A requested lock.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) space: Space,
    pub(crate) owner: Owner,
    pub(crate) bytes: Range<usize>,
    pub(crate) write: bool,
}

impl Claim {
    fn conflicts_with(&self, other: &Claim) -> bool {
        self.space == other.space
            && self.owner != other.owner
            && (self.write || other.write)
            && self.bytes.start < other.bytes.end
            && other.bytes.start < self.bytes.end
    }
}

/// A claim, and the tick until which it may have been held, or may have waited.
struct TimedClaim {
    claim: Claim,
    until: u64,
}

/// For each byte, whether it is locked, and whether for writing.
type Held = [Option<bool>; BYTES];

/// The time for which the leader may keep a lock of a process that has ended or is cut off, in ticks.
const SURVIVAL_LIMIT: u64 = 1_000;

#[derive(Default)]
pub(crate) struct Files {
    /// The bytes that each owner holds for certain, by space, and whether for writing.
    held: BTreeMap<(Space, Owner), Held>,
    /// The locks that may be held.
    maybe: Vec<TimedClaim>,
    /// The requests that wait.
    waits: Vec<TimedClaim>,
    /// A process got a lock while another thread of it waited. That may close a cycle, although no
    /// request of it waits for the lock. The kernel does not detect that cycle either (`fcntl(2)`).
    may_have_closed_cycle: bool,
    /// The calls that release locks of an owner: those of a process that release all its record locks, and
    /// those of any process that may release a lock of an open file.
    clears: BTreeMap<Owner, Clears>,
    /// The highest fencing number for each byte.
    fencing: BTreeMap<(Space, usize), u64>,
    /// The holders of each open file: its locks live exactly as long as a process holds it.
    pub(crate) holders: Holders,
}

/// The calls that release locks of an owner, as other threads and processes see them: a lock that was
/// requested before such a call returned may have been released by it, whenever its own answer
/// arrived. A call that was cut short may release a lock at any time after.
#[derive(Default)]
struct Clears {
    under_way: usize,
    /// The tick at which the last of them returned.
    returned: u64,
}

impl Files {
    /// Records that a lock is requested.
    pub(crate) fn record_request(&mut self, claim: &Claim, waits: bool) {
        let timed = || TimedClaim {
            claim: claim.clone(),
            until: u64::MAX,
        };
        self.maybe.push(timed());
        if waits {
            self.waits.push(timed());
        }
    }

    /// Records that the answer to the request has arrived. If the process is cut off, the request may still wait at the
    /// leader.
    pub(crate) fn record_answer(&mut self, asked: &Claim, now: u64, is_certain: bool) {
        let until = if is_certain {
            now
        } else {
            now + SURVIVAL_LIMIT
        };
        let is_it = |claim: &Claim| claim.owner == asked.owner && claim.space == asked.space;
        for timed in self.waits.iter_mut().filter(|timed| is_it(&timed.claim)) {
            timed.until = timed.until.min(until);
        }
    }

    /// Records that the lock was granted, after a request at `began`, and checks that no conflicting lock is held.
    pub(crate) fn record_grant(&mut self, claim: &Claim, began: u64) -> Result<(), String> {
        let waits =
            |timed: &TimedClaim| timed.claim.owner == claim.owner && timed.until == u64::MAX;
        self.may_have_closed_cycle |= self.waits.iter().any(waits);
        if self.may_be_cleared(claim.owner, began) {
            return Ok(());
        }
        for ((space, other), theirs) in &self.held {
            if *space != claim.space || *other == claim.owner {
                continue;
            }
            let mut theirs = theirs[claim.bytes.clone()].iter().flatten();
            if theirs.any(|theirs| *theirs || claim.write) {
                return Err(format!(
                    "{claim:?} was granted, which conflicts with {other:?}"
                ));
            }
        }
        let own = self.held.entry((claim.space, claim.owner)).or_default();
        own[claim.bytes.clone()].fill(Some(claim.write));
        Ok(())
    }

    /// Checks the fencing number of an owner, which got the lock after a request at `began` and has not released it
    /// since.
    pub(crate) fn check_fencing_number(
        &mut self,
        claim: &Claim,
        began: u64,
        number: u64,
    ) -> Result<(), String> {
        if self.may_be_cleared(claim.owner, began) {
            return Ok(());
        }
        for byte in claim.bytes.clone() {
            let last = self.fencing.entry((claim.space, byte)).or_default();
            if number <= *last {
                return Err(format!("{claim:?} got {number} after {last}"));
            }
            *last = number;
        }
        Ok(())
    }

    /// Records that the bytes are about to be unlocked.
    pub(crate) fn begin_unlock(&mut self, space: Space, owner: Owner, bytes: Range<usize>) {
        if let Some(own) = self.held.get_mut(&(space, owner)) {
            own[bytes].fill(None);
        }
    }

    /// Records that the bytes were unlocked: they are not held any more.
    pub(crate) fn end_unlock(
        &mut self,
        space: Space,
        owner: Owner,
        bytes: &Range<usize>,
        now: u64,
    ) {
        for timed in &mut self.maybe {
            let claim = &timed.claim;
            let is_whole = bytes.start <= claim.bytes.start && claim.bytes.end <= bytes.end;
            if claim.space == space && claim.owner == owner && is_whole {
                timed.until = timed.until.min(now);
            }
        }
    }

    /// Forgets the locks of a process that has released all, or begun to.
    pub(crate) fn forget(&mut self, vmid: u32, now: u64) {
        let mut gone = vec![Owner::Process(vmid)];
        for handle in self.holders.forget(vmid) {
            if !self.holders.is_held(handle) {
                gone.push(Owner::Handle(handle));
            }
        }
        self.held.retain(|(_, of), _| !gone.contains(of));
        for timed in self.maybe.iter_mut().chain(&mut self.waits) {
            if gone.contains(&timed.claim.owner) && timed.until == u64::MAX {
                timed.until = now + SURVIVAL_LIMIT;
            }
        }
    }

    /// Records that the process is about to close an open file: unless another process holds it, its locks are free.
    pub(crate) fn begin_close(&mut self, vmid: u32, handle: u64) {
        self.holders.remove_holder(vmid, handle);
        if !self.holders.is_held(handle) {
            self.held.retain(|(_, of), _| *of != Owner::Handle(handle));
        }
    }

    /// Records that the open file was closed: the locks of its last holder are free now.
    pub(crate) fn end_close(&mut self, handle: u64, now: u64) {
        if !self.holders.is_held(handle) && self.holders.is_sure(handle) {
            for timed in &mut self.maybe {
                if timed.claim.owner == Owner::Handle(handle) {
                    timed.until = timed.until.min(now);
                }
            }
        }
    }

    /// Checks the refusal of a lock that does not wait, after a request at `began`: a conflicting lock may be held.
    /// Only `flock` locks, which are for whole files, are known well enough for this check.
    pub(crate) fn check_refusal(&self, claim: &Claim, began: u64) -> Result<(), String> {
        let is_lost =
            |owner| matches!(owner, Owner::Handle(handle) if !self.holders.is_sure(handle));
        let mut all = self.maybe.iter();
        let is_right = all.any(|timed| {
            timed.claim.conflicts_with(claim)
                && (timed.until >= began || is_lost(timed.claim.owner))
        });
        if is_right || !claim.space.is_flock {
            return Ok(());
        }
        Err(format!("{claim:?} was refused, and no lock conflicts"))
    }

    /// Records that the process begins to release all its record locks.
    pub(crate) fn begin_clear(&mut self, vmid: u32) {
        self.held.retain(|(_, of), _| *of != Owner::Process(vmid));
        self.begin_release(Owner::Process(vmid));
    }

    /// Records that a call begins that may release locks of the owner.
    pub(crate) fn begin_release(&mut self, owner: Owner) {
        self.clears.entry(owner).or_default().under_way += 1;
    }

    /// Records that the call that may release locks of the owner was done, and releases nothing more.
    pub(crate) fn end_release(&mut self, owner: Owner) {
        self.clears.entry(owner).or_default().under_way -= 1;
    }

    /// Records that the call has returned.
    pub(crate) fn record_release_return(&mut self, owner: Owner, now: u64) {
        self.clears.entry(owner).or_default().returned = now;
    }

    /// Returns true if another thread or process may have released a lock that was requested at `began`.
    fn may_be_cleared(&self, owner: Owner, began: u64) -> bool {
        let clears = self.clears.get(&owner);
        clears.is_some_and(|clears| clears.under_way > 0 || clears.returned > began)
    }

    /// Returns true if a request for `claim` that has waited since `began` may be in a cycle that
    /// is not detected.
    pub(crate) fn may_be_undetected_cycle(&self, claim: &Claim, began: u64) -> bool {
        self.may_have_closed_cycle && self.check_deadlock(claim, began).is_ok()
    }

    /// Checks that the request for `claim` at `began` may have closed a cycle.
    pub(crate) fn check_deadlock(&self, claim: &Claim, began: u64) -> Result<(), String> {
        let mut seen = vec![claim.owner];
        let mut ways = vec![claim];
        while let Some(way) = ways.pop() {
            let holders = self
                .maybe
                .iter()
                .filter(|timed| timed.until >= began && timed.claim.conflicts_with(way));
            for holder in holders {
                let owner = holder.claim.owner;
                if owner == claim.owner && way.owner != owner {
                    return Ok(());
                }
                if seen.contains(&owner) {
                    continue;
                }
                seen.push(owner);
                let theirs =
                    |timed: &&TimedClaim| timed.claim.owner == owner && timed.until >= began;
                ways.extend(self.waits.iter().filter(theirs).map(|timed| &timed.claim));
            }
        }
        Err(format!("EDEADLK for {claim:?}, and there is no cycle"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(vmid: u32) -> Claim {
        Claim {
            space: Space::fcntl(0),
            owner: Owner::Process(vmid),
            bytes: 0..2,
            write: true,
        }
    }

    #[test]
    fn lock_of_an_open_file_is_not_certain_while_another_process_may_still_unlock_it() {
        let [shared, other] = [7, 8].map(|handle| Claim {
            owner: Owner::Handle(handle),
            ..claim(0)
        });
        let mut files = Files::default();
        // Another process unlocks it, and its call is cut short.
        files.begin_release(shared.owner);
        assert_eq!(files.record_grant(&shared, 1), Ok(()));
        assert_eq!(files.record_grant(&other, 2), Ok(()));
    }

    #[test]
    fn a_lock_answered_while_another_thread_clears_all_is_not_certain() {
        // One thread requests a lock and another releases all. The leader may do the second last,
        // so the next process may have the lock, and may have its answer before either of the two
        // threads has its own.
        for is_next_first in [false, true] {
            let mut files = Files::default();
            files.begin_clear(7);
            if is_next_first {
                assert_eq!(files.record_grant(&claim(3), 2), Ok(()));
                assert_eq!(files.record_grant(&claim(7), 1), Ok(()));
            } else {
                assert_eq!(files.record_grant(&claim(7), 1), Ok(()));
                assert_eq!(files.record_grant(&claim(3), 2), Ok(()));
            }
            files.end_release(Owner::Process(7));
            files.record_release_return(Owner::Process(7), 4);
            assert_eq!(
                files.record_grant(&claim(7), 3),
                Ok(()),
                "it was asked for before"
            );
            assert!(
                files.record_grant(&claim(7), 5).is_err(),
                "nobody has dropped this one"
            );
        }
    }
}
