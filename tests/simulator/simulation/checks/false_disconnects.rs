//! **false-disconnects**: a connection of two honest members closes only by a fault or at the end
//! of one of them, and no honest member is refused for a fault of its own. A hostile member
//! disturbs no other.

use libos_ipc::wire::Malformed;
use libos_ipc::{Refusal, Statistics};

use super::super::faults::{Fault, Faults};

pub(crate) struct FalseDisconnects {
    /// A member may close a connection, without a fault of its peer.
    pub(crate) may_close: bool,
    has_hostile: bool,
    /// A leader may write a log to its heir.
    may_be_log: bool,
}

impl FalseDisconnects {
    pub(crate) fn new(faults: Faults) -> FalseDisconnects {
        FalseDisconnects {
            // A member disconnects a peer that is silent for too long, or for which it has no room.
            may_close: faults.may_overrun() || faults.has(Fault::Capacity),
            has_hostile: faults.has(Fault::Hostile),
            may_be_log: faults.have_heirs(),
        }
    }

    /// Checks that a process may close its connection with another, neither of which is ending.
    pub(crate) fn check_close(&self, one: u32, other: u32) -> Result<(), String> {
        if self.may_close {
            return Ok(());
        }
        Err(format!("v{one} has closed its connection with v{other}"))
    }

    /// Checks the reasons for which a member has refused peers.
    pub(crate) fn check_refusals(&self, vmid: u32, statistics: &Statistics) -> Result<(), String> {
        if self.has_hostile {
            return Ok(());
        }
        let faults = [
            Refusal::WrongRole,
            Refusal::WrongAnswer,
            Refusal::BadVmid,
            Refusal::SyncProtocolViolation,
            Refusal::NotAllowed,
        ];
        // A log that is accepted after its leader has gone looks like a stream with frames of an impossible length: it
        // begins with a key.
        let lengths = [Malformed::TooLong, Malformed::TooShort];
        let is_log = |malformed: &Malformed| self.may_be_log && lengths.contains(malformed);
        let malformed = Malformed::ALL
            .into_iter()
            .filter(|malformed| !is_log(malformed));
        let malformed = malformed.map(Refusal::Malformed);
        match malformed
            .chain(faults)
            .find(|fault| statistics.refused(*fault) > 0)
        {
            Some(fault) => Err(format!("v{vmid} has refused a process: {fault}")),
            None => Ok(()),
        }
    }
}
