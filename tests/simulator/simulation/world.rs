//! All that there is in a run: the network, what the checks know, the account. One thread runs one
//! world, one step after the other, so it is that thread's own; a platform has to be `Send` and
//! `Sync`, and here it need hold nothing but a number.

use std::cell::RefCell;
use std::fmt::Arguments;

use super::account::Account;
use super::checks::Checks;
use super::faults::{Fault, Faults};
use super::network::{Network, News};
use super::plan::Plan;
use super::process::Birth;

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// What was promised and not kept.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// The check that found it.
    pub(crate) check: &'static str,
    pub(crate) what: String,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) network: Network,
    pub(crate) checks: Checks,
    pub(crate) account: Account,
    pub(crate) violation: Option<Violation>,
    /// Processes that are to begin.
    pub(crate) births: Vec<Birth>,
    /// IDs that were handed on, and to whom.
    pub(crate) handed: Vec<(u32, libos_ipc::Id)>,
    /// How many were started so far.
    pub(crate) started: usize,
    /// The first process has done its part: nobody starts anything new.
    pub(crate) finish: bool,
    /// Until when whoever pauses just now waits, at most.
    paused_until: u64,
}

/// Does something with this thread's world. Nothing in there may wait, or call a node.
pub(crate) fn with<T>(change: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| match world {
        Some(world) => change(world),
        // What is left of a run that was broken off.
        None => unreachable!("there is no world"),
    })
}

/// Hands the thread on, until something stirs the place or the clock reaches `until`.
pub(crate) fn pause(until: Option<u64>) {
    with(|world| world.paused_until = until.unwrap_or(u64::MAX));
    #[expect(
        deprecated,
        reason = "a wait is far below where a scope could be handed down to"
    )]
    generator::yield_with(());
}

/// Until when the one that was just resumed waits.
pub(crate) fn paused_until() -> u64 {
    with(|world| world.paused_until)
}

/// Begins a world.
pub(crate) fn begin(plan: Plan, network: Network, tells: bool) {
    let checks = Checks::new(plan.faults);
    let world = World {
        plan,
        network,
        checks,
        account: Account::new(tells),
        violation: None,
        births: Vec::new(),
        handed: Vec::new(),
        started: 0,
        finish: false,
        paused_until: 0,
    };
    WORLD.set(Some(world));
}

/// Ends it.
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

    pub(crate) fn tell(&mut self, line: Arguments<'_>) {
        let now = self.network.now;
        self.account.tell(now, line);
    }

    /// The first thing that is wrong ends the run.
    pub(crate) fn check(&mut self, check: &'static str, outcome: Result<(), String>) {
        let Err(what) = outcome else { return };
        self.tell(format_args!("{check}: {what}"));
        if self.violation.is_none() {
            self.violation = Some(Violation { check, what });
        }
    }

    /// Takes in what became of streams.
    pub(crate) fn hear_of_streams(&mut self) {
        while let Some(news) = self.network.news.pop() {
            let (one, other) = match news {
                News::Cut(one, other) => {
                    self.tell(format_args!("the stream from v{one} to v{other} breaks"));
                    (one, other)
                }
                News::Closed(one, other) => {
                    self.tell(format_args!("v{one} gives v{other} up"));
                    let outcome = self.checks.innocents.closed(one, other);
                    self.check("innocents", outcome);
                    (one, other)
                }
            };
            // Without its connection with the leader a member is dead for the family.
            if one.min(other) == 1 {
                self.doom(one.max(other));
            }
        }
    }

    /// For the others this process is dead, though it may not know that yet.
    fn doom(&mut self, vmid: u32) {
        if self.checks.family.doom(vmid) {
            let pid = self.checks.family.pid_of(vmid);
            self.tell(format_args!("v{vmid} is dead for the family"));
            self.checks.forget(vmid, pid, false);
        } else {
            // One that has not joined has open files all the same.
            let now = self.checks.tick();
            self.checks.files.forget(vmid, now);
        }
    }
}
