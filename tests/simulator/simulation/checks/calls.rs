//! **calls**: every call ends, by its answer, its limit, an interrupt or the end of whom it asks; and an
//! error is told only where there is reason for it.

use std::time::Duration;

use libos_ipc::Error;
use libos_ipc::error::errno;

use super::super::faults::{Fault, Faults};
use super::family::{Family, State};

/// For a call that is to wait for as long as it takes.
pub(crate) const LONG: Duration = Duration::from_hours(1);
/// How long after its limit a call may end where nothing is late: it may have to ask again.
const GRACE: Duration = Duration::from_secs(3);

/// A call under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) who: u32,
    /// In simulated time.
    pub(crate) began: u64,
    pub(crate) limit: Duration,
    pub(crate) was_interrupted: bool,
}

pub(crate) struct Calls {
    faults: Faults,
}

impl Calls {
    pub(crate) fn new(faults: Faults) -> Calls {
        Calls { faults }
    }

    /// Whether a call may end so, now.
    pub(crate) fn ended(
        &self,
        call: &Call,
        error: Option<Error>,
        now: u64,
        family: &Family,
    ) -> Result<(), String> {
        let took = Duration::from_nanos(now - call.began);
        let is_late = self.faults.are_late() || self.faults.has(Fault::Disconnect);
        if took > call.limit + GRACE && !is_late {
            return Err(format!("v{}'s {} took {took:?}", call.who, call.name));
        }
        let process = family.get(call.who);
        let is_ending = process.is_some_and(|process| process.state == State::Ending);
        let is_tight = self.faults.has(Fault::Capacity);
        let may_be = match error {
            None => true,
            Some(Error::TimedOut) => call.limit < LONG && took >= call.limit,
            Some(Error::Interrupted) => call.was_interrupted,
            Some(Error::Full(_)) => is_tight || call.limit.is_zero(),
            Some(Error::NoIds | Error::Refused(errno::ENOMEM | errno::ENOLCK)) => is_tight,
            Some(Error::LeaderGone | Error::ShuttingDown) => is_ending,
            Some(_) => false,
        };
        if may_be {
            return Ok(());
        }
        let Call {
            name, who, limit, ..
        } = call;
        Err(format!(
            "v{who}'s {name} ({limit:?} at most) says {error:?} after {took:?}"
        ))
    }
}
