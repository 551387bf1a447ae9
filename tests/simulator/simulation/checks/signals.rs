//! **signals**: a signal that was successfully sent to a process that has not begun to end is
//! delivered, even if it is queued until the process has joined, and no other signal is delivered;
//! real-time signals are delivered as often as they were sent. **broadcasts**: a signal for all is
//! delivered to every member once, and not to its sender. **order**: the signals of one thread of a
//! process are delivered in their order.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use libos_ipc::Id;

use super::family::{Family, State};
use super::order::Order;

/// The lowest number of signals for all. Signals below are for a group.
const FOR_GROUPS: i32 = 24;
pub(super) const FOR_ALL: i32 = 32;
/// The lowest number of real-time signals for one process.
const REAL_TIME: i32 = 48;
/// The lowest number of signals that no honest process sends.
pub(crate) const FOREIGN: i32 = 56;
/// SIGCONT and the stop signals discard each other while they are undelivered.
const DISCARDED: std::ops::Range<i32> = 18..23;

/// Returns a signal for one process, whose number identifies its thread.
pub(crate) fn signal_of(thread: usize, rng: &mut Rng, is_real_time: bool) -> i32 {
    let (first, count) = match (is_real_time, thread) {
        (false, 0) => (1, 11),
        (false, _) => (12, FOR_GROUPS - 12),
        (true, 0) => (REAL_TIME, 4),
        (true, _) => (REAL_TIME + 4, 4),
    };
    rng.i32(first..first + count)
}

/// Returns a signal for a group, whose number identifies its thread.
pub(crate) fn group_signal_of(thread: usize, rng: &mut Rng) -> i32 {
    let first = if thread == 0 {
        FOR_GROUPS
    } else {
        FOR_GROUPS + 4
    };
    rng.i32(first..first + 4)
}

struct Broadcast {
    sender: u32,
    /// The members that must receive it.
    all: Vec<u32>,
    /// The simulated time at which the leader had answered that it was forwarded.
    done: Option<u64>,
}

#[derive(Default)]
pub(crate) struct Signals {
    /// The number of attempts to send each signal, by the target.
    tried: BTreeMap<(Id, i32), u32>,
    /// The number of successful sends of each signal, by the VMID of the target.
    sent: BTreeMap<(u32, i32), u32>,
    /// Signals sent successfully to a process that had not joined. Equal ones are merged.
    kept: BTreeSet<(u32, i32)>,
    delivered: BTreeMap<(u32, i32), u32>,
    broadcasts: BTreeMap<i32, Broadcast>,
    to_groups: BTreeSet<i32>,
    order: Order,
}

impl Signals {
    /// Records that the signal is sent, possibly that many times: again if the connection broke meanwhile.
    pub(crate) fn record_attempt(&mut self, target: Id, signal: i32, times: u32) {
        *self.tried.entry((target, signal)).or_default() += times;
    }

    /// Records that the members of a group are not known for certain: any of them may receive the signal.
    pub(crate) fn record_group_attempt(&mut self, signal: i32) {
        self.to_groups.insert(signal);
    }

    /// Records that a thread sends a signal, to any of several members if none is named.
    pub(crate) fn record_send(&mut self, sender: Id, thread: usize, to: Option<u32>, signal: i32) {
        self.order.record_send(sender, thread, to, signal);
    }

    /// Records that the call of the thread ended before the result of its signal was known.
    pub(crate) fn record_unknown_result(&mut self, sender: Id, thread: usize) {
        self.order.record_unknown_result(sender, thread);
    }

    /// Records that the sender's pid belongs to another process from now on, and the order of two senders is not known.
    pub(crate) fn record_pid_reuse(&mut self, sender: Id) {
        for thread in 0..2 {
            self.order.record_unknown_result(sender, thread);
        }
    }

    /// Records that the signal was sent without an error. `was_running`: the target ran before the call; `is_tight`:
    /// the tables may be full.
    pub(crate) fn record_success(
        &mut self,
        family: &Family,
        target: Id,
        signal: i32,
        was_running: bool,
        is_tight: bool,
    ) {
        let Some(process) = family.of_pid(target) else {
            return;
        };
        let may_be_discarded = DISCARDED.contains(&signal);
        let may_be_one = !was_running && signal < REAL_TIME || is_tight;
        match process.state {
            State::Running | State::Starting if may_be_discarded => {}
            State::Running | State::Starting if may_be_one => {
                self.kept.insert((process.vmid, signal));
            }
            State::Running | State::Starting => {
                self.kept.insert((process.vmid, signal));
                *self.sent.entry((process.vmid, signal)).or_default() += 1;
            }
            State::Ending | State::Failed => {}
        }
    }

