//! The outbox: whatever the leader has to send, besides the answers that [`Outcome`] has.
//!
//! A message that is to be sent is kept as state of the tables, as a flag or a place in a list, so the outbox needs no room
//! of its own and is never full. [`Leader::poll_transmit`] returns the next message. The caller puts it into
//! the send queue of its receiver and applies [`Op::Transmitted`], or [`Op::Requeued`] if the queue has no
//! room. What was put back delays no message for another receiver: it is passed over until
//! [`Op::RetryTransmit`].
//!
//! Answers come first, since a message may assume that the answer before it has arrived: a recall concerns a
//! delegation that an answer has granted. The other kinds are sent in rotation.
//!
//! [`Op::Transmitted`]: super::Op::Transmitted
//! [`Op::Requeued`]: super::Op::Requeued
//! [`Op::RetryTransmit`]: super::Op::RetryTransmit
//! [`Outcome`]: super::Outcome

use core::hash::{Hash, Hasher};

use super::Leader;
use super::processes::DueNotice;
use super::signals::OutgoingSignal;
use crate::shared_state::ServerMessage;
use crate::store::{Digest, codes, image};
use crate::wire::{Answer, ExitReport, Message, ProcessNote, RelativeNote, SyncNote};
use crate::{Id, Vmid};

/// A message that the leader has to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// The member that gets it.
    pub to: Vmid,
    /// The name of the message, for the operation that records its fate.
    pub id: OutgoingId,
    /// The content of the message.
    pub content: Content<'a>,
}

/// The content of a message that the leader has to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// An answer that comes later than its request, which has this sequence number. The send queue of its
    /// receiver keeps room for it.
    Answer(u64, Answer<'static>),
    /// A message without an answer.
    Message(Message<'static>),
    /// The exit of a child.
    Exit(ExitReport),
    /// A signal.
    Signal(OutgoingSignal),
    /// A message about a shared value.
    Sync(ServerMessage<'a>),
}

/// Names a message of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutgoingId {
    /// The answer to the lock request that was completed first.
    LockAnswer,
    /// The answer to the sender of the signal that was answered last.
    SignalAnswer,
    /// The notice to a member about an open file that it was given.
    FileNotice(Vmid, u64),
    /// The recall of a delegation of a member.
    Recall(Vmid, u64),
    /// The exit notice of the process with this pid.
    Exit(Id),
    /// A notice to a member about a relative.
    Relative(Vmid, ProcessNote),
    /// The next signal for a member.
    Signal(Vmid),
    /// The next message of the server of shared values.
    Sync,
}

/// The kinds of messages that the outbox sends in rotation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum MessageKind {
    FileNotice,
    Recall,
    ProcessNotice,
    Signal,
    Sync,
}

impl MessageKind {
    /// Returns the kind that comes after a message of this kind.
    fn next(self) -> MessageKind {
        match self {
            MessageKind::FileNotice => MessageKind::Recall,
            MessageKind::Recall => MessageKind::ProcessNotice,
            MessageKind::ProcessNotice => MessageKind::Signal,
            MessageKind::Signal => MessageKind::Sync,
            MessageKind::Sync => MessageKind::FileNotice,
        }
    }
}

codes!(MessageKind {
    FileNotice = 0,
    Recall = 1,
    ProcessNotice = 2,
    Signal = 3,
    Sync = 4
});

image!(Outbox {
    fields { turn, is_ready }
});

/// The state of the outbox that is not in a table.
pub(super) struct Outbox {
    /// The kind that has its turn.
    turn: MessageKind,
    /// Whether a message was ready to be sent after the last operation.
    is_ready: bool,
}

impl Outbox {
    pub(super) const EMPTY: Outbox = Outbox {
        turn: MessageKind::FileNotice,
        is_ready: false,
    };

    pub(super) fn digest(&self, digest: &mut Digest) {
        self.turn.hash(digest);
        digest.write_u8(self.is_ready.into());
    }
}

impl OutgoingId {
    /// Returns true for an answer, for which the send queue keeps room.
    pub const fn is_answer(self) -> bool {
        matches!(self, OutgoingId::LockAnswer | OutgoingId::SignalAnswer)
    }

