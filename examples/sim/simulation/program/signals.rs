//! Signals to one, a group, all.

use std::time::Duration;

use fastrand::Rng;
use libos_ipc::Target;

use super::super::faults::Fault;
use super::super::world::with;
use super::ids::is_gone;
use super::{Program, limit};

/// Another process, as far as a thread has to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Somebody {
    pub(super) vmid: u32,
    pub(super) pid: libos_ipc::Id,
}

/// A process of the family, be it this one or one that is gone.
pub(super) fn somebody(rng: &mut Rng) -> Option<Somebody> {
    let choice = rng.usize(..);
    with(|world| {
        let all: Vec<_> = world.checks.family.all().collect();
        let kin = all.get(choice % all.len().max(1))?;
        let (vmid, pid) = (kin.vmid, kin.pid);
        Some(Somebody { vmid, pid })
    })
}

impl<const READS: bool> Program<'_, '_, READS> {
    /// Whether a process must be found by this one.
    pub(super) fn is_there(&self, vmid: u32) -> bool {
        with(|world| {
            let own = self.own.vmid;
            let family = &world.checks.family;
            let is_cut = world.network.is_cut(own, vmid);
            family.is_certain(own) && family.is_certain(vmid) && !is_cut
        })
    }

    pub(super) fn signal_one(&self, rng: &mut Rng) {
        let signal = rng.i32(1..24);
        let Some(to) = somebody(rng) else { return };
        with(|world| {
            let may_break = world.has(Fault::Disconnect) || world.checks.innocents.may_close;
            let times = if may_break { 3 } else { 1 };
            world.checks.signals.tries(to.pid, signal, times);
        });
        let is_for_thread = rng.u8(..8) == 0;
        let target = if is_for_thread {
            let (pid, tid) = (to.pid, to.pid);
            Target::Thread { pid, tid }
        } else {
            Target::Process(to.pid)
        };
        // A thread of one that has not joined yet is not found.
        let must_be_there = !is_for_thread || self.is_there(to.vmid);
        let may_be_gone = |error| is_gone(error) && !(must_be_there && self.is_there(to.vmid));
        let limit = limit(rng);
        self.say(format_args!("signal {signal} for {to:?}"));
        let sent = self.call("kill", limit, may_be_gone, |node, wait| {
            node.kill(target, signal, wait)
        });
        if sent.is_ok() {
            with(|world| {
                // A child that its parent is cut off from is a zombie for that.
                if world.network.is_cut(self.own.vmid, to.vmid) {
                    return;
                }
                let checks = &mut world.checks;
                checks.signals.succeeded(&checks.family, to.pid, signal);
            });
        }
    }

    /// To a group that somebody is in, or was.
    pub(super) fn signal_group(&self, rng: &mut Rng) {
        let signal = rng.i32(24..32);
        let Some(one) = somebody(rng) else {
            return;
        };
        let group = with(|world| {
            let kin = world.checks.family.get(one.vmid);
            kin.map_or(0, |kin| kin.group)
        });
        if group == 0 {
            return;
        }
        with(|world| world.checks.signals.tries_group(signal));
        let is_in = |vmid| {
            with(|world| {
                let kin = world.checks.family.get(vmid);
                kin.is_some_and(|kin| kin.group == group && kin.is_group_known)
            })
        };
        let may_be_gone = |error| is_gone(error) && !(self.is_there(one.vmid) && is_in(one.vmid));
        let limit = limit(rng);
        let _ = self.call("kill group", limit, may_be_gone, |node, wait| {
            node.kill(Target::Group(group), signal, wait)
        });
    }

    pub(crate) fn signal_all(&self, limit: Duration) {
        let vmid = self.own.vmid;
        let signal = with(|world| {
            let checks = &mut world.checks;
            checks.signals.begin_broadcast(&checks.family, vmid)
        });
        let Some(signal) = signal else { return };
        let sent = self.call("kill all", limit, super::ids::nothing, |node, wait| {
            node.kill(Target::All, signal, wait)
        });
        if sent.is_ok() {
            with(|world| {
                let now = world.network.now;
                world.checks.signals.broadcast_done(signal, now);
            });
        }
    }
}
