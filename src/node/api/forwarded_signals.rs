//! The signals that members send through the leader, at the leader.

use crate::Vmid;
use crate::error::Errno;
use crate::leader::{Broadcast, Leader, Op, Outcome};
use crate::node::{LeaderTables, Node, PeerRef, Sender, Signal, SignalReply, Upcall};
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::PidKill;

impl<P: Pal> Node<'_, P> {
    /// Returns true if the leader's own process has ended: it gets no more signals for all
    /// processes.
    pub(crate) fn has_own_process_ended(&self) -> bool {
        let leader = self.leading();
        leader.is_some_and(|leader| leader.lock().processes().has_own_process_ended())
    }

    /// As the leader: forwards a signal to every member but the sender `from`, whose request has the sequence number
    /// `seq`. Returns the result for the sender: `ESRCH` if there is no other member.
    pub(crate) fn forward_to_all(
        &self,
        (from, seq): (Vmid, u64),
        kill: &PidKill,
    ) -> Result<(), Errno> {
        let Some(leader) = self.leading() else {
            return Err(Errno::ESRCH);
        };
        let us = self.identity.vmid;
        let result = {
            // Under one lock, so that a process that joins at this moment gets the signal exactly
            // once.
            let mut leader = leader.lock();
            let is_own_process_there = from != us && !leader.processes().has_own_process_ended();
            let is_any_there = is_own_process_there
                || leader.processes().has_any_except(from)
                || self
                    .peers
                    .all()
                    .any(|peer| gets_signals(&peer, &leader, from));
            let result = is_any_there.then_some(()).ok_or(Errno::ESRCH);
            let kill = *kill;
            leader.apply(&Op::SignalAll {
                from,
                seq,
                kill,
                result,
            });
            if self.follows() {
                let last = None;
                self.signal_members(&mut leader, &Broadcast { from, kill, last });
            } else {
                for peer in self.peers.all() {
                    if gets_signals(&peer, &leader, from) {
                        leader.apply(&Op::Signal(peer.vmid(), kill));
                    }
                }
            }
            result
        };
        self.send_output(Sender::Call);
        result
    }

    /// Makes a signal for all pending for each member after `broadcast.last`, in the order of VMIDs: a successor of
    /// this leader goes on after the last member in the log.
    fn signal_members(&self, leader: &mut Leader<'_>, broadcast: &Broadcast) {
        let Broadcast { from, kill, .. } = *broadcast;
        let mut last = broadcast.last;
        while let Some(to) = leader.next_member(last) {
            last = Some(to);
            let peer = self.peers.find(to);
            if peer.is_some_and(|peer| gets_signals(&peer, leader, from)) {
                leader.apply(&Op::Signal(to, kill));
            }
        }
    }

    /// As a new leader: completes a signal for all, whose first operations were the last ones in the log of the previous
    /// leader.
    pub(in crate::node) fn end_broadcast(&self, leader: &LeaderTables<'_>, broadcast: &Broadcast) {
        self.signal_members(&mut leader.lock(), broadcast);
        let us = self.identity.vmid;
        let is_for_us = broadcast.from != us && broadcast.last < Some(us);
        if is_for_us
            && broadcast.kill.signal != 0
            && !self.has_own_process_ended()
            && let Ok(signal) = Signal::read(us, &broadcast.kill)
        {
            let reply = SignalReply { to: us, seq: 0 };
            self.when_upcalls_have_room(|| self.try_enqueue_upcall(Upcall::Signal(signal, reply)));
        }
    }

    /// As the leader: handles the answer of a member to a forwarded signal. Returns false if no such signal was
    /// sent to it.
    pub(crate) fn signal_answered(&self, from: Vmid, seq: u64, result: Result<(), Errno>) -> bool {
        let Some(leader) = self.leading() else {
            return false;
        };
        let answered = leader
            .lock()
            .apply(&Op::SignalAnswered { from, seq, result });
        self.send_output(Sender::Call);
        matches!(answered, Outcome::Done)
    }
}

/// Returns true if a member gets a signal for all that `from` has sent: it has neither ended, nor is it being
/// started.
fn gets_signals<S>(peer: &PeerRef<'_, '_, S>, leader: &Leader<'_>, from: Vmid) -> bool {
    let to = peer.vmid();
    let is_here = peer.is_member() && !peer.member.ended.load(Ordering::SeqCst);
    to != from && is_here && !leader.processes().is_starting(to)
}
