//! The reasons for which connections are closed or refused.

use core::fmt;

use crate::invariant::{Count, OrBroken};
use crate::wire::Malformed;

/// The reason why a peer's connection was closed through its own fault, or an unidentified
/// connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer sent a malformed frame.
    Malformed(Malformed),
    /// The peer sent a message of a role that it, or this node, does not have.
    WrongRole,
    /// Its answer does not have the form that the request requires.
    WrongAnswer,
    /// The peer stated VMID 0 or this node's own.
    BadVmid,
    /// The peer stated a VMID that no process may use: one that was used up, or, with
    /// [`Admission::Known`](crate::Admission::Known), one that the leader does not know.
    VmidNotAdmitted,
    /// The peer stated the VMID of a process that is connected.
    VmidTaken,
    /// The peer did not state its VMID in time, or too many unidentified connections were waiting.
    NoVmid,
    /// The peer could not be answered: it does not listen, or its backlog stayed full.
    Unreachable,
    /// The peer did not return a delegation, or a lease ([`Config::lease_limit`](crate::Config::lease_limit)), in
    /// time.
    NotReturned,
    /// The peer sent a sync message that does not match its state of the handle.
    SyncProtocolViolation,
    /// There is no room for another peer.
    PeersFull,
    /// The peer is not of this family (it belongs to another user).
    NotAllowed,
    /// The peer claims to lead the family, or to be about to, and was not named for that.
    NotHeir,
    /// The message of the peer is of an epoch that has ended.
    StaleReign,
}

impl Refusal {
    const OWN: [Refusal; 13] = [
        Refusal::WrongRole,
        Refusal::WrongAnswer,
        Refusal::BadVmid,
        Refusal::VmidNotAdmitted,
        Refusal::VmidTaken,
        Refusal::NoVmid,
        Refusal::Unreachable,
        Refusal::NotReturned,
        Refusal::SyncProtocolViolation,
        Refusal::PeersFull,
        Refusal::NotAllowed,
        Refusal::NotHeir,
        Refusal::StaleReign,
    ];
    pub(super) const COUNT: usize = Malformed::ALL.len() + Self::OWN.len();

    pub(crate) fn index(self) -> usize {
        match self {
            Refusal::Malformed(malformed) => malformed.index(),
            own => Self::OWN
                .iter()
                .position(|refusal| *refusal == own)
                .or_broken(0)
                .plus(Malformed::ALL.len()),
        }
    }

    /// Iterates over all reasons.
    pub fn all() -> impl Iterator<Item = Refusal> {
        Malformed::ALL
            .into_iter()
            .map(Refusal::Malformed)
            .chain(Self::OWN)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Malformed(malformed) => return malformed.fmt(f),
            Refusal::WrongRole => "message of a role the peer or this node doesn't have",
            Refusal::WrongAnswer => "answer that doesn't have the form of its request",
            Refusal::BadVmid => "VMID 0 or this node's own claimed",
            Refusal::VmidNotAdmitted => "VMID claimed that was used up or not given out",
            Refusal::VmidTaken => "VMID of a connected process claimed",
            Refusal::NoVmid => "VMID not said in time",
            Refusal::Unreachable => "peer can't be answered: it doesn't listen",
            Refusal::NotReturned => "delegation or lease not returned in time",
            Refusal::SyncProtocolViolation => "sync message that does not fit the handle's state",
            Refusal::PeersFull => "no room for one more peer",
            Refusal::NotAllowed => "not of this family",
            Refusal::NotHeir => "claim to lead without having been named heir",
            Refusal::StaleReign => "message of an epoch that has ended",
        })
    }
}
