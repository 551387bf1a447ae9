//! The cost of a file lock, compared with the host's kernel and with a bare exchange of messages.
//!
//! `cargo bench --bench locks`. The figures of one row are measured alternately in one run.

#[path = "../common/mod.rs"]
mod common;
mod contention;
mod kernel;

use std::io::Result;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use libos_ipc::host::HostNode;
use libos_ipc::wire::{FileLock, LockFamily, LockKind, Message};
use libos_ipc::{Config, Id, Identity, Vmid};

use common::bar::verdict;
use common::process::{Child, pin, ready, unpin, wait_for_the_end};
use common::{Bar, REPETITIONS, WAIT, floor, judged_row, large, median, point, ratio, row};

/// The number of locks that others hold on the file.
const HELD: [u32; 4] = [0, 100, 1_000, 10_000];
/// The bytes between the starts of two of these locks. Each lock is half as long.
const STEP: u64 = 10;
const PATH: &[u8] = b"/var/lib/accounts/table";

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--role") {
        play(&arguments[at + 1..])?;
        return Ok(ExitCode::SUCCESS);
    }
    let cores = unpin()?;
    println!("medians of {REPETITIONS}, {cores} cores");
    pin()?;
    println!("\npinned to one core");
    at_the_leader()?;
    over_streams(true)?;
    contention::measure()?;
    unpin()?;
    println!("\nunpinned");
    over_streams(false)?;
    contention::measure()?;
    Ok(common::bar::finish())
}

/// Runs the role that the command line names.
fn play(role: &[String]) -> Result<()> {
    match role[0].as_str() {
        "leader" => {
            let node = HostNode::start(role[1].as_ref(), Identity::LEADER, large())?;
            node.join(WAIT).expect("it is the leader");
            ready()?;
            wait_for_the_end()?;
            drop(node);
            Ok(())
        }
        "echo" => floor::echo(&role[1], role[2].parse().expect("a number")),
        "holder" => kernel::hold(&role[1], role[2].parse().expect("a number")),
        "contender" => contention::contender(role),
        role => panic!("no role {role}"),
    }
}

pub(crate) fn lock(pid: Id, start: u64, kind: LockKind) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Posix,
        kind,
        start,
        end: start + STEP / 2 - 1,
        pid,
        handle: 0,
        wait: false,
        path: PATH,
    }
}

/// Returns the offsets of the measured locks, which are between those of others and spread over the file.
pub(crate) fn offsets(held: u32) -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..1024)
        .map(|_| random.u64(0..=u64::from(held)) * STEP + STEP / 2)
        .collect()
}

/// Measures how long it takes to set and clear a lock in the leader's own process.
fn at_the_leader() -> Result<()> {
    println!("  set and clear at the leader, with locks held by others on the same file");
    let directory = tempfile::tempdir()?;
    let mut without_others = Duration::ZERO;
    for held in HELD {
        let node = HostNode::start(&directory.path().join("f"), Identity::LEADER, large())?;
        for number in 0..held {
            // A hundred other owners.
            let other = 1_000 + number % 100;
            let lock = lock(other, u64::from(number) * STEP, LockKind::Write);
            node.set_lock(&lock, WAIT).expect("it is free");
        }
        let kernel = kernel::Kernel::new(held)?;
        let offsets = offsets(held);
        let mut rows = [const { Vec::new() }; 2];
        let count = 100_000;
        let kernel_count = if held > 1_000 { 500 } else { 20_000 };
        for _ in 0..=REPETITIONS {
            let start = Instant::now();
            for offset in offsets.iter().cycle().take(count as usize) {
                for kind in [LockKind::Write, LockKind::Unlock] {
                    node.set_lock(&lock(1, *offset, kind), WAIT)
                        .expect("it is free");
                }
            }
            rows[0].push(start.elapsed() / count);
            rows[1].push(kernel.set_and_clear(&offsets, kernel_count)?);
        }
        let [ours, theirs] = rows.map(median);
        if held == 0 {
            without_others = ours;
        }
        row(&format!("{held:>6} locks: the kernel"), theirs, None);
        point("locks", "the kernel's fcntl", held, theirs);
        point("locks", "at the leader", held, ours);
        let bar = match held {
            0 => Some(Bar::AtMost(0.11)),
            10_000 => Some(Bar::AtMost(0.01)),
            _ => None,
        };
        judged_row(&format!("{held:>6} locks: ours"), ours, theirs, bar);
        if held == HELD[HELD.len() - 1] {
            let times = ratio(ours, without_others);
            let verdict = verdict(times, Bar::AtMost(2.5));
            println!("    {times:.2} times that of 0 locks  {verdict}");
        }
    }
    Ok(())
}

/// Measures how long it takes a member to set or to clear a lock: by a request to the leader, and in a delegated file.
fn over_streams(pinned: bool) -> Result<()> {
    let count = if pinned { 5_000 } else { 1_000 };
    let mut floor =
        floor::PingPong::start(Message::FileLockSet(lock(1, 0, LockKind::Write)).length())?;
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let _leader = Child::start(&["leader", base.to_str().expect("UTF-8")])?;
    // One member without delegations, and one that is alone with its file.
    let plain = member(&base, 2, 0)?;
    let with_delegations = member(&base, 3, Config::DEFAULT.capacities.delegated_files)?;
    let mut rows = [const { Vec::new() }; 3];
    for _ in 0..=REPETITIONS {
        rows[0].push(floor.round_trip(count)?);
        rows[1].push(set_and_clear(&plain, PATH, count) / 2);
        rows[2].push(set_and_clear(&with_delegations, b"/var/lib/accounts/index", 10 * count) / 2);
    }
    let [floor, ours, delegated] = rows.map(median);
    row("a lock request: bare ping-pong", floor, None);
    let bar = pinned.then_some(Bar::AtMost(1.3));
    judged_row("a lock request by a member", ours, floor, bar);
    judged_row(
        "the same on a file that is delegated to it",
        delegated,
        ours,
        Some(Bar::AtMost(0.05)),
    );
    Ok(())
}

/// Starts a member that can hold that many delegations.
fn member(base: &Path, vmid: u32, delegated_files: usize) -> Result<HostNode> {
    let vmid = Vmid::new(vmid).expect("not 0");
    let identity = Identity {
        parent: None,
        ..Identity::child(vmid, Vmid::LEADER)
    };
    let mut config = Config::DEFAULT;
    config.capacities.delegated_files = delegated_files;
    let node = HostNode::start(base, identity, config)?;
    node.join(WAIT).expect("there is a leader");
    Ok(node)
}

/// Sets and clears a lock `count` times. Returns the time of one set and one clear.
fn set_and_clear(node: &HostNode, path: &[u8], count: u32) -> Duration {
    let pid = node.pid().expect("it has joined");
    let start = Instant::now();
    for _ in 0..count {
        for kind in [LockKind::Write, LockKind::Unlock] {
            let lock = FileLock {
                path,
                ..lock(pid.get(), 5, kind)
            };
            node.set_lock(&lock, WAIT).expect("it is free");
        }
    }
    start.elapsed() / count
}
