//! A signal for all processes: one operation begins it, and one follows for each member, in the order of the VMIDs.
//!
//! A leader may die when the heir has only some of these operations. The sender sends the signal to the heir no more,
//! since the first one counts its frame. So the heir makes the rest of them.

use super::apply::status;
use super::{Leader, Op, Outcome};
use crate::Vmid;
use crate::store::HAS_REPLICAS;
use crate::wire::PidKill;

/// A signal for all whose operations may not be complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broadcast {
    pub(crate) from: Vmid,
    pub(crate) kill: PidKill,
    /// The last member for which it is pending.
    pub(crate) last: Option<Vmid>,
}

impl Leader<'_> {
    /// Returns the signal for all that the last operation was about. It needs no place in an image or a digest: all
    /// operations of one signal are applied under one lock, and those are made between them.
    pub(crate) fn broadcast(&self) -> Option<Broadcast> {
        self.broadcast
    }

    /// Applies the first operation of a signal for all, or the one of a signal that is refused.
    pub(super) fn signal_all(&mut self, op: &Op<'_>) -> Outcome {
        let (seq, result) = match *op {
            Op::SignalAll {
                from,
                seq,
                kill,
                result,
            } => {
                self.processes.queue_for_starting(from, &kill);
                (seq, result)
            }
            Op::SignalAllRefused { seq, errno, .. } => (seq, Err(errno)),
            _ => return Outcome::Done,
        };
        if seq == 0 {
            Outcome::Done
        } else {
            Outcome::Answer(status(result))
        }
    }

    pub(super) fn note_broadcast(&mut self, op: &Op<'_>) {
        if !HAS_REPLICAS {
            return;
        }
        match *op {
            Op::SignalAll { from, kill, .. } => {
                self.broadcast = Some(Broadcast {
                    from,
                    kill,
                    last: None,
                });
            }
            Op::Signal(to, _) => {
                if let Some(broadcast) = &mut self.broadcast {
                    broadcast.last = Some(to);
                }
            }
            _ => self.broadcast = None,
        }
    }
}
