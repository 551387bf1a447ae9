//! **calls**: every call ends, by its answer, its limit, an interrupt or the end of the process
//! that it asks; and a call returns an error only for a reason.

use std::collections::BTreeMap;
use std::time::Duration;

use libos_ipc::{Errno, Error};

use super::super::faults::{Fault, Faults};
use super::super::plan::SUCCESSION_LIMIT;
use super::super::process::nanoseconds;
use super::family::{Family, State};

/// The limit of a call that may take any time.
pub(crate) const LONG: Duration = Duration::from_hours(1);
/// The time after its limit within which a call must end if nothing is late: it may have to send
/// its request again.
const GRACE: Duration = Duration::from_secs(3);

/// A call under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    /// The VMID of the caller.
    pub(crate) vmid: u32,
    /// The start of the call, in simulated time.
    pub(crate) began: u64,
    pub(crate) limit: Duration,
    pub(crate) was_interrupted: bool,
}

pub(crate) struct Calls {
    faults: Faults,
    /// Streams may stand still for longer than a member waits for another leader.
    may_miss_leader: bool,
    /// The leader has died, and no heir was fit.
    pub(crate) is_leader_gone: bool,
    /// The time at which a leader has last ended.
    pub(crate) leader_ended: Option<u64>,
    /// The time since which each process may be without a leader: several may end before it follows one.
    unled: BTreeMap<u32, u64>,
}

impl Calls {
    pub(crate) fn new(faults: Faults) -> Calls {
        Calls {
            faults,
            may_miss_leader: faults.have_heirs() && faults.may_overrun(),
            is_leader_gone: false,
            leader_ended: None,
            unled: BTreeMap::new(),
        }
    }

    /// Records that the leader has died, or begins to leave.
    pub(crate) fn record_leader_end(&mut self, now: u64, family: &Family) {
        for process in family.all() {
            self.unled.entry(process.vmid).or_insert(now);
        }
    }

    /// Records that a process knows of a new leader, which has ended meanwhile, too, if `has_ended`.
    pub(crate) fn record_leader(&mut self, vmid: u32, has_ended: bool, now: u64) {
        if has_ended {
            self.unled.insert(vmid, now);
        } else {
            self.unled.remove(&vmid);
        }
    }

    /// Checks that a call may end with this result now.
    pub(crate) fn check_end(
        &self,
        call: &Call,
        error: Option<Error>,
        now: u64,
        family: &Family,
    ) -> Result<(), String> {
        let took = Duration::from_nanos(now - call.began);
        let is_secure = self.faults.has(Fault::Cut);
        let is_late = self.faults.are_late() || self.faults.may_break();
        let process = family.get(call.vmid);
        // A request that is to be cancelled may have to wait for the next leader, as may one of a process that has lost its own.
        let has_lost_leader = process.is_some_and(|process| process.is_marked_dead);
        let outage = match self.leader_ended {
            _ if has_lost_leader && self.faults.have_heirs() => SUCCESSION_LIMIT,
            Some(then) if then + nanoseconds(SUCCESSION_LIMIT) >= call.began => SUCCESSION_LIMIT,
            _ => Duration::ZERO,
        };
        if took > call.limit + GRACE + outage && !is_late {
            return Err(format!("v{}'s {} took {took:?}", call.vmid, call.name));
        }
        let is_ending = process.is_some_and(|process| process.state == State::Ending);
        let is_tight = self.faults.has(Fault::Capacity);
        let unled = self.unled.get(&call.vmid).copied().or(self.leader_ended);
        let has_waited = unled.is_some_and(|then| now >= then + nanoseconds(SUCCESSION_LIMIT));
        let is_allowed = match error {
            None => true,
            Some(Error::TimedOut) => call.limit < LONG && took >= call.limit,
            Some(Error::Interrupted) => call.was_interrupted,
            Some(Error::Full(_)) => is_tight || call.limit.is_zero(),
            Some(
                Error::NoIds
                | Error::Refused {
                    errno: Errno::ENOMEM | Errno::ENOLCK,
                    ..
                },
            ) => is_tight,
            // A process that the leader alone could have found, or the leader's own, may be what was asked for.
            Some(Error::LeaderGone | Error::NoSuchProcess) if self.is_leader_gone => true,
            // The announcement of the next leader may arrive too late. A call that begins meanwhile waits for less long.
            Some(Error::LeaderGone)
                if self.may_miss_leader && (took >= SUCCESSION_LIMIT || has_waited) =>
            {
                true
            }
            Some(Error::LeaderGone | Error::ShuttingDown) => is_ending,
            Some(Error::CutOff) => is_secure && (is_ending || self.faults.may_overrun()),
            Some(_) => false,
        };
        if is_allowed {
            return Ok(());
        }
        let Call {
            name, vmid, limit, ..
        } = call;
        Err(format!(
            "v{vmid}'s {name} ({limit:?} at most) says {error:?} after {took:?}"
        ))
    }
}
