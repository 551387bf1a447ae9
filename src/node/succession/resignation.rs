//! The end of a leader that has an heir: it resigns, and the heir leads.

use super::leader_log::LogStage;
use crate::node::Node;
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{Message, Resignation};

impl<P: Pal> Node<'_, P> {
    /// Whether there is an heir that can take over, or no process that could become one.
    pub(in crate::node) fn await_heir(&self) -> bool {
        match self.log() {
            Some(log) => log.stage() == LogStage::Hot || self.choose_heir().is_none(),
            None => true,
        }
    }

    /// Resigns in favour of the heir. False if there is none.
    pub(in crate::node) fn resign(&self) -> bool {
        let (Some(log), Some(tables)) = (self.log(), self.leading()) else {
            return false;
        };
        let tables = tables.lock();
        if log.stage() != LogStage::Hot {
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
            log.set_stage(LogStage::Off);
            log.reset(&mut writer);
        }
        self.drop_log();
        true
    }

    /// Whether this leader has resigned: it decides nothing any more.
    #[inline]
    pub(in crate::node) fn is_resigning(&self) -> bool {
        self.leadership
            .log()
            .is_some_and(|log| log.stage() == LogStage::Resigned)
    }

    /// Whether the heir has all that there will be, or is gone.
    pub(in crate::node) fn has_resigned(&self) -> bool {
        self.log()
            .is_none_or(|log| log.stage() != LogStage::Resigned || log.is_written())
    }
}
