//! The messages that a process handles as a member, in the leader's process, too.

use super::poll_loop::Retry;
use crate::config::Config;
use crate::counters::Refusal;
use crate::error::{Errno, Error};
use crate::invariant::Count;
use crate::member::ChildExit;
use crate::node::{MetadataReply, Node, PeerRef, Signal, SignalReply, Upcall};
use crate::pal::Pal;
use crate::wire::{Answer, KillTarget, Message, ProcessNote, RelativeNote};
use crate::{Pid, Vmid, parts};

impl<'m, P: Pal> Node<'m, P> {
    /// Handles a message that any process may receive. A call to the embedder is queued until no
    /// lock is held; if there is no room for the call or for its answer, the frame stays in the
    /// buffer.
    pub(super) fn handle_member_message(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        message: &Message<'_>,
    ) -> Result<Retry, Refusal> {
        let to = peer.vmid();
        let done = match message {
            Message::PidKill(kill) => {
                // Only the leader forwards signals for all processes.
                if kill.target == KillTarget::All && Some(to) != self.led_by() {
                    return Err(Refusal::WrongRole);
                }
                let reply = SignalReply { to, seq };
                match Signal::read(to, kill) {
                    Ok(signal) => {
                        let upcall = Upcall::Signal(signal, reply);
                        self.queue_upcall(peer, seq, SignalReply::ROOM, upcall)
                    }
                    Err(errno) => self.decline(peer, seq, &Answer::Status(Err(errno))),
                }
            }
            // Without this, the request and all frames after it would wait for room for ever.
            Message::PidGetMeta { .. } if !self.config.capacities.fits_metadata() => {
                self.decline(peer, seq, &Answer::Meta(Err(Errno::ENOMEM)))
            }
            Message::PidGetMeta { pid, code } => match Pid::new(*pid) {
                Some(pid) => {
                    let reply = MetadataReply { to, seq };
                    let upcall = Upcall::Metadata(pid, *code, reply);
                    self.queue_upcall(peer, seq, MetadataReply::ROOM, upcall)
                }
                None => self.decline(peer, seq, &Answer::Meta(Err(Errno::ESRCH))),
            },
            Message::ChildExit(report) => {
                ChildExit::of(report).is_none_or(|exit| self.child_ended(to, exit))
            }
            Message::Sync(code, sync) if code.is_for_server() => {
                self.on_client_sync(peer, *code, sync)?
            }
            Message::Sync(code, sync) if Some(to) == self.led_by() => {
                self.on_server_sync(*code, sync)?;
                true
            }
            _ if parts::EXTENSIONS => self.handle_extension(peer, seq, message)?,
            _ => return Err(Refusal::WrongRole),
        };
        Ok(if done { Retry::No } else { Retry::Soon })
    }

    /// Like [`Node::handle_member_message`], for the messages of the extensions. Returns false if the frame
    /// stays in the buffer.
    #[inline]
    pub(super) fn handle_extension(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        message: &Message<'_>,
    ) -> Result<bool, Refusal> {
        let to = peer.vmid();
        Ok(match message {
            // No process waits for the outcome of this signal: the answer only confirms its place
            // in the order.
            Message::KillPassed(kill) if Some(to) == self.led_by() => {
                let reply = SignalReply { to, seq: 0 };
                let done = match Signal::read(to, kill) {
                    Ok(signal) => self.queue_upcall(peer, 0, 0, Upcall::Signal(signal, reply)),
                    Err(_) => true,
                };
                if done && seq != 0 {
                    self.answer(peer, seq, &Answer::DONE);
                }
                done
            }
            Message::ProcessNote(note) if Some(to) == self.led_by() => {
                self.handle_relative_note(note)?
            }
            Message::Hello(hello) => self.handle_hello(peer, hello),
            Message::Heartbeat(beat) if self.leads() => self.answer_heartbeat(peer, beat),
            Message::Heartbeat(beat) if Some(to) == self.led_by() => {
                self.handle_answered_heartbeat(beat);
                true
            }
            Message::Limits(limits) => self.handle_limits(peer, limits),
            Message::FileGiven { handle, .. } if Some(to) == self.led_by() => {
                self.confirm_given_file(peer, *handle)
            }
            Message::FileLockRecall(delegation) if Some(to) == self.led_by() => {
                self.recalled(*delegation);
                true
            }
            Message::SyncNote { id, note } if Some(to) == self.led_by() => {
                self.on_server_sync_note(*id, *note)?;
                true
            }
            Message::SyncNote { id, note } => {
                self.on_client_sync_note(to, *id, *note)?;
                true
            }
            Message::Heirs(heirs) if Some(to) == self.led_by() => self.handle_heirs(heirs)?,
            Message::Dismiss(dismissal) if Some(to) == self.led_by() => {
                self.handle_dismissal(*dismissal)?
            }
            Message::Leader(announced) => self.handle_new_leader(peer, announced)?,
            Message::Rejoin(rejoin) if seq != 0 => {
                self.handle_rejoin(peer, seq, rejoin);
                true
            }
            Message::WhoLeads => {
                let answer = Answer::Leader(self.present_leader());
                self.decline(peer, seq, &answer)
            }
            Message::Mark(number) if self.leads() && self.follows() => {
                let mark = Message::Mark(*number);
                !matches!(self.put(peer, 0, &mark), Err(Error::Full(_)))
            }
            Message::Mark(number) if Some(to) == self.led_by() => {
                self.handle_mark_of_leader(peer, *number);
                true
            }
            Message::Log(key) if Config::HAS_SUCCESSION && Some(to) == self.led_by() => {
                self.expect_log(key)?
            }
            Message::HeirReady(ready) => self.handle_heir_ready(peer, ready)?,
            _ => return Err(Refusal::WrongRole),
        })
    }

    /// Answers a request that has no effect, if it expects an answer. Always true: the frame is handled.
    fn decline(&self, peer: &PeerRef<'_, 'm, P::Stream>, seq: u64, answer: &Answer<'_>) -> bool {
        if seq != 0 {
            self.answer(peer, seq, answer);
        }
        true
    }

    /// Reserves room for the answer, and queues the request for the embedder. Returns false if
    /// there is no room.
    fn queue_upcall(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        room: usize,
        upcall: Upcall,
    ) -> bool {
        let mut upcalls = self.upcalls.lock();
        if upcalls.is_full() {
            return false;
        }
        if seq != 0 {
            let mut queue = peer.queue.lock();
            // A connection that is closing carries no more answers.
            if !queue.closed {
                if queue.room() < room {
                    return false;
                }
                queue.reserved = queue.reserved.plus(room);
            }
        }
        upcalls.push_back(upcall).is_ok()
    }

    /// Handles a notice of the leader about the parent or a child. Returns false if there is no
    /// room for now.
    pub(in crate::node) fn handle_relative_note(
        &self,
        note: &RelativeNote,
    ) -> Result<bool, Refusal> {
        match note.note {
            ProcessNote::ParentEnded => {
                Ok(self.parent_ended(Pid::new(note.pid), Vmid::new(note.vmid)))
            }
            ProcessNote::ChildAbandoned => {
                self.waiters.wake_for_room(self.identity.vmid);
                Ok(true)
            }
            ProcessNote::WatchParent | ProcessNote::IgnoreParent => Err(Refusal::WrongRole),
        }
    }
}
