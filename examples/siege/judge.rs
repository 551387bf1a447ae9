//! The comparison of the innocent's calls under an attack with those of the control run.

use std::time::Duration;

use libos_ipc::{Refusal, Statistics, Usage};

use crate::attacks::Attack;
use crate::common::Latency;
use crate::innocent::Measured;
use crate::run::RECALL_LIMIT;

/// A call may take this many times as long as in the control run.
const FACTOR: u32 = 5;
/// How many sync handles the attacker holds at least when it dies, unless its quota is smaller.
const HANDLES_AT_LEAST: usize = 100;

/// The limits that hold even if the control run was faster.
const LEAST_P99: Duration = Duration::from_millis(1);
const LEAST_WORST: Duration = Duration::from_millis(20);

pub(crate) fn p99(latency: &Latency) -> Duration {
    Duration::from_nanos(latency.percentile_ns(99))
}

/// Returns true if the leader's statistics show the attack. Otherwise the measurement says nothing.
pub(crate) fn has_happened(attack: Attack, statistics: &Statistics) -> bool {
    let pools = &statistics.pools;
    // A leader may refuse most of the entries that the attacker wants.
    let is_used = |usage: Usage| usage.peak >= usage.limit / 32;
    match attack {
        Attack::DeadlockFlood
        | Attack::DeadlockIdle
        | Attack::DeadlockDeep
        | Attack::DeadlockDeath => is_used(pools.locks) && is_used(pools.waiting_for_locks),
        Attack::Collisions => is_used(pools.locks),
        Attack::ClaimedVmid => statistics.refused(Refusal::VmidTaken) >= 10,
        Attack::UnreturnedDelegation => statistics.refused(Refusal::NotReturned) >= 1,
        Attack::Broadcast | Attack::BroadcastFifty => statistics.frames_out >= 1000,
        Attack::SyncDeath => {
            pools.served_handles.peak >= HANDLES_AT_LEAST.min(pools.served_handles.limit / 32)
        }
        Attack::ChildrenDeath => is_used(pools.processes),
        Attack::HalfFrames => statistics.refused(Refusal::NoVmid) >= 10,
        Attack::LateReturn
        | Attack::ProcessScans
        | Attack::Churn
        | Attack::Succession
        | Attack::SuccessionWithHeirs
        | Attack::FalseHeirs
        | Attack::Values
        | Attack::LongPaths
        | Attack::OpenFiles
        | Attack::Ids
        | Attack::QueuedSignals
        | Attack::Cancels => statistics.frames_in >= 1000,
    }
}

/// Returns the reasons for which the attack has succeeded.
pub(crate) fn judge(attack: Attack, measured: &Measured, control: &Measured) -> Vec<String> {
    let mut faults = Vec::new();
    let kinds = [
        ("look-ups", &measured.lookups, &control.lookups, false),
        (
            "lock calls",
            &measured.locks,
            &control.locks,
            attack.shares_files(),
        ),
    ];
    for (kind, latency, control, may_stall_once) in kinds {
        let limits = [
            LEAST_P99.max(p99(control) * FACTOR),
            LEAST_WORST.max(control.slowest() * FACTOR),
        ];
        let [p99_limit, mut worst_limit] = limits;
        let mut stalls = 0;
        if may_stall_once {
            stalls = latency.slower_than(worst_limit);
            worst_limit += RECALL_LIMIT;
        }
        if latency.requests() == 0 {
            faults.push(format!("no {kind} have ended"));
        }
        if p99(latency) > p99_limit {
            faults.push(format!(
                "p99 of {kind} is {:.1?}, and not {p99_limit:.1?}",
                p99(latency)
            ));
        }
        if latency.slowest() > worst_limit {
            let slowest = latency.slowest();
            faults.push(format!(
                "one of the {kind} took {slowest:.1?}, and not {worst_limit:.1?}"
            ));
        }
        if stalls > 1 {
            faults.push(format!(
                "{stalls} {kind} waited for a file that was not returned"
            ));
        }
    }
    if measured.refused > 0 {
        let (count, error) = (measured.refused, &measured.error);
        faults.push(format!(
            "{count} calls were refused, the first with: {error}"
        ));
    }
    faults
}
