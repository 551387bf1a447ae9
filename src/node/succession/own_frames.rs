//! The heir that takes over handles the frames between the old leader and its own process.

use super::following::{Following, Stage};
use super::rejoin::NOBODY;
use crate::invariant::OrBroken;
use crate::leader::{Op, Outcome};
use crate::member::ChildExit;
use crate::node::{LeaderTables, Node, Signal, SignalReply, Upcall};
use crate::pal::Pal;
use crate::store::copy;
use crate::sync::Ordering;
use crate::wire::{Answer, Expected, FileLock, Frame, Message, codes};

impl<'m, P: Pal> Node<'m, P> {
    /// Handles the messages of the old leader to this process that have not arrived.
    pub(super) fn receive_own(&self, following: &Following<'m>) {
        let us = self.identity.vmid;
        let received = following.received.load(Ordering::SeqCst);
        let Some(heir) = self.leadership.heir() else {
            return;
        };
        // No other thread uses the buffer before this process leads.
        let Some(sent) = heir.sent.lock().take() else {
            return;
        };
        sent.for_each_after(us, received, 0, |bytes| {
            if let Ok(Some(frame)) = Frame::parse(bytes, bytes.len()) {
                self.receive_own_frame(&frame);
            }
            true
        });
        *heir.sent.lock() = Some(sent);
    }

    fn receive_own_frame(&self, frame: &Frame<'_>) {
        let us = self.identity.vmid;
        if frame.code == codes::RESP {
            // Until this process leads, its calls wait for nobody.
            let delivery = self.waiters.answer(NOBODY, frame.seq, frame.payload);
            return self.finish_delivery(&delivery);
        }
        let Ok(message) = frame.message() else { return };
        // If one of these fails the old leader has violated the protocol, and its connection is closed already.
        match message {
            Message::Sync(code, sync) => drop(self.on_server_sync(code, &sync)),
            Message::SyncNote { id, note } => drop(self.on_server_sync_note(id, note)),
            Message::FileLockRecall(number) => self.recalled(number),
            Message::ChildExit(report) => {
                if let Some(exit) = ChildExit::of(&report) {
                    let leader = self.leader_vmid();
                    self.when_upcalls_have_room(|| self.child_ended(leader, exit));
                }
            }
            Message::ProcessNote(note) => {
                self.when_upcalls_have_room(|| self.handle_relative_note(&note) != Ok(false));
            }
            Message::PidKill(kill) | Message::KillPassed(kill) => {
                let awaited = matches!(message, Message::PidKill(_));
                let reply = SignalReply {
                    to: us,
                    seq: if awaited { frame.seq } else { 0 },
                };
                if let Ok(signal) = Signal::read(us, &kill) {
                    self.enqueue_upcall(Upcall::Signal(signal, reply));
                }
                if !awaited {
                    let _ = self.reply(us, frame.seq, &Answer::DONE, 0);
                }
            }
            Message::FileGiven { handle, .. } => {
                self.used_locks.record_open_file(handle);
                let vmid = us.get();
                let confirmation = Message::FileGiven { handle, vmid };
                if let Ok(peer) = self.peers.find_or_add(self.leader_vmid()) {
                    let _ = self.put(&peer, 0, &confirmation);
                }
            }
            _ => {}
        }
    }

    /// Runs the queued calls to the embedder until `act` has had room for its own.
    pub(in crate::node) fn when_upcalls_have_room(&self, act: impl Fn() -> bool) {
        while !act() {
            self.run_upcalls();
        }
    }

    /// Executes the frames of this process that the old leader has not applied.
    pub(super) fn execute_own(
        &self,
        tables: &'m LeaderTables<'m>,
        following: &Following<'m>,
        taken: u64,
    ) {
        let Some(mut scratch) = following.scratch.lock().take() else {
            return;
        };
        following.kept.lock().begin_resend(taken);
        loop {
            let length = {
                let mut kept = following.kept.lock();
                let next = kept.next_to_resend();
                let length = next.len();
                copy(scratch.prefix_mut(length), next);
                kept.mark_resent();
                length
            };
            if length == 0 {
                break;
            }
            let bytes = scratch.initialized().get(..length).or_broken(&[]);
            if let Ok(Some(frame)) = Frame::parse(bytes, length) {
                self.execute_own_frame(tables, &frame);
            }
        }
        *following.scratch.lock() = Some(scratch);
    }

    /// Returns true if this process is about to lead and executes its own frames to the previous leader, also those that it
    /// sent before an exit that is under way.
    pub(in crate::node) fn executes_kept_frames(&self) -> bool {
        let following = self.leadership.following();
        following.is_some_and(|following| following.stage() == Stage::Candidate)
            && self.leads()
            && !self.has_ended()
    }

    fn execute_own_frame(&self, tables: &'m LeaderTables<'m>, frame: &Frame<'_>) {
        let us = self.identity.vmid;
        if frame.code == codes::RESP {
            if let Ok(Answer::Status(result)) = Answer::decode(Expected::Status, frame.payload) {
                self.signal_answered(us, frame.seq, result.map(drop));
            }
            return;
        }
        let Ok(message) = frame.message() else { return };
        match message {
            Message::Sync(code, sync) => self.execute_own_sync(code, &sync),
            Message::SyncNote { id, .. } => {
                tables.lock().apply(&Op::OwnerDied(us, id));
            }
            Message::ChildExit(_) => self.end_as_leader(tables, &message),
            message => {
                let outcome = self.handle_own(frame.seq, &undelegated(message));
                if let Ok(Outcome::Answer(answer)) = outcome {
                    let delivery = self.waiters.answer_here(us, frame.seq, &answer);
                    self.finish_delivery(&delivery);
                }
            }
        }
    }
}

/// Returns the request as a leader makes it for its own process: without a wish for a delegation.
pub(in crate::node) const fn undelegated(message: Message<'_>) -> Message<'_> {
    match message {
        Message::FileLockDelegate(lock) => Message::FileLockSet(FileLock { handle: 0, ..lock }),
        message => message,
    }
}
