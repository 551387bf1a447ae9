//! The state of a run: the network, the checks, the trace. One thread runs one world, so the world
//! is a thread-local variable: a platform must be `Send` and `Sync`, and here it only holds a
//! number.

use std::cell::RefCell;
use std::fmt::Arguments;
use std::time::Duration;

use libos_ipc::Vmid;
use libos_ipc::leader::{Leader, Op};

use super::checks::Checks;
use super::faults::{Fault, Faults};
use super::network::{Network, StreamEvent};
use super::plan::{Options, Plan, SUCCESSION_LIMIT};
use super::process::{NewProcess, nanoseconds};
use super::trace::Trace;

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// A check that has failed.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// The name of the check that found it.
    pub(crate) check: &'static str,
    /// What the check has found, as text.
    pub(crate) what: String,
}

/// How the leader has lost a member.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// The member has closed its stream.
    Closed,
    /// The stream broke, or the leader has closed it.
    Cut,
    /// The host has cut the leader's ends, and keeps the member's silent.
    Silent,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) network: Network,
    pub(crate) checks: Checks,
    pub(crate) trace: Trace,
    pub(crate) violation: Option<Violation>,
    /// The operations that the leader has applied, as a file, if they are recorded.
    pub(crate) ops: Option<Vec<u8>>,
    /// The processes to start.
    pub(crate) new_processes: Vec<NewProcess>,
    /// The IDs under way to another process, after the VMIDs of their receivers.
    pub(crate) transferred_ids: Vec<(u32, libos_ipc::Id)>,
    /// The number of processes started so far.
    pub(crate) started: usize,
    /// The first process has done its steps: no process starts anything new.
    pub(crate) is_finishing: bool,
    /// The VMID of the leader.
    pub(crate) leader: u32,
    /// The place of the process that runs; `usize::MAX` while none does.
    pub(crate) running: usize,
    /// The time in nanoseconds until which the coroutine that pauses now waits at most.
    paused_until: u64,
}

/// Changes this thread's world. The function must not wait, nor call a node.
pub(crate) fn with<T>(change: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| match world {
        Some(world) => change(world),
        // A run that was broken off may still call this.
        None => unreachable!("there is no world"),
    })
}

/// Suspends the coroutine until an event at its place, or until the clock reaches `until` (in nanoseconds).
pub(crate) fn pause(until: Option<u64>) {
    with(|world| world.paused_until = until.unwrap_or(u64::MAX));
    #[expect(
        deprecated,
        reason = "a wait is far below where a scope could be handed down to"
    )]
    generator::yield_with(());
}

/// Returns the time until which the coroutine that just paused waits.
pub(crate) fn paused_until() -> u64 {
    with(|world| world.paused_until)
}

/// Creates this thread's world.
pub(crate) fn begin(plan: Plan, network: Network, options: &Options) {
    let checks = Checks::new(plan.faults);
    let world = World {
        plan,
        network,
        checks,
        trace: Trace::new(options.keeps_lines),
        violation: None,
        ops: options.records_ops.then(Vec::new),
        new_processes: Vec::new(),
        transferred_ids: Vec::new(),
        started: 0,
        is_finishing: false,
        leader: 1,
        running: usize::MAX,
        paused_until: 0,
    };
    WORLD.set(Some(world));
}

/// Takes this thread's world away.
pub(crate) fn end() -> Option<World> {
    WORLD.take()
}

impl World {
    pub(crate) fn faults(&self) -> Faults {
        self.plan.faults
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.plan.faults.has(fault)
    }

    pub(crate) fn log(&mut self, line: Arguments<'_>) {
        let now = self.network.now;
        self.trace.log(now, line);
    }

    /// Records the outcome of a check; the first failure ends the run.
    pub(crate) fn check(&mut self, check: &'static str, outcome: Result<(), String>) {
        let Err(what) = outcome else { return };
        // A process that was killed is not checked.
        if self.network.is_dead(self.running) {
            return;
        }
        self.log(format_args!("{check}: {what}"));
        if self.violation.is_none() {
            self.violation = Some(Violation { check, what });
        }
    }

    /// Drops all certain facts about what the process held.
    pub(crate) fn forget(&mut self, vmid: u32, has_released_all: bool) {
        let pid = self.checks.family.pid_of(vmid);
        self.checks.heartbeats.forget(vmid);
        self.checks.forget(vmid, pid, has_released_all);
    }