    /// Records that a signal is delivered, and checks that it was sent so often.
    pub(crate) fn record_delivery(
        &mut self,
        family: &Family,
        vmid: u32,
        pid: Id,
        signal: i32,
    ) -> Result<(), String> {
        let times = self.delivered.entry((vmid, signal)).or_default();
        *times += 1;
        let times = *times;
        if (FOR_ALL..REAL_TIME).contains(&signal) {
            return match self.broadcasts.get(&signal) {
                None => Err(format!(
                    "v{vmid} gets signal {signal}, which no process has sent"
                )),
                Some(broadcast) if broadcast.sender == vmid => {
                    Err(format!("v{vmid} gets its own signal for all"))
                }
                _ if times > 1 => Err(format!("v{vmid} gets the signal {signal} for all twice")),
                _ => Ok(()),
            };
        }
        let tried = self.tried.get(&(pid, signal)).copied().unwrap_or(0);
        // The pid of a process that has ended meanwhile may be the ID of a thread of this process
        // by now.
        let is_gone = |pid| {
            let state = family.of_pid(pid).map(|process| process.state);
            !matches!(state, Some(State::Running | State::Starting))
        };
        let may_be_another = || {
            let mut tried = self.tried.keys();
            tried.any(|(target, number)| *number == signal && is_gone(*target))
        };
        if times > tried && !self.to_groups.contains(&signal) && !may_be_another() {
            return Err(format!(
                "v{vmid} gets signal {signal} {times} times, sent {tried} times"
            ));
        }
        Ok(())
    }

    /// Checks that a signal comes after those that its sender's thread has sent before it.
    pub(crate) fn check_order(&mut self, vmid: u32, sender: Id, signal: i32) -> Result<(), String> {
        self.order.record_delivery(vmid, sender, signal)
    }

    /// Records that a signal for all is sent. Returns its number, if one is left.
    pub(crate) fn begin_broadcast(&mut self, family: &Family, sender: u32) -> Option<i32> {
        let count = i32::try_from(self.broadcasts.len()).ok()?;
        let signal = Some(FOR_ALL + count).filter(|signal| *signal < REAL_TIME)?;
        let is_meant = |vmid: &u32| *vmid != sender && family.is_certain(*vmid);
        let all = family
            .all()
            .map(|process| process.vmid)
            .filter(is_meant)
            .collect();
        let broadcast = Broadcast {
            sender,
            all,
            done: None,
        };
        self.broadcasts.insert(signal, broadcast);
        Some(signal)
    }

    /// Records that the leader has answered that the signal for all was forwarded.
    pub(crate) fn end_broadcast(&mut self, signal: i32, now: u64) {
        if let Some(broadcast) = self.broadcasts.get_mut(&signal) {
            broadcast.done = Some(now);
        }
    }

    /// Returns a member that has not received a signal for all that was sent before `until`.
    pub(crate) fn missing_broadcast(&self, family: &Family, until: u64) -> Option<(u32, i32)> {
        let sent = self
            .broadcasts
            .iter()
            .filter(|(_, broadcast)| broadcast.done.is_some_and(|done| done < until));
        sent.flat_map(|(signal, broadcast)| broadcast.all.iter().map(|vmid| (*vmid, *signal)))
            .find(|(vmid, signal)| {
                family.is_certain(*vmid) && !self.delivered.contains_key(&(*vmid, *signal))
            })
    }

    /// Checks that a process that begins to end has received all that were sent before `until`.
    pub(crate) fn check_broadcasts(
        &self,
        family: &Family,
        vmid: u32,
        until: u64,
    ) -> Result<(), String> {
        for (signal, broadcast) in &self.broadcasts {
            let is_due = broadcast.done.is_some_and(|done| done < until);
            let is_meant = broadcast.all.contains(&vmid) && family.is_certain(vmid);
            if is_due && is_meant && !self.delivered.contains_key(&(vmid, *signal)) {
                return Err(format!("v{vmid} never got the signal {signal} for all"));
            }
        }
        Ok(())
    }

    /// Returns a signal that was successfully sent to this process and was delivered less often.
    pub(crate) fn missing_signal(&self, vmid: u32) -> Option<i32> {
        let mut of_it = self.kept.range((vmid, 0)..(vmid + 1, 0));
        let missing = of_it.find(|key| {
            let sent = self.sent.get(key).copied().unwrap_or(1);
            self.delivered.get(key).copied().unwrap_or(0) < sent
        });
        missing.map(|(_, signal)| *signal)
    }

    /// Checks that all signals were delivered, when all processes have ended.
    pub(crate) fn check_all_delivered(&self, family: &Family) -> Result<(), String> {
        for ((vmid, signal), succeeded) in &self.sent {
            let times = self.delivered.get(&(*vmid, *signal));
            let times = times.copied().unwrap_or(0);
            if times < *succeeded && !family.is_marked_dead(*vmid) {
                return Err(format!(
                    "v{vmid} got signal {signal} {times} times, {succeeded} were accepted"
                ));
            }
        }
        Ok(())
    }
}
