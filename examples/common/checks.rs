//! The checks at the end of a program.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use libos_ipc::pal::Pal;
use libos_ipc::{Node, Refusal};

/// The signal in the exit report of a process that was killed.
pub(crate) const SIGPWR: u32 = 30;

/// The greatest number of faults that are printed one by one.
const MAX_LISTED: usize = 20;

/// The time in which the leader must have released the resources of the members that left.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs the first process of a program, which collects faults, and prints them, or `ok`. An error that `run` returns is
/// the last fault.
pub(crate) fn run_checked(
    program: &str,
    run: impl FnOnce(&mut Vec<String>) -> Result<()>,
) -> ExitCode {
    let mut faults = Vec::new();
    if let Err(error) = run(&mut faults) {
        faults.push(format!("{error:#}"));
    }
    for fault in faults.iter().take(MAX_LISTED) {
        println!("{program}: FAILED: {fault}");
    }
    if faults.len() > MAX_LISTED {
        let more = faults.len() - MAX_LISTED;
        println!("{program}: FAILED: and {more} things more");
    }
    if faults.is_empty() {
        println!("{program}: ok");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Returns the exit code of another process of the program, and prints its error.
pub(crate) fn exit_code(process: &str, outcome: Result<u8>) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{process}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Lists the resources that the leader still has for other members, although all have left, and its
/// refused connections, unless `is_expected` returns true for the reason and their number.
pub(crate) fn leader_faults<P: Pal>(
    leader: &Node<'_, P>,
    is_expected: impl Fn(Refusal, u64) -> bool,
) -> Vec<String> {
    let until = Instant::now() + LIMIT;
    // The kernel reports a death some time later, so the check is repeated.
    let mut faults = unreleased_resources(leader);
    while !faults.is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
        faults = unreleased_resources(leader);
    }
    let statistics = leader.statistics();
    if !leader.check_invariants() {
        faults.push("the leader's tables have lost something".to_owned());
    }
    for reason in Refusal::all() {
        let count = statistics.refused(reason);
        if count > 0 && !is_expected(reason, count) {
            faults.push(format!("the leader refused {count} connections: {reason}"));
        }
    }
    if statistics.rejected_oneway > 0 {
        faults.push(format!(
            "the leader could not do {} of the requests",
            statistics.rejected_oneway
        ));
    }
    faults
}

/// Lists the pools of the leader that are not empty.
fn unreleased_resources<P: Pal>(leader: &Node<'_, P>) -> Vec<String> {
    let pools = leader.statistics().pools;
    [
        (pools.peers.now, "peers"),
        (pools.waiters.now, "waiting calls"),
        (pools.ranges.now, "ID ranges in the table"),
        (pools.own_ranges.now, "ID ranges of its own"),
        (pools.processes.now, "processes"),
        (pools.queued_signals.now, "queued signals"),
        (pools.children.now, "children"),
        (pools.locks.now, "file locks"),
        (pools.locked_files.now, "locked files"),
        (pools.waiting_for_locks.now, "requests for locks"),
        (pools.lock_handles.now, "open files"),
        (pools.delegations.now, "delegations"),
        (pools.served_handles.now, "sync handles"),
        (pools.sync_clients.now, "clients of sync handles"),
        (pools.send_queue.now, "bytes to send"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| {
        format!("the leader still has {count} {what}, {LIMIT:?} after all have left")
    })
    .collect()
}
