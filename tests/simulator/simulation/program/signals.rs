//! Signals to a process, a group and all.

use std::time::Duration;

use fastrand::Rng;
use libos_ipc::{Config, Errno, Error, Pid, Target};

use super::super::checks::{group_signal_of, signal_of};
use super::super::faults::Fault;
use super::super::world::with;
use super::futures::call_or_poll;
use super::ids::is_gone;
use super::{Program, limit};

/// Another process, with the data that a thread needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct OtherProcess {
    pub(super) vmid: u32,
    pub(super) pid: Pid,
}

/// Returns a process of the family. It may be this one, or one that has ended.
pub(super) fn pick_process(rng: &mut Rng) -> Option<OtherProcess> {
    let choice = rng.usize(..);
    with(|world| {
        let all: Vec<_> = world.checks.family.all().collect();
        let process = all.get(choice % all.len().max(1))?;
        let (vmid, pid) = (process.vmid, Pid::new(process.pid)?);
        Some(OtherProcess { vmid, pid })
    })
}

impl<const READS: bool> Program<'_, '_, READS> {
    /// Returns true if this process must find the other one.
    pub(super) fn must_find(&self, vmid: u32) -> bool {
        with(|world| {
            let own = self.own.vmid;
            let family = &world.checks.family;
            let network = &world.network;
            let is_cut = network.is_cut(own, vmid) || network.is_heir_cut(own, vmid);
            family.is_certain(own) && family.is_certain(vmid) && !is_cut
        })
    }

    pub(super) fn signal_one(&self, rng: &mut Rng) {
        let Some(to) = pick_process(rng) else { return };
        // Sometimes several are sent in a row: real-time signals are queued, others may be merged.
        let is_burst = rng.u8(..4) == 0;
        let times = if is_burst { rng.u8(2..6) } else { 1 };
        for _ in 0..times {
            let is_real_time = is_burst && rng.bool();
            let signal = signal_of(self.thread, rng, is_real_time);
            if !self.signal(rng, to, signal) {
                return;
            }
        }
    }

    /// Sends one signal to one process. Returns false if that failed.
    fn signal(&self, rng: &mut Rng, to: OtherProcess, signal: i32) -> bool {
        with(|world| {
            // A process that is cut off does not know whether the leader has passed the signal on, and sends it directly.
            let may_break = world.faults().may_break() || world.checks.false_disconnects.may_close;
            let times = if may_break { 4 } else { 1 };
            world
                .checks
                .signals
                .record_attempt(to.pid.get(), signal, times);
        });
        if !self.must_find(to.vmid) {
            // Its pid may be the ID of another process's thread by now: that process gets the
            // signal then.
            with(|world| world.checks.signals.record_group_attempt(signal));
        }
        let is_for_thread = rng.u8(..8) == 0;
        let target = if is_for_thread {
            let (pid, tid) = (to.pid, to.pid.get());
            Target::Thread { pid, tid }
        } else {
            Target::Process(to.pid)
        };
        let is_allowed = |error: Error| {
            let is_refused = is_for_thread && error.errno() == Errno::EAGAIN;
            is_gone(error) && !self.must_find(to.vmid)
                || is_refused && with(|world| world.has(Fault::Capacity))
        };
        let limit = limit(rng);
        self.log(format_args!("signal {signal} for {to:?}"));
        // The pid of a process that has ended may be an ID of any other by now.
        let named = self.must_find(to.vmid).then_some(to.vmid);
        let was_running = self.begin_signal(named, signal);
        let sent = self.call("kill", limit, is_allowed, |node, wait| {
            call_or_poll!(
                self,
                node.kill(target, signal, wait),
                node.kill_async(target, signal, wait)
            )
        });
        self.end_signal(sent);
        if sent.is_ok() {
            with(|world| {
                // A child that its parent is cut off from is a zombie for that parent. The pid may
                // be another process's by now.
                let holder = world
                    .checks
                    .family
                    .of_pid(to.pid.get())
                    .map_or(0, |process| process.vmid);
                let is_cut = |vmid| world.network.is_cut(self.own.vmid, vmid);
                if is_cut(to.vmid) || is_cut(holder) {
                    return;
                }
                let is_tight = world.has(Fault::Capacity);
                let checks = &mut world.checks;
                let (signals, family) = (&mut checks.signals, &checks.family);
                signals.record_success(family, to.pid.get(), signal, was_running, is_tight);
            });
        }
        sent.is_ok()
    }