    /// Returns the kind of the message, unless it is an answer.
    fn kind(self) -> Option<MessageKind> {
        Some(match self {
            OutgoingId::LockAnswer | OutgoingId::SignalAnswer => return None,
            OutgoingId::FileNotice(..) => MessageKind::FileNotice,
            OutgoingId::Recall(..) => MessageKind::Recall,
            OutgoingId::Exit(_) | OutgoingId::Relative(..) => MessageKind::ProcessNotice,
            OutgoingId::Signal(_) => MessageKind::Signal,
            OutgoingId::Sync => MessageKind::Sync,
        })
    }
}

impl Leader<'_> {
    /// Returns the next message to send. It stays until [`Op::Transmitted`] or [`Op::Requeued`].
    ///
    /// [`Op::Transmitted`]: super::Op::Transmitted
    /// [`Op::Requeued`]: super::Op::Requeued
    #[cfg_attr(static_library, inline(never))]
    pub fn poll_transmit(&self) -> Option<Outgoing<'_>> {
        if let Some(answer) = self.next_answer() {
            return Some(answer);
        }
        let mut kind = self.outbox.turn;
        loop {
            if let Some(next) = self.next_of(kind) {
                return Some(next);
            }
            kind = kind.next();
            if kind == self.outbox.turn {
                return None;
            }
        }
    }

    /// Returns true if [`Leader::poll_transmit`] returns a message, or an [`Op::ReleaseLocks`] has
    /// work to do, which may make others.
    ///
    /// [`Op::ReleaseLocks`]: super::Op::ReleaseLocks
    pub fn has_output(&self) -> bool {
        self.outbox.is_ready
    }

    /// Returns the next notice of an open file for that member, whether its queue had room for the last one
    /// or not.
    pub fn poll_file_notice(&self, to: Vmid) -> Option<Outgoing<'static>> {
        self.locks.next_notice_for(to).map(file_notice)
    }

    fn next_answer(&self) -> Option<Outgoing<'static>> {
        let of_lock = self.locks.next_completion().map(|completion| Outgoing {
            to: completion.from,
            id: OutgoingId::LockAnswer,
            content: Content::Answer(completion.seq, completion.answer),
        });
        of_lock.or_else(|| {
            let answer = self.processes.signals.next_answer()?;
            Some(Outgoing {
                to: answer.to,
                id: OutgoingId::SignalAnswer,
                content: Content::Answer(answer.seq, Answer::Status(answer.result.map(|()| 0))),
            })
        })
    }

    fn next_of(&self, kind: MessageKind) -> Option<Outgoing<'_>> {
        match kind {
            MessageKind::FileNotice => self.locks.next_notice().map(file_notice),
            MessageKind::Recall => {
                let (to, number) = self.locks.next_recall()?;
                Some(Outgoing {
                    to,
                    id: OutgoingId::Recall(to, number),
                    content: Content::Message(Message::FileLockRecall(number)),
                })
            }
            MessageKind::ProcessNotice => Some(match self.processes.next_notice()? {
                DueNotice::Exit(notice) => Outgoing {
                    to: notice.to,
                    id: OutgoingId::Exit(notice.exit.pid),
                    content: Content::Exit(notice.exit),
                },
                DueNotice::Relative(notice) => Outgoing {
                    to: notice.to,
                    id: OutgoingId::Relative(notice.to, notice.note),
                    content: Content::Message(Message::ProcessNote(RelativeNote {
                        note: notice.note,
                        pid: notice.parent,
                        vmid: notice.parent_vmid,
                    })),
                },
            }),
            MessageKind::Signal => {
                let to = self.processes.signals.next_target()?;
                Some(Outgoing {
                    to,
                    id: OutgoingId::Signal(to),
                    content: Content::Signal(self.processes.signals.next(to)?),
                })
            }
            MessageKind::Sync => {
                let (to, message) = self.leases.poll_transmit()?;
                Some(Outgoing {
                    to,
                    id: OutgoingId::Sync,
                    content: Content::Sync(message),
                })
            }
        }
    }

    /// Records whether there is a message to send: after each operation.
    pub(super) fn update_outbox(&mut self) {
        self.outbox.is_ready = self.locks.has_output()
            || self.processes.has_notices()
            || self.processes.signals.has_output()
            || self.leases.has_output();
    }

    /// Records that the message was queued for its receiver, or that it needs none any more. `is_extended`
    /// tells whether the receiver knows the extensions of the protocol.
    pub(super) fn mark_transmitted(&mut self, id: OutgoingId, is_extended: bool) {
        if !self.roster.is_empty() {
            self.count_transmitted(id);
        }
        match id {
            OutgoingId::LockAnswer => drop(self.locks.take_completion()),
            OutgoingId::SignalAnswer => self.processes.signals.take_answer(),
            OutgoingId::FileNotice(to, open_file) => self.locks.mark_notice_sent(to, open_file),
            OutgoingId::Recall(to, number) => self.locks.mark_recall_sent(to, number),
            OutgoingId::Exit(pid) => self.processes.mark_exit_sent(pid),
            OutgoingId::Relative(to, note) => self.processes.mark_notice_sent(to, note),
            OutgoingId::Signal(to) => self.processes.signals.mark_sent(to, is_extended),
            OutgoingId::Sync => self.leases.mark_sent(),
        }
        self.end_turn(id);
    }

    /// Counts a message that was queued, unless it is an answer.
    fn count_transmitted(&mut self, id: OutgoingId) {
        let to = match id {
            OutgoingId::LockAnswer | OutgoingId::SignalAnswer => return,
            OutgoingId::FileNotice(to, _)
            | OutgoingId::Recall(to, _)
            | OutgoingId::Relative(to, _)
            | OutgoingId::Signal(to) => Some(to),
            OutgoingId::Exit(_) | OutgoingId::Sync => {
                let next = self.poll_transmit().filter(|next| next.id == id);
                next.map(|next| next.to)
            }
        };
        if let Some(to) = to {
            self.roster.count_given(to);
        }
    }

    /// Puts a message back, since there is no room for it: it is passed over until
    /// [`Leader::retry_transmit`].
    pub(super) fn requeue(&mut self, id: OutgoingId) {
        match id {
            // Room is kept for an answer.
            OutgoingId::LockAnswer | OutgoingId::SignalAnswer => {}
            OutgoingId::FileNotice(to, open_file) => self.locks.defer_notice(to, open_file),
            OutgoingId::Recall(to, number) => self.locks.defer_recall(to, number),
            OutgoingId::Exit(pid) => self.processes.defer_exit(pid),
            OutgoingId::Relative(to, _) => self.processes.defer_notice(to),
            OutgoingId::Signal(to) => self.processes.signals.defer(to),
            OutgoingId::Sync => self.leases.requeue(),
        }
        self.end_turn(id);
    }

    fn end_turn(&mut self, id: OutgoingId) {
        if let Some(kind) = id.kind() {
            self.outbox.turn = kind.next();
        }
    }

    /// Makes all messages that were put back due again.
    pub(super) fn retry_transmit(&mut self) {
        self.locks.resume_output();
        self.processes.resume_notices();
        self.processes.signals.resume();
        self.leases.resume_output();
    }
}

