//! On the leader: the signals that members send through it.

use crate::Vmid;
use crate::error::Errno;
use crate::leader::{Op, Outcome};
use crate::node::{Node, Sender};
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::PidKill;

impl<P: Pal> Node<'_, P> {
    /// Whether the leader's own process has ended: it gets no more signals for all processes.
    pub(crate) fn own_has_left(&self) -> bool {
        let leader = self.leading();
        leader.is_some_and(|leader| leader.lock().processes().own_has_left())
    }

    /// Forwards a signal to every member but the sender, which has sent it with that sequence number. Returns
    /// the result for the sender: `ESRCH` if there is no other member.
    pub(crate) fn forward_to_all(
        &self,
        (from, seq): (Vmid, u64),
        kill: &PidKill,
    ) -> Result<(), Errno> {
        let Some(leader) = self.leading() else {
            return Err(Errno::ESRCH);
        };
        let us = self.identity.vmid;
        let mut is_any_there = false;
        let result = {
            // Under one lock, so that a process that joins at this moment gets the signal exactly
            // once.
            let mut leader = leader.lock();
            let is_first_there = from != us && !leader.processes().own_has_left();
            is_any_there |= is_first_there || leader.processes().has_any_except(from);
            leader.apply(&Op::SignalStarting { from, kill: *kill });
            for peer in self.peers.all() {
                let to = peer.vmid();
                let is_here = peer.is_member() && !peer.ended.load(Ordering::SeqCst);
                if to == from || !is_here || leader.processes().is_starting(to) {
                    continue;
                }
                is_any_there = true;
                leader.apply(&Op::Signal(to, *kill));
            }
            let result = is_any_there.then_some(()).ok_or(Errno::ESRCH);
            leader.apply(&Op::SignalledAll { from, seq, result });
            result
        };
        self.send_output(Sender::Call);
        result
    }

    /// Handles the answer of a member to a forwarded signal. False if no such signal was sent to
    /// it.
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
