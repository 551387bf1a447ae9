//! The sending loop: it takes the messages that the state machines of this process have for others, and puts each into
//! the send queue of its receiver.

use super::connection::Retry;
use super::reply::SignalReply;
use super::succession::Resent;
use super::upcall::{Signal, Upcall};
use super::{LeaderTables, Node, PeerRef, Phase};
use crate::Vmid;
use crate::error::{Error, Resource};
use crate::leader::{Content, Op, Outcome, Outgoing, OutgoingId, outgoing_frame};
use crate::member::ChildExit;
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{Answer, ExitReport, Message};

/// The thread that runs the sending loop.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Sender {
    /// The worker, once in a poll iteration. It alone may read streams and call the embedder for a message.
    Worker,
    /// A thread that handles a frame. The worker writes what it queues, together with what follows from
    /// other frames.
    Frame,
    /// A thread that writes at once what it queues.
    Call,
}

/// The rest of the work for a message of the leader to its own process, after the tables are unlocked.
#[derive(Clone, Copy)]
enum OwnDelivery {
    Nothing,
    Answer(u64, Answer<'static>),
    Exit(ExitReport),
    /// Calls that wait for a change of the process table check again.
    ProcessTable,
    /// The sync handle in this slot has got a message.
    Sync(u32),
}

impl<'m, P: Pal> Node<'m, P> {
    /// Queues the messages of the machines for their receivers. As the leader: as far as there is room and as a
    /// poll iteration allows; the worker goes on in the next one. What has no room delays nothing else.
    /// Returns when the worker is to go on.
    #[inline]
    pub(in crate::node) fn send_output(&self, sender: Sender) -> Retry {
        let Some(leader) = self.leading() else {
            return self.send_member_output();
        };
        if sender != Sender::Worker {
            return self.send_leader_output(leader, sender);
        }
        leader.retry_if_wanted();
        // A call may have deferred messages to the worker just before this process led, or while it began to.
        let as_member = if self.follows() {
            self.send_member_output()
        } else {
            Retry::No
        };
        match self.send_leader_output(leader, sender) {
            Retry::No => as_member,
            retry => retry,
        }
    }

    /// Like [`Node::send_output`], of the leader alone.
    #[inline]
    pub(in crate::node) fn send_leader_output(
        &self,
        leader: &LeaderTables<'m>,
        sender: Sender,
    ) -> Retry {
        // Most operations produce no message, and those of a leader that has resigned are void.
        if leader.has_output() && !self.is_resigning() {
            self.send_each(leader, sender)
        } else {
            Retry::No
        }
    }

    /// Like [`Node::send_leader_output`], if there is a message to send.
    #[inline(never)]
    fn send_each(&self, leader: &LeaderTables<'m>, sender: Sender) -> Retry {
        let mut retry = Retry::No;
        let mut unwritten: Option<PeerRef<'_, 'm, P::Stream>> = None;
        while leader.has_output() {
            let mut tables = leader.lock();
            let Some(outgoing) = tables.poll_transmit() else {
                if tables.locks().has_releases() {
                    if !self.leader_limits.take_portion() {
                        retry = Retry::Now;
                        break;
                    }
                    tables.apply(&Op::ReleaseLocks);
                    continue;
                }
                break;
            };
            let Outgoing { to, id, .. } = outgoing;
            if unwritten.as_ref().is_some_and(|peer| peer.vmid() != to) {
                drop(tables);
                self.write_output(unwritten.take(), sender);
                continue;
            }
            if !id.is_answer() && !self.leader_limits.take_message() {
                retry = Retry::Now;
                break;
            }
            if to == self.identity.vmid {
                let delivery = self.deliver_to_own(&outgoing, sender);
                tables.apply(&transmitted_or_requeued(id, delivery.is_some(), false));
                drop(tables);
                if !delivery.is_some_and(|delivery| self.finish_own(leader, id, delivery)) {
                    leader.want_retry();
                    retry = retry.min(Retry::Soon);
                }
                continue;
            }
            // A process that has left gets no message.
            let peer = unwritten.take().or_else(|| self.peers.find(to));
            let is_extended = |peer: &PeerRef<'_, 'm, _>| peer.is_extended();
            self.begin_queuing();
            let is_sent = peer
                .as_ref()
                .is_none_or(|peer| self.transmit(peer, &outgoing));
            let is_extended = peer.as_ref().is_some_and(is_extended);
            tables.apply(&transmitted_or_requeued(id, is_sent, is_extended));
            drop(tables);
            self.end_queuing();
            unwritten = peer;
            if matches!(id, OutgoingId::Recall(..)) {
                if let Some(peer) = unwritten.as_ref().filter(|_| is_sent) {
                    peer.member.recall_debt.note_recall(self.now());
                }
                // The worker enforces the time limit of the recall.
                self.leader_limits
                    .recalls
                    .is_armed
                    .store(true, Ordering::SeqCst);
                if sender != Sender::Worker {
                    self.wake();
                }
            }
        }
        self.write_output(unwritten, sender);
        if retry != Retry::No && sender != Sender::Worker {
            self.wake();
        }
        retry
    }

