//! The comparison of the innocent's calls under an attack with those of the control run.

use std::time::Duration;

use libos_ipc::{Refusal, Statistics, Usage};

use crate::attacks::Attack;
use crate::innocent::Measured;
use crate::run::RECALL_LIMIT;

/// A call may take this many times as long as in the control run.
const MAX_RATIO: u32 = 5;
/// The number of sync handles that the attacker holds at least when it ends, unless its quota is smaller.
const MIN_HANDLES: usize = 100;

/// The lowest limits of the 99th percentile and of the longest call: they hold even if the control run was faster.
const MIN_P99_LIMIT: Duration = Duration::from_millis(1);
const MIN_WORST_LIMIT: Duration = Duration::from_millis(20);

/// Returns true if the leader's statistics show that the attack took place. Otherwise the measurement means nothing.
pub(crate) fn has_reached_leader(attack: Attack, statistics: &Statistics) -> bool {
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
            pools.served_handles.peak >= MIN_HANDLES.min(pools.served_handles.limit / 32)
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

/// Returns the reasons for which the attack has succeeded: the limits that the innocent's calls exceed.
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
        let p99 = latency.percentile(99);
        let p99_limit = MIN_P99_LIMIT.max(control.percentile(99) * MAX_RATIO);
        let mut worst_limit = MIN_WORST_LIMIT.max(control.slowest() * MAX_RATIO);
        let mut stalls = 0;
        if may_stall_once {
            stalls = latency.slower_than(worst_limit);
            worst_limit += RECALL_LIMIT;
        }
        if latency.requests() == 0 {
            faults.push(format!("no {kind} have ended"));
        }
        if p99 > p99_limit {
            faults.push(format!(
                "p99 of {kind} is {p99:.1?}, and not {p99_limit:.1?}"
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