    /// Records, when the time has advanced, that members which were cut off have lost what they had.
    pub(crate) fn handle_lapses(&mut self) {
        let now = self.network.now;
        while let Some(vmid) = self.checks.heartbeats.next_lapsed(now) {
            self.log(format_args!("v{vmid} must not use any more what it had"));
            self.forget(vmid, false);
        }
        let outcome = self.checks.heartbeats.check_reports(now);
        self.check("heartbeats", outcome);
    }

    /// Returns true if the process may use what it has: it is not cut off, or was not for long.
    pub(crate) fn may_use(&self, vmid: u32) -> bool {
        self.checks.family.is_certain(vmid) || self.checks.heartbeats.may_use(vmid)
    }

    /// Handles the ends of streams.
    pub(crate) fn handle_stream_events(&mut self) {
        while let Some(event) = self.network.stream_events.pop() {
            let (one, other, how) = match event {
                StreamEvent::Cut(one, other) => {
                    self.log(format_args!("the stream from v{one} to v{other} breaks"));
                    (one, other, Loss::Cut)
                }
                StreamEvent::Severed(vmid) => {
                    self.log(format_args!(
                        "the host cuts v{vmid} off, and keeps it silent"
                    ));
                    (1, vmid, Loss::Silent)
                }
                // The process has stopped using its resources.
                StreamEvent::Ended(vmid) => {
                    if self.checks.heartbeats.may_use(vmid) {
                        self.forget(vmid, false);
                    }
                    continue;
                }
                StreamEvent::Killed(vmid) => {
                    self.record_kill(vmid);
                    continue;
                }
                StreamEvent::Stopped(vmid, until) => {
                    let span = Duration::from_nanos(until - self.network.now);
                    self.log(format_args!("v{vmid} is stopped for {span:?}"));
                    continue;
                }
                StreamEvent::HeirCut(one, other) => {
                    self.log(format_args!("streams between v{one} and v{other} end"));
                    continue;
                }
                StreamEvent::Closed(one, other) => {
                    self.log(format_args!("v{one} gives v{other} up"));
                    let outcome = self.checks.false_disconnects.check_close(one, other);
                    self.check("false-disconnects", outcome);
                    // A member that closes its stream itself uses nothing any more.
                    let is_leader = one == self.leader;
                    let how = if is_leader { Loss::Cut } else { Loss::Closed };
                    (one, other, how)
                }
            };
            // A member without a connection with the leader is dead for the family.
            if one == self.leader {
                self.mark_dead(other, how);
            } else if other == self.leader {
                self.mark_dead(one, how);
            }
        }
    }

    /// Records that the process was killed.
    fn record_kill(&mut self, vmid: u32) {
        let is_leader = vmid == self.leader;
        let role = if is_leader { ", the leader," } else { "" };
        self.log(format_args!("v{vmid}{role} is killed"));
        if is_leader {
            self.record_leader_end(vmid);
        }
        let family = &mut self.checks.family;
        if family.is_starting(vmid) {
            family.record_failure(vmid);
        } else {
            family.record_kill(vmid);
        }
        self.forget(vmid, false);
        self.checks.family.mark_dead(vmid);
        self.checks.heartbeats.record_end(vmid);
    }

    /// Records that the process has no leader any more.
    pub(crate) fn record_leader_loss(&mut self, vmid: u32) {
        self.mark_dead(vmid, Loss::Closed);
    }

    /// Kills the process.
    pub(crate) fn kill(&mut self, place: usize) {
        self.network.kill(place);
        self.handle_stream_events();
    }

    /// Ends the process with that VMID, if the platform can. Returns true if it is dead.
    pub(crate) fn end_process(&mut self, vmid: u32) -> bool {
        if !self.network.can_end() {
            return false;
        }
        if let Some(place) = self.network.place_to_end(vmid) {
            self.log(format_args!("the platform ends v{vmid}"));
            self.kill(place);
        }
        true
    }

    /// Records that the leader dies, or has left.
    pub(crate) fn record_leader_end(&mut self, vmid: u32) {
        let (heir, now) = (self.network.heir(), self.network.now);
        self.log(format_args!("the leader v{vmid} ends; its heir: {heir:?}"));
        self.checks.succession.record_leader_end(vmid, heir, now);
        self.checks.calls.leader_ended = Some(now);
        self.checks
            .calls
            .record_leader_end(now, &self.checks.family);
    }

