//! The steps of a thread of a process.

mod fencing;
mod futures;
mod ids;
mod locks;
mod primitives;
mod processes;
mod signals;
mod syncs;

use std::time::Duration;

use fastrand::Rng;
use libos_ipc::wire::Message;
use libos_ipc::{Error, Vmid, Wait};

use super::checks::{Call, LONG, check_bounds};
use super::end;
use super::faults::Fault;
use super::plan::Step;
use super::process::{OwnProcess, SimNode, check_invariants, check_shares, idle, is_cut_off, now};
use super::world::with;

/// A thread.
pub(crate) struct Program<'p, 'm, const READS: bool> {
    pub(crate) node: &'p SimNode<'m, READS>,
    pub(crate) own: &'p OwnProcess,
    pub(crate) thread: usize,
}

impl<const READS: bool> Program<'_, '_, READS> {
    pub(crate) fn run(&self) {
        self.begin_syncs();
        self.begin_primitives();
        let steps = with(|world| world.plan.steps(self.own.number, self.thread));
        for step in steps {
            if self.own.is_over() {
                return;
            }
            let name = (self.own.number, step.thread, step.at);
            with(|world| {
                let (process, thread, at) = name;
                let vmid = self.own.vmid;
                world.log(format_args!("v{vmid}: step {process}.{thread}.{at}"));
            });
            let ids_end_at = || with(|world| world.plan.ids_end_at());
            if self.own.is_first && self.thread == 0 && ids_end_at() == Some(step.at) {
                self.use_ids_up();
            }
            self.step(step);
            self.check_node();
        }
    }

    fn step(&self, step: Step) {
        let mut rng = Rng::with_seed(step.seed);
        match rng.u8(..100) {
            0..5 => self.take_id(&mut rng),
            5..8 => self.release_id(&mut rng),
            8..11 => self.transfer_id(&mut rng),
            11..14 => self.look_up(&mut rng),
            14..17 => self.alloc_range(&mut rng),
            17..19 => self.release_range(&mut rng),
            19..22 => self.change_owner(&mut rng),
            22..24 => self.request_without_waiting(&mut rng),
            24..34 => self.start_child(&mut rng),
            34..42 => self.signal_one(&mut rng),
            42..44 => self.signal_group(&mut rng),
            44..46 => self.signal_all(limit(&mut rng)),
            46..49 => self.change_group(&mut rng),
            49..52 => self.query_process(&mut rng),
            52..56 => self.query_metadata(&mut rng),
            56..61 => self.wait_for_child(&mut rng),
            61..77 => self.lock_file(&mut rng),
            77..86 => self.use_sync(&mut rng),
            86..91 => self.use_primitive(&mut rng),
            91..93 => self.contend_for_sync(&mut rng),
            93..95 => self.interrupt(),
            95..97 => idle(self.node, Duration::from_micros(rng.u64(..10_000))),
            97 => self.broadcast(),
            _ => self.crash(),
        }
    }

