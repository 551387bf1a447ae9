//! **innocents**: a connection of two honest members is closed by a fault, at the end of one, or
//! never; and no honest member is refused for a fault of its own. Whatever a hostile member sends
//! costs nobody else anything.

use libos_ipc::wire::Malformed;
use libos_ipc::{Refusal, Statistics};

use super::super::faults::{Fault, Faults};

pub(crate) struct Innocents {
    pub(crate) may_close: bool,
    has_hostile: bool,
}

impl Innocents {
    pub(crate) fn new(faults: Faults) -> Innocents {
        Innocents {
            // Whoever is not heard for too long, or for whom there is no room, is given up.
            may_close: faults.hold_up() || faults.has(Fault::Capacity),
            has_hostile: faults.has(Fault::Hostile),
        }
    }

    pub(crate) fn closed(&self, one: u32, other: u32) -> Result<(), String> {
        if self.may_close {
            return Ok(());
        }
        Err(format!("v{one} has closed its connection with v{other}"))
    }

    /// What a member has refused others for.
    pub(crate) fn refused(&self, who: u32, statistics: &Statistics) -> Result<(), String> {
        if self.has_hostile {
            return Ok(());
        }
        let faults = [
            Refusal::WrongRole,
            Refusal::WrongAnswer,
            Refusal::BadVmid,
            Refusal::SyncProtocolViolation,
            Refusal::Foreign,
        ];
        let malformed = Malformed::ALL.into_iter().map(Refusal::Malformed);
        match malformed
            .chain(faults)
            .find(|fault| statistics.refused(*fault) > 0)
        {
            Some(fault) => Err(format!("v{who} has refused somebody: {fault}")),
            None => Ok(()),
        }
    }
}
