//! An entry of the table of processes.

use core::hash::Hash;

use crate::Id;
use crate::store::{Payer, codes, entry};
use crate::wire::{ExitReport, ProcessFlags};

#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub(super) enum Life {
    #[default]
    Free,
    Starting,
    Running,
    Dead,
}

#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Copy, Hash)]
pub(super) struct Entry {
    pub(super) life: Life,
    /// Its parent has reaped it, or never will.
    pub(super) reaped: bool,
    /// Its parent must still be notified.
    pub(super) notice_due: bool,
    /// The process is gone, and its children are being given away: it gets no others.
    pub(super) is_leaving: bool,
    pub(super) flags: ProcessFlags,
    pub(super) pid: Id,
    /// 0 once it is dead.
    pub(super) vmid: u32,
    /// 0 for none.
    pub(super) parent: Id,
    pub(super) group: Id,
    pub(super) session: Id,
    /// The number of unreaped processes with its pid as their group, plus those with its pid as
    /// their session.
    pub(super) ref_count: u32,
    pub(super) start_seq: u64,
    /// Rises from death to death; 0 while it lives.
    pub(super) death_seq: u64,
    /// If it requested notices of its parent's end: the number of ends that it must still be
    /// notified of.
    pub(super) parents_ended: Option<u32>,
    /// A child that it inherited during that child's start was abandoned: it must be notified.
    pub(super) child_abandoned: bool,
    /// If its parent ended during its start: the number of that event, or of the last restart of
    /// its time to join. Later events have higher numbers; 0 for none.
    pub(super) orphaned: u64,
    /// Its exit report.
    pub(super) exit: Option<ExitReport>,
    pub(super) payer: Payer,
}

codes!(Life {
    Free = 0,
    Starting = 1,
    Running = 2,
    Dead = 3
});

entry!(Entry {
    life,
    reaped,
    notice_due,
    is_leaving,
    flags,
    pid,
    vmid,
    parent,
    group,
    session,
    ref_count,
    start_seq,
    death_seq,
    parents_ended,
    child_abandoned,
    orphaned,
    exit,
    payer,
});

pub(super) const FREE_ENTRY: Entry = Entry {
    life: Life::Free,
    reaped: false,
    notice_due: false,
    is_leaving: false,
    flags: ProcessFlags::empty(),
    pid: 0,
    vmid: 0,
    parent: 0,
    group: 0,
    session: 0,
    ref_count: 0,
    start_seq: 0,
    death_seq: 0,
    parents_ended: None,
    child_abandoned: false,
    orphaned: 0,
    exit: None,
    payer: Payer::NOBODY,
};

impl Entry {
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.life, Life::Starting | Life::Running)
    }

    /// Returns true if it is alive, or a zombie.
    pub(super) fn exists(&self) -> bool {
        self.is_alive() || self.life == Life::Dead && !self.reaped
    }
}