    /// Makes a call, and checks that it ends in an allowed way: without an error, with one that is
    /// `is_allowed`, or with one that there is a reason for.
    fn call<T>(
        &self,
        name: &'static str,
        limit: Duration,
        is_allowed: impl FnOnce(Error) -> bool,
        call: impl FnOnce(&SimNode<'_, READS>, Wait<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let interrupt = &self.own.interrupts[self.thread];
        interrupt.reset();
        self.own.shared(|shared| {
            shared.interrupted[self.thread] = false;
            shared.dropped[self.thread] = false;
        });
        let began = now();
        let result = call(self.node, Wait::at_most(limit).or_until(interrupt));
        if self.own.is_dead() {
            // The process was killed in this call, or before.
            self.own.shared(|shared| shared.is_cut_off = true);
            return Err(Error::LeaderGone);
        }
        let error = result.as_ref().err().copied();
        let result_is_ok = result.is_ok();
        let is_fine = error.is_some_and(is_allowed);
        if error.is_some_and(is_cut_off) {
            self.own.shared(|shared| shared.is_cut_off = true);
        }
        let was_interrupted = self.own.shared(|shared| shared.interrupted[self.thread]);
        with(|world| {
            let result = error.map_or("done".to_owned(), |error| error.to_string());
            let (vmid, thread) = (self.own.vmid, self.thread);
            world.log(format_args!("v{vmid}.{thread} {name}: {result}"));
            world
                .trace
                .record(error.map_or(0, |error| u64::from(error.errno().get().unsigned_abs()) + 1));
            let call = Call {
                name,
                vmid,
                began,
                limit,
                was_interrupted,
            };
            let now = world.network.now;
            let error = error.filter(|_| !is_fine);
            let is_gone = world.checks.succession.may_be_gone(&world.checks.family);
            world.checks.calls.is_leader_gone = is_gone;
            let outcome = world
                .checks
                .calls
                .check_end(&call, error, now, &world.checks.family);
            world.check("calls", outcome);
            if error == Some(Error::LeaderGone) && world.plan.has_heirs() {
                world.record_leader_loss(vmid);
            }
            if result_is_ok {
                let faults = world.faults();
                let is_prompt = world.plan.is_secure()
                    && !faults.may_overrun()
                    && !faults.has(Fault::Disconnect);
                let outcome = world.checks.heartbeats.check_success(&call, now, is_prompt);
                world.check("heartbeats", outcome);
            }
        });
        result
    }

    /// Logs a line of the trace.
    fn log(&self, what: std::fmt::Arguments<'_>) {
        let (vmid, thread) = (self.own.vmid, self.thread);
        with(|world| world.log(format_args!("v{vmid}.{thread} {what}")));
    }

    /// Checks after every step: no pool exceeds its limit, and the invariants of the leader's
    /// tables hold.
    fn check_node(&self) {
        let statistics = self.node.statistics();
        let leads = self.leads();
        let shares_fit = !leads || self.node.check_shares();
        // The invariants contain that the charges agree with the tables.
        let invariants_hold = !leads || !shares_fit || self.node.check_invariants();
        let leader = self.node.leader().get();
        with(|world| {
            if world.plan.has_heirs() && !leads {
                let is_heir = statistics.succession.heir.map(Vmid::get) == Some(self.own.vmid);
                let now = world.network.now;
                let heir = Some(leader).filter(|_| is_heir);
                world
                    .checks
                    .succession
                    .record_heir(self.own.vmid, heir, now);
            }
            let false_disconnects = &world.checks.false_disconnects;
            let refused = false_disconnects.check_refusals(self.own.vmid, &statistics);
            world.check("false-disconnects", refused);
            world.check("bounds", check_bounds(&statistics.pools));
            world.check("shares", check_shares(shares_fit));
            world.check("soundness", check_invariants(invariants_hold));
        });
    }

    /// Returns true if this process leads.
    pub(crate) fn leads(&self) -> bool {
        self.node.leader().get() == self.own.vmid
    }

    /// Returns true if the acts of this process certainly take effect.
    fn is_certain(&self) -> bool {
        with(|world| world.checks.family.is_certain(self.own.vmid))
    }

    /// Interrupts the other thread's call.
    fn interrupt(&self) {
        if !self.own.has_threads || !with(|world| world.has(Fault::Interrupt)) {
            return;
        }
        let other = 1 - self.thread;
        self.own.shared(|shared| shared.interrupted[other] = true);
        self.own.interrupts[other].raise(self.node);
    }

    /// Sends a message without an answer to all members, which ignore it.
    fn broadcast(&self) {
        if self.own.is_first && !with(|world| world.plan.has_heirs()) {
            self.node
                .broadcast(&Message::FileLockRecall(u64::MAX), None);
        }
    }

    fn crash(&self) {
        let is_kept = self.own.is_first && !with(|world| world.plan.has_heirs());
        if is_kept || !with(|world| world.has(Fault::Crash)) {
            return;
        }
        if !self
            .own
            .shared(|shared| std::mem::replace(&mut shared.is_crashing, true))
        {
            end::crash(self.node, self.own);
        }
    }

    /// Keeps what a thread has acquired for up to 2 ms, in half of all cases.
    fn hold_for_a_while(&self, rng: &mut Rng) {
        if rng.bool() {
            idle(self.node, Duration::from_micros(rng.u64(..2_000)));
        }
    }

    /// Releases all that others may wait for. Returns false if the messages can't be sent any more.
    pub(crate) fn release_all(&self) -> bool {
        self.release_files();
        self.release_all_ids();
        self.close_syncs() && self.is_certain()
    }
}

/// Returns a time limit for a call.
fn limit(rng: &mut Rng) -> Duration {
    let limit = match rng.u8(..4) {
        0 => Duration::ZERO,
        1 => Duration::from_micros(rng.u64(..5_000)),
        _ => LONG,
    };
    if with(|world| world.has(Fault::Limits)) {
        limit
    } else {
        LONG
    }
}