    /// Records that a signal is sent now, and returns whether its target runs.
    fn begin_signal(&self, to: Option<u32>, signal: i32) -> bool {
        with(|world| {
            let (pid, thread) = (self.own.pid, self.thread);
            world.checks.signals.record_send(pid, thread, to, signal);
            to.is_some_and(|to| world.checks.family.is_certain(to))
        })
    }

    /// Records how the call ended: a signal whose result is unknown may be under way, and arrive at
    /// any time.
    fn end_signal(&self, sent: Result<(), Error>) {
        let is_answered = !matches!(
            sent,
            Err(Error::TimedOut | Error::Interrupted | Error::Full(_))
        );
        if !is_answered {
            let (pid, thread) = (self.own.pid, self.thread);
            with(|world| world.checks.signals.record_unknown_result(pid, thread));
        }
    }

    /// Sends a signal to a group that has, or had, a member.
    pub(super) fn signal_group(&self, rng: &mut Rng) {
        let signal = group_signal_of(self.thread, rng);
        let Some(one) = pick_process(rng) else {
            return;
        };
        let group = with(|world| {
            let process = world.checks.family.get(one.vmid);
            process.map_or(0, |process| process.group)
        });
        if group == 0 {
            return;
        }
        with(|world| world.checks.signals.record_group_attempt(signal));
        let is_in = |vmid| {
            with(|world| {
                let process = world.checks.family.get(vmid);
                process.is_some_and(|process| process.group == group && process.is_group_known)
            })
        };
        let is_allowed = |error| is_gone(error) && !(self.must_find(one.vmid) && is_in(one.vmid));
        let limit = limit(rng);
        self.begin_signal(None, signal);
        let begun = with(|world| world.network.now);
        let sent = self.call("kill group", limit, is_allowed, |node, wait| {
            node.kill(Target::Group(Pid::new(group)), signal, wait)
        });
        let took = Duration::from_nanos(with(|world| world.network.now) - begun);
        // A member may not have answered: the answers of the others suffice if the call reached its
        // time limit.
        let is_over = took >= limit.min(Config::DEFAULT.recall_limit)
            || with(|world| world.has(Fault::Interrupt));
        self.end_signal(if is_over { Err(Error::TimedOut) } else { sent });
    }

    pub(crate) fn signal_all(&self, limit: Duration) {
        let vmid = self.own.vmid;
        let signal = with(|world| {
            let checks = &mut world.checks;
            checks.signals.begin_broadcast(&checks.family, vmid)
        });
        let Some(signal) = signal else { return };
        self.begin_signal(None, signal);
        // This process may be the only one.
        let is_any_certain = || {
            with(|world| {
                let family = &world.checks.family;
                let mut others = family.all().filter(|process| process.vmid != vmid);
                others.any(|process| family.is_certain(process.vmid))
            })
        };
        let is_allowed = |error| is_gone(error) && !is_any_certain();
        let sent = self.call("kill all", limit, is_allowed, |node, wait| {
            node.kill(Target::All, signal, wait)
        });
        // Another leader sends again what the one before had not sent: later than what this process sends itself.
        let may_be_late = with(|world| world.plan.has_heirs());
        self.end_signal(if may_be_late {
            Err(Error::TimedOut)
        } else {
            sent
        });
        if sent.is_ok() {
            with(|world| {
                let now = world.network.now;
                world.checks.signals.end_broadcast(signal, now);
            });
        }
    }
}