    /// Returns true if the leader serves all members: its log takes bytes, and all have had the time to
    /// follow it.
    pub(crate) fn is_led(&self) -> bool {
        let now = self.network.now;
        let may_be_lost = |then| now < then + nanoseconds(SUCCESSION_LIMIT);
        !self.network.is_log_blocked() && !self.checks.calls.leader_ended.is_some_and(may_be_lost)
    }

    /// Records that a process has applied an operation to tables of a leader, as the leader or as its heir.
    pub(crate) fn record_op(&mut self, vmid: u32, place: usize, leader: &Leader<'_>, op: &Op<'_>) {
        if self.network.is_dead(place) {
            return;
        }
        if let Op::Succeed { to } = op
            && to.get() == vmid
        {
            self.log(format_args!("v{vmid} leads, in epoch {}", leader.epoch()));
            let is_dead = self.network.is_dead_or_gone(self.leader);
            let revealed = self.network.revealed_to_others(place);
            self.network.record_leader(place);
            let members = |vmid| Vmid::new(vmid).is_some_and(|vmid| leader.is_member(vmid));
            let numbers = self.checks.family.all().map(|process| process.vmid);
            let members = numbers.filter(|vmid| members(*vmid)).collect();
            let succession = &mut self.checks.succession;
            let outcome =
                succession.record_leader(vmid, leader.epoch(), (self.leader, is_dead), members);
            let before = std::mem::replace(&mut self.leader, vmid);
            self.check("leaders", outcome);
            let logged = self
                .checks
                .succession
                .check_logged(before, leader.ops(), revealed);
            self.check("logged", logged);
        }
        let (number, digest) = (leader.ops(), leader.digest());
        if vmid == self.leader {
            self.network.applied = number;
            if let Op::Connected(member) = op {
                self.checks.succession.record_member(member.get());
            }
            self.checks.succession.record_op(number, digest);
            // Others may get what that process had. It may live: a leader that leaves gives members up, too.
            if let Op::ReclaimLocks { owner, .. } = op
                && self.plan.has_heirs()
            {
                let owner = owner.get();
                if self.checks.family.is_certain(owner)
                    && !self.network.is_cut(vmid, owner)
                    && !self.network.is_heir_cut(vmid, owner)
                {
                    let outcome = self.checks.false_disconnects.check_close(vmid, owner);
                    self.check("false-disconnects", outcome);
                }
                self.mark_dead(owner, Loss::Cut);
            }
        } else {
            let outcome = self.checks.succession.check_replica(vmid, number, digest);
            self.check("replicas", outcome);
        }
    }

    /// Records that a parent was notified of the death of a child which has not joined. With small tables the child may
    /// have had no room for a stream of the leader, which took that for its death.
    pub(crate) fn record_death_at_start(&mut self, pid: libos_ipc::Id) {
        let child = self.checks.family.of_pid(pid).map(|child| child.vmid);
        let child = child.filter(|vmid| self.checks.family.is_starting(*vmid));
        if let Some(vmid) = child.filter(|_| self.has(Fault::Capacity)) {
            self.mark_dead(vmid, Loss::Cut);
        }
    }

    /// Records that the process is dead for the others, though it may not know that yet.
    fn mark_dead(&mut self, vmid: u32, how: Loss) {
        if self.checks.family.mark_dead(vmid) {
            self.log(format_args!("v{vmid} is dead for the family"));
            if self.plan.is_secure() && how != Loss::Closed {
                let pid = self.checks.family.pid_of(vmid);
                self.checks.values.record_cut_off(pid);
                let heartbeats = &mut self.checks.heartbeats;
                heartbeats.record_loss(vmid, self.network.now, how == Loss::Silent);
            } else {
                self.forget(vmid, false);
            }
        } else {
            if how == Loss::Silent && self.checks.family.is_starting(vmid) {
                self.checks
                    .heartbeats
                    .record_loss(vmid, self.network.now, true);
            }
            // A process that has not joined may have open files, too.
            let now = self.checks.tick();
            self.checks.files.forget(vmid, now);
        }
    }
}
