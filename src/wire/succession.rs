//! The payloads of the messages by which a family gets another leader.

use super::error::Malformed;
use super::frame::read_struct;
use super::kinds::{DismissReason, SuccessionMode};
use super::layout;
use crate::Id;
use crate::error::Errno;
use zerocopy::little_endian::U32;

/// The members that may lead the family after the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeirList {
    /// The epoch: 1 under the first leader, and one more after each succession.
    pub epoch: u32,
    /// The number of this list: each later list of the family has a higher one.
    pub config: u32,
    /// The VMIDs of the heirs, in the order in which they would lead; 0 for none. Only the first one has
    /// the leader's state: 0 there if no heir has it.
    pub heirs: [u32; HeirList::MOST],
}

impl HeirList {
    /// The greatest number of heirs.
    pub const MOST: usize = 4;

    pub(super) fn layout(self) -> layout::Heirs {
        let count = (1..).zip(self.heirs).fold(
            0_u32,
            |last, (count, heir)| {
                if heir == 0 { last } else { count }
            },
        );
        layout::Heirs {
            epoch: self.epoch.into(),
            config: self.config.into(),
            reserved: 0.into(),
            count: count.into(),
            list: self.heirs.map(Into::into),
        }
    }

    pub(super) fn read(payload: &[u8]) -> Result<HeirList, Malformed> {
        let body: &layout::Heirs = read_struct(payload)?;
        let count = usize::try_from(body.count.get()).map_err(|_| Malformed::BadValue)?;
        let heirs = body.list.map(U32::get);
        let behind = heirs.get(count..).ok_or(Malformed::BadValue)?;
        if behind.iter().any(|heir| *heir != 0) {
            return Err(Malformed::LengthsDisagree);
        }
        Ok(HeirList {
            epoch: body.epoch.get(),
            config: body.config.get(),
            heirs,
        })
    }
}

/// The state that an heir has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeirReady {
    /// The number of the last operation that it has applied ([`Leader::ops`](crate::leader::Leader::ops)).
    pub op: u64,
    /// The digest of its state after that operation.
    pub digest: u64,
}

impl HeirReady {
    pub(super) fn layout(self) -> layout::HeirReady {
        layout::HeirReady {
            op: self.op.into(),
            digest: self.digest.into(),
        }
    }

    pub(super) fn read(payload: &[u8]) -> Result<HeirReady, Malformed> {
        let body: &layout::HeirReady = read_struct(payload)?;
        Ok(HeirReady {
            op: body.op.get(),
            digest: body.digest.get(),
        })
    }
}

/// The end of an epoch: the leader leaves the family to its heir.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resignation {
    /// The epoch that ends.
    pub epoch: u32,
    /// The VMID of the heir, which leads from now on.
    pub heir: u32,
    /// The number of the last operation of the epoch.
    pub op: u64,
}

impl Resignation {
    pub(super) fn layout(self) -> layout::Resign {
        layout::Resign {
            epoch: self.epoch.into(),
            heir: self.heir.into(),
            op: self.op.into(),
        }
    }

    pub(super) fn read(payload: &[u8]) -> Result<Resignation, Malformed> {
        let body: &layout::Resign = read_struct(payload)?;
        Ok(Resignation {
            epoch: body.epoch.get(),
            heir: body.heir.get(),
            op: body.op.get(),
        })
    }
}

/// The process that leads the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NewLeader {
    /// The epoch in which this process leads.
    pub epoch: u32,
    /// The number of the last list of heirs that it knows.
    pub config: u32,
    /// Its VMID.
    pub vmid: u32,
    /// How it has come to the state of the family.
    pub mode: SuccessionMode,
}

impl NewLeader {
    pub(super) fn layout(self) -> layout::Leader {
        layout::Leader {
            epoch: self.epoch.into(),
            config: self.config.into(),
            vmid: self.vmid.into(),
            mode: self.mode.number().into(),
        }
    }

    pub(super) fn read(payload: &[u8]) -> Result<NewLeader, Malformed> {
        let body: &layout::Leader = read_struct(payload)?;
        Ok(NewLeader {
            epoch: body.epoch.get(),
            config: body.config.get(),
            vmid: body.vmid.get(),
            mode: SuccessionMode::read(body.mode.get())?,
        })
    }
}

/// A member's request to follow a new leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rejoin {
    /// The epoch of the leader that the member has followed.
    pub epoch: u32,
    /// The number of the last list of heirs that it knows.
    pub config: u32,
    /// Its pid; 0 for none.
    pub pid: Id,
    /// The number of its requests to the old leader that wait for an answer.
    pub waiting: u32,
    /// The number of counted frames that it has sent to the old leader.
    pub sent: u64,
    /// The number of counted messages of the old leader that it has received.
    pub received: u64,
}

impl Rejoin {
    pub(super) fn layout(self) -> layout::Rejoin {
        layout::Rejoin {
            epoch: self.epoch.into(),
            config: self.config.into(),
            pid: self.pid.into(),
            waiting: self.waiting.into(),
            sent: self.sent.into(),
            received: self.received.into(),
        }
    }

    pub(super) fn read(payload: &[u8]) -> Result<Rejoin, Malformed> {
        let body: &layout::Rejoin = read_struct(payload)?;
        Ok(Rejoin {
            epoch: body.epoch.get(),
            config: body.config.get(),
            pid: body.pid.get(),
            waiting: body.waiting.get(),
            sent: body.sent.get(),
            received: body.received.get(),
        })
    }
}

/// A new leader's answer to a member that wants to follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rejoined {
    /// The epoch in which the answering process leads, or that of the leader which it follows.
    pub epoch: u32,
    /// The number of counted frames of the member that the old leader had applied; an error if the
    /// member can't follow the answering process.
    pub taken: Result<u64, Errno>,
}

impl Rejoined {
    pub(super) fn layout(self) -> layout::RejoinAnswer {
        layout::RejoinAnswer {
            status: Errno::status(&self.taken).into(),
            epoch: self.epoch.into(),
            taken: self.taken.map_or(0, u64::from).into(),
        }
    }

    pub(super) fn read(payload: &[u8]) -> Result<Rejoined, Malformed> {
        let body: &layout::RejoinAnswer = read_struct(payload)?;
        Ok(Rejoined {
            epoch: body.epoch.get(),
            taken: Errno::check_status(body.status.get()).map(|()| body.taken.get()),
        })
    }
}

/// A leader's message to a member that will not lead, or is no member any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dismissal {
    /// The reason.
    pub reason: DismissReason,
    /// The epoch of the leader.
    pub epoch: u32,
}

impl Dismissal {
    pub(super) fn layout(self) -> layout::Dismiss {
        layout::Dismiss {
            reason: self.reason.number().into(),
            epoch: self.epoch.into(),
        }
    }

    pub(super) fn read(payload: &[u8]) -> Result<Dismissal, Malformed> {
        let body: &layout::Dismiss = read_struct(payload)?;
        Ok(Dismissal {
            reason: DismissReason::read(body.reason.get())?,
            epoch: body.epoch.get(),
        })
    }
}