    /// As a member: queues for the leader the messages that had no room before: returns of delegated files, messages of
    /// the clients of shared values, and unlocks of dropped requests.
    #[inline(never)]
    fn send_member_output(&self) -> Retry {
        let deferred = &self.member_output_deferred;
        if !deferred.load(Ordering::SeqCst) || !deferred.swap(false, Ordering::SeqCst) {
            return Retry::No;
        }
        let all = self.try_return_files() & self.send_all_client_messages();
        if all & self.send_dropped_locks() {
            return Retry::No;
        }
        deferred.store(true, Ordering::SeqCst);
        Retry::Soon
    }

    /// As a member: has the worker send the messages that have no room now. The state machines keep them as state.
    pub(in crate::node) fn defer_member_output(&self) {
        self.member_output_deferred.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Writes what was queued for a peer, or has the worker write it.
    fn write_output(&self, peer: Option<PeerRef<'_, 'm, P::Stream>>, sender: Sender) {
        let Some(peer) = peer else { return };
        if sender == Sender::Frame {
            self.peers.schedule(&peer);
        } else {
            self.flush(&peer);
        }
        // The worker may have paused the reads of this peer's requests because there was no room.
        let is_wanted = |flag: &crate::sync::AtomicBool| flag.load(Ordering::SeqCst);
        if is_wanted(&peer.reads_paused) || is_wanted(&peer.broken) {
            self.call_worker(&peer);
        }
    }

    /// Queues a message for the peer. Returns false if there is no room: then the worker gets a call when
    /// there may be some.
    pub(in crate::node) fn transmit(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        outgoing: &Outgoing<'_>,
    ) -> bool {
        let is_extended = peer.is_extended();
        let (seq, message) = match outgoing.content {
            Content::Answer(seq, answer) => {
                let resent = Resent::Answer(&answer);
                if self.keep_for_rejoin(peer, seq, resent).is_none()
                    && self.queue_reply(peer, seq, &answer, answer.length()) == Ok(false)
                {
                    peer.broken.store(true, Ordering::SeqCst);
                }
                return true;
            }
            _ => match outgoing_frame(outgoing, is_extended) {
                Some(frame) => frame,
                None => return true,
            },
        };
        if self.phase() >= Phase::Flushing && outgoing.id != OutgoingId::Sync {
            return true;
        }
        let has_room = || {
            let kept = self.keep_for_rejoin(peer, seq, Resent::Message(&message));
            kept.unwrap_or_else(|| {
                let put = self.put_frame(peer, seq, &message, None);
                !matches!(put, Err(Error::Full(Resource::SendQueue)))
            })
        };
        has_room() || {
            peer.member.output_deferred.store(true, Ordering::SeqCst);
            // A thread that makes room after this sees the flag.
            has_room()
        }
    }

    /// As the leader: delivers a message to its own process, under the lock of the tables. Returns `None` if there is no
    /// room.
    #[cfg_attr(static_library, inline(never))]
    fn deliver_to_own(&self, outgoing: &Outgoing<'_>, sender: Sender) -> Option<OwnDelivery> {
        let us = self.identity.vmid;
        match outgoing.content {
            Content::Answer(seq, answer) => Some(OwnDelivery::Answer(seq, answer)),
            // The worker of this process makes its own calls to the embedder.
            Content::Exit(exit) => (sender == Sender::Worker).then_some(OwnDelivery::Exit(exit)),
            Content::Signal(signal) => {
                let reply = SignalReply { to: us, seq: 0 };
                let is_full = Signal::read(us, &signal.kill)
                    .is_ok_and(|signal| !self.try_enqueue_upcall(Upcall::Signal(signal, reply)));
                (!is_full).then_some(OwnDelivery::Nothing)
            }
            Content::Sync(message) => {
                let slot = self.deliver_locally(message);
                Some(slot.map_or(OwnDelivery::Nothing, OwnDelivery::Sync))
            }
            // The leader's own process has no parent: a child that it inherited is abandoned.
            Content::Message(Message::ProcessNote(_)) => Some(OwnDelivery::ProcessTable),
            // The leader's own process needs no notice of what it does in its own tables.
            Content::Message(_) => Some(OwnDelivery::Nothing),
        }
    }

    /// As the leader: does the rest of the work for a message to its own process. Returns false if that is impossible
    /// now: the message is requeued.
    #[cfg_attr(static_library, inline(never))]
    fn finish_own(&self, leader: &LeaderTables<'m>, id: OutgoingId, delivery: OwnDelivery) -> bool {
        let us = self.identity.vmid;
        match delivery {
            OwnDelivery::Nothing => {}
            OwnDelivery::ProcessTable => self.waiters.wake_for_room(us),
            OwnDelivery::Answer(seq, answer) => {
                if seq != 0 {
                    let delivery = self.waiters.answer_here(us, seq, &answer);
                    self.finish_delivery(&delivery);
                }
            }
            OwnDelivery::Exit(exit) => {
                let exit = ChildExit::of(&exit);
                if exit.is_some_and(|exit| !self.child_ended(us, exit)) {
                    leader.lock().apply(&Op::Requeued(id));
                    return false;
                }
            }
            OwnDelivery::Sync(slot_index) => self.on_local_delivery(slot_index),
        }
        true
    }

    /// As the leader: handles that there may be room in the queue of a peer, or that the peer is gone.
    pub(in crate::node) fn retry_output(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        if peer.member.output_deferred.load(Ordering::SeqCst)
            && peer.member.output_deferred.swap(false, Ordering::SeqCst)
            && let Some(leader) = self.leading()
        {
            leader.want_retry();
            self.wake();
        }
    }

    /// As the leader: queues the notices of open files for a peer that has sent HELLO, before any other
    /// answer. `is_first`: the peer has sent no HELLO before. Returns false if there was no room for all
    /// notices.
    pub(in crate::node) fn send_given_files(
        &self,
        leader: &LeaderTables<'m>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        is_first: bool,
    ) -> bool {
        let to: Vmid = peer.vmid();
        if is_first {
            confirm_grants(leader, to, true);
        }
        loop {
            let mut tables = leader.lock();
            let Some(notice) = tables.poll_file_notice(to) else {
                return true;
            };
            self.begin_queuing();
            let is_sent = self.transmit(peer, &notice);
            if is_sent {
                tables.apply(&transmitted_or_requeued(notice.id, true, true));
            }
            drop(tables);
            self.end_queuing();
            if !is_sent {
                return false;
            }
        }
    }
}

/// As the leader: confirms in portions the IDs and open files that were given to a process which is connected now.
pub(in crate::node) fn confirm_grants(leader: &LeaderTables<'_>, to: Vmid, allows_notices: bool) {
    let mut left = u64::MAX;
    while left > 0 {
        let outcome = leader.lock().apply(&Op::ConfirmGrants {
            to,
            left,
            allows_notices,
        });
        left = match outcome {
            Outcome::Remaining(left) => left,
            _ => 0,
        };
    }
}

/// Returns the operation that records whether a message was queued for its receiver.
fn transmitted_or_requeued(id: OutgoingId, is_sent: bool, is_extended: bool) -> Op<'static> {
    if is_sent {
        Op::Transmitted { id, is_extended }
    } else {
        Op::Requeued(id)
    }
}
