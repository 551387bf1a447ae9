//! The end of a leader that has an heir: it resigns, and the heir leads.

use super::following::Stage;
use super::leader_log::{Log, LogStage};
use crate::leader::Leader;
use crate::node::Node;
use crate::pal::{Pal, Stream, Time};
use crate::sync::Ordering;
use crate::wire::{Message, Resignation};

impl<P: Pal> Node<'_, P> {
    /// Returns true if there is an heir that can take over, or no process that could become one.
    pub(in crate::node) fn await_heir(&self) -> bool {
        match self.log() {
            Some(log) => match log.stage() {
                LogStage::Hot => {
                    let tables = self.leading();
                    tables.is_some_and(|tables| is_heir_there(log, &tables.lock()))
                        && self.members_awaited_until(log).is_none()
                }
                LogStage::Off => {
                    self.choose_heir().is_none() && self.members_awaited_until(log).is_none()
                }
                LogStage::Transferring | LogStage::Unconfirmed | LogStage::Resigned => false,
            },
            None => true,
        }
    }

    /// Returns true if there is an heir, or a process that could become one.
    pub(in crate::node) fn can_have_heir(&self) -> bool {
        self.log()
            .is_some_and(|log| log.stage() != LogStage::Off || self.choose_heir().is_some())
    }

    /// Returns the time until which a leader that has an heir waits before it resigns: members that have to rejoin
    /// it, or that have not got what it sent before the heir had its state, could not follow the heir.
    pub(super) fn members_awaited_until(&self, log: &Log<'_, P::Stream>) -> Option<Time> {
        let now = self.now();
        let list_by = Time(log.list_by.load(Ordering::SeqCst));
        let is_due = log.stage() == LogStage::Hot && log.list_is_due.load(Ordering::SeqCst);
        if is_due && now < list_by {
            return Some(list_by);
        }
        let following = self.leadership.following()?;
        let rejoin_by = Time(following.until.load(Ordering::SeqCst));
        (now < rejoin_by && self.awaits_members()).then_some(rejoin_by)
    }

    /// Returns true if a process must be waited for that may have to lead before it can end: its leader has
    /// named it, or gives it the state, and has not dismissed it.
    pub(in crate::node) fn may_have_to_lead(&self) -> bool {
        self.following().is_some_and(|following| {
            !self.has_lost_leader() && (following.stage() == Stage::Candidate || self.has_log())
        })
    }

    /// Resigns in favour of the heir. Returns false if there is none.
    pub(in crate::node) fn resign(&self) -> bool {
        let (Some(log), Some(tables)) = (self.log(), self.leading()) else {
            return false;
        };
        let tables = tables.lock();
        if log.stage() != LogStage::Hot || !is_heir_there(log, &tables) {
            return false;
        }
        let resignation = Message::Resign(Resignation {
            epoch: tables.epoch(),
            heir: log.heir.load(Ordering::SeqCst),
            op: tables.ops(),
        });
        let is_appended = log.append(&resignation);
        if is_appended {
            log.set_stage(LogStage::Resigned);
        }
        drop(tables);
        self.flush_log();
        self.wake();
        is_appended
    }

    /// Closes the streams of the log, at the end of this node: nothing else drops them.
    pub(in crate::node) fn close_log(&self) -> bool {
        if let Some(log) = self.log() {
            let Some(mut writer) = log.writer.try_lock() else {
                return false;
            };
            if !self.has_handed_over() {
                log.set_stage(LogStage::Off);
            }
            log.reset(&mut writer);
        }
        self.drop_log();
        true
    }

    /// Returns true if this leader has resigned: it decides nothing any more.
    #[inline]
    pub(in crate::node) fn is_resigning(&self) -> bool {
        self.leadership
            .log()
            .is_some_and(|log| log.stage() == LogStage::Resigned)
    }

    /// Returns true if the heir has the whole log, or was lost before it had.
    pub(in crate::node) fn has_resigned(&self) -> bool {
        !self.is_resigning() || self.has_handed_over()
    }

    /// Returns true if the heir has the whole log: from then on it leads.
    pub(in crate::node) fn has_handed_over(&self) -> bool {
        self.log()
            .is_some_and(|log| log.stage() == LogStage::Resigned && log.is_written())
    }
}

/// Returns true if the heir has not left the family. The worker dismisses one that has.
fn is_heir_there<S: Stream>(log: &Log<'_, S>, tables: &Leader<'_>) -> bool {
    log.heir().is_some_and(|heir| tables.is_member(heir))
}