fn file_notice((to, open_file): (Vmid, u64)) -> Outgoing<'static> {
    Outgoing {
        to,
        id: OutgoingId::FileNotice(to, open_file),
        content: Content::Message(Message::FileGiven {
            handle: open_file,
            vmid: to.get(),
        }),
    }
}

/// Returns the frame of a message of the outbox, and its sequence number. `is_extended`: its receiver knows the
/// extensions of the protocol. None for an answer, and for a message that its receiver would not know.
pub(crate) fn outgoing_frame<'a>(
    outgoing: &Outgoing<'a>,
    is_extended: bool,
) -> Option<(u64, Message<'a>)> {
    Some(match outgoing.content {
        Content::Answer(..) => return None,
        Content::Message(message) => (0, message),
        Content::Exit(exit) => (0, Message::ChildExit(exit)),
        Content::Signal(signal) => signal_frame(&signal, is_extended),
        Content::Sync(ServerMessage::Sync(code, sync)) => (0, Message::Sync(code, sync)),
        Content::Sync(ServerMessage::OwnerDied(id)) => {
            let note = SyncNote::OwnerDied;
            is_extended.then_some((0, Message::SyncNote { id, note }))?
        }
    })
}

/// Returns the message that carries the signal to its target, and its sequence number.
fn signal_frame(signal: &OutgoingSignal, is_answered: bool) -> (u64, Message<'static>) {
    match (signal.is_awaited, is_answered) {
        (true, _) => (signal.seq, Message::PidKill(signal.kill)),
        (false, true) => (signal.seq, Message::KillPassed(signal.kill)),
        // A process in C answers no signal for all.
        (false, false) => (0, Message::PidKill(signal.kill)),
    }
}

#[cfg(test)]
mod tests;
