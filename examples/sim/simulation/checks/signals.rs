//! **signals**: a signal that was sent with success to a process that has not begun to end is
//! delivered, be it kept until that has joined, and none that was not sent. **broadcasts**: a signal
//! for all is delivered to every member once, and not to its sender.

use std::collections::{BTreeMap, BTreeSet};

use libos_ipc::Id;

use super::family::{Family, State};

/// Signals below are for one process or group, from here on for all.
pub(crate) const FOR_ALL: i32 = 32;
/// From here on nobody honest sends any.
pub(crate) const FOREIGN: i32 = 50;

struct Broadcast {
    sender: u32,
    /// Who has to get it.
    all: Vec<u32>,
    /// When the leader had said that it was passed on, in simulated time.
    done: Option<u64>,
}

#[derive(Default)]
pub(crate) struct Signals {
    /// Attempts.
    tried: BTreeMap<(Id, i32), u32>,
    /// Sent with success.
    sent: BTreeMap<(u32, i32), u32>,
    /// Sent with success to one that had not joined. Equal ones become one.
    kept: BTreeSet<(u32, i32)>,
    delivered: BTreeMap<(u32, i32), u32>,
    broadcasts: BTreeMap<i32, Broadcast>,
    to_groups: BTreeSet<i32>,
}

impl Signals {
    /// It is sent, and may be asked for so many times: again if the connection broke meanwhile.
    pub(crate) fn tries(&mut self, target: Id, signal: i32, times: u32) {
        *self.tried.entry((target, signal)).or_default() += times;
    }

    /// A group's members are not known for certain: any of them may get it.
    pub(crate) fn tries_group(&mut self, signal: i32) {
        self.to_groups.insert(signal);
    }

    /// The answer was 0.
    pub(crate) fn succeeded(&mut self, family: &Family, target: Id, signal: i32) {
        let Some(kin) = family.of_pid(target) else {
            return;
        };
        match kin.state {
            State::Running => *self.sent.entry((kin.vmid, signal)).or_default() += 1,
            State::Starting => {
                self.kept.insert((kin.vmid, signal));
            }
            State::Ending | State::Failed => {}
        }
    }

    pub(crate) fn delivered(&mut self, vmid: u32, pid: Id, signal: i32) -> Result<(), String> {
        let times = self.delivered.entry((vmid, signal)).or_default();
        *times += 1;
        let times = *times;
        if signal >= FOR_ALL {
            return match self.broadcasts.get(&signal) {
                None => Err(format!(
                    "v{vmid} gets signal {signal}, which nobody has sent"
                )),
                Some(broadcast) if broadcast.sender == vmid => {
                    Err(format!("v{vmid} gets its own signal for all"))
                }
                _ if times > 1 => Err(format!("v{vmid} gets the signal {signal} for all twice")),
                _ => Ok(()),
            };
        }
        let tried = self.tried.get(&(pid, signal)).copied().unwrap_or(0);
        if times > tried && !self.to_groups.contains(&signal) {
            return Err(format!(
                "v{vmid} gets signal {signal} {times} times, sent {tried} times"
            ));
        }
        Ok(())
    }

    /// A signal for all goes out: its number, if there is one left.
    pub(crate) fn begin_broadcast(&mut self, family: &Family, sender: u32) -> Option<i32> {
        let count = i32::try_from(self.broadcasts.len()).ok()?;
        let signal = Some(FOR_ALL + count).filter(|signal| *signal < FOREIGN)?;
        let is_meant = |vmid: &u32| *vmid != sender && family.is_certain(*vmid);
        let all = family.all().map(|kin| kin.vmid).filter(is_meant).collect();
        let broadcast = Broadcast {
            sender,
            all,
            done: None,
        };
        self.broadcasts.insert(signal, broadcast);
        Some(signal)
    }

    pub(crate) fn broadcast_done(&mut self, signal: i32, now: u64) {
        if let Some(broadcast) = self.broadcasts.get_mut(&signal) {
            broadcast.done = Some(now);
        }
    }

    /// Who still is to get a signal for all that was sent before `until`.
    pub(crate) fn missing(&self, family: &Family, until: u64) -> Option<(u32, i32)> {
        let sent = self
            .broadcasts
            .iter()
            .filter(|(_, broadcast)| broadcast.done.is_some_and(|done| done < until));
        sent.flat_map(|(signal, broadcast)| broadcast.all.iter().map(|vmid| (*vmid, *signal)))
            .find(|(vmid, signal)| {
                family.is_certain(*vmid) && !self.delivered.contains_key(&(*vmid, *signal))
            })
    }

    /// Whether one that begins to end has got all that was sent before `until`.
    pub(crate) fn has_got_all(&self, family: &Family, vmid: u32, until: u64) -> Result<(), String> {
        for (signal, broadcast) in &self.broadcasts {
            let is_due = broadcast.done.is_some_and(|done| done < until);
            let is_meant = broadcast.all.contains(&vmid) && family.is_certain(vmid);
            if is_due && is_meant && !self.delivered.contains_key(&(vmid, *signal)) {
                return Err(format!("v{vmid} never got the signal {signal} for all"));
            }
        }
        Ok(())
    }

    /// What was sent with success before this process joined, and has not come.
    pub(crate) fn not_come(&self, vmid: u32) -> Option<i32> {
        let mut of_it = self.kept.range((vmid, 0)..(vmid + 1, 0));
        let missing = of_it.find(|key| !self.delivered.contains_key(key));
        missing.map(|(_, signal)| *signal)
    }

    /// Whether all arrived that was sent, once everybody is gone.
    pub(crate) fn all_delivered(&self, family: &Family) -> Result<(), String> {
        for ((vmid, signal), succeeded) in &self.sent {
            let times = self.delivered.get(&(*vmid, *signal));
            let times = times.copied().unwrap_or(0);
            if times < *succeeded && !family.is_doomed(*vmid) {
                return Err(format!(
                    "v{vmid} got signal {signal} {times} times, {succeeded} were said to be"
                ));
            }
        }
        Ok(())
    }
}
