//! The cost of a shared value, beside a mutex of one process and beside a bare exchange of
//! messages.
//!
//! `cargo bench --bench sync`. The figures of one row are measured alternately in one run.

mod common;

use std::hint::black_box;
use std::io::Result;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use libos_ipc::host::HostNode;
use libos_ipc::wire::{Message, Sync, SyncCode, SyncState};
use libos_ipc::{Config, Identity, Vmid, Wait};

use common::process::{Child, pin, ready, unpin, wait_for_the_end};
use common::{Bar, REPETITIONS, WAIT, floor, judged_row, large, median, row};

/// The number of members that read a value that another one writes.
const READERS: u32 = 100;
/// The messages of one hand-over: a request and its confirmation, and the server's revocation of
/// the lease and its confirmation.
const MESSAGES: f64 = 4.0;
/// The number of the sync handle of the shared value.
const HANDLE: u64 = 7;
/// The length of a measurement.
const TIME: Duration = Duration::from_millis(500);

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
    uncontended()?;
    hand_over(true, true)?;
    hand_over(true, false)?;
    ping_pong(true)?;
    fan_out()?;
    unpin()?;
    println!("\nunpinned");
    hand_over(false, true)?;
    hand_over(false, false)?;
    ping_pong(false)?;
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
        "contender" => {
            let vmid = role[2].parse().expect("a number");
            contend(role[1].as_ref(), vmid, role[3] == "alternate")
        }
        "semaphores" => {
            let vmid = role[2].parse().expect("a number");
            play_ping_pong(role[1].as_ref(), vmid, &role[3])
        }
        role => panic!("no role {role}"),
    }
}

/// Starts a member in this process.
fn member(base: &Path, vmid: u32) -> Result<HostNode> {
    let identity = Identity {
        parent: None,
        ..Identity::child(Vmid::new(vmid).expect("not 0"), Vmid::LEADER)
    };
    let node = HostNode::start(base, identity, Config::DEFAULT)?;
    node.join(WAIT).expect("there is a leader");
    Ok(node)
}

/// Measures a value that no other process uses, beside a mutex.
fn uncontended() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let _leader = Child::start(&["leader", base.to_str().expect("UTF-8")])?;
    let node = member(&base, 2)?;
    let value = node.share::<u64>(Some(HANDLE)).expect("there is room");
    let mutex = Mutex::new(0_u64);
    let count = 200_000;
    let mut rows = [const { Vec::new() }; 3];
    for _ in 0..=REPETITIONS {
        let start = Instant::now();
        for _ in 0..count {
            *black_box(&mutex).lock().expect("not poisoned") += 1;
        }
        rows[0].push(start.elapsed() / (count / 100));
        let start = Instant::now();
        for _ in 0..count {
            *black_box(&value)
                .write(WAIT)
                .expect("no other process holds it") += 1;
        }
        rows[1].push(start.elapsed() / (count / 100));
        let start = Instant::now();
        for _ in 0..count {
            black_box(
                *black_box(&value)
                    .read(WAIT)
                    .expect("no other process holds it"),
            );
        }
        rows[2].push(start.elapsed() / (count / 100));
    }
    let [mutex, write, read] = rows.map(median);
    row("lock and unlock a std::sync::Mutex, 100 times", mutex, None);
    judged_row(
        "change a shared value",
        write,
        mutex,
        Some(Bar::AtMost(3.0)),
    );
    row("read it", read, Some(mutex));
    Ok(())
}

/// Changes the value as often as possible or, if it `alternates`, after each change by the other process. Prints how
/// often it did, and how often the other process had changed the value before.
fn contend(base: &Path, vmid: u32, alternates: bool) -> Result<()> {
    let node = member(base, vmid)?;
    let handle = node.open_sync(Some(HANDLE)).expect("there is room");
    let mut number = [0; 8];
    let mut change_once = |change: bool| {
        let outcome = node.lock_sync(handle, SyncState::Exclusive, &mut number, WAIT);
        let (_, status) = outcome.expect("there is a leader");
        let next = u64::from_le_bytes(number).wrapping_add(1).to_le_bytes();
        let data = change.then_some(&next[..]);
        // The change itself counts once.
        let seen = node
            .sync_changes(handle)
            .expect("it is open")
            .wrapping_add(1);
        node.unlock_sync(handle, SyncState::Exclusive, data)
            .expect("it is ours");
        (status.changed, seen)
    };
    change_once(false);
    ready()?;
    std::io::stdin().read_line(&mut String::new())?;
    let start = Instant::now();
    let (mut count, mut handed_over) = (0_u32, 0_u32);
    while start.elapsed() < TIME {
        let (changed, seen) = change_once(true);
        handed_over += u32::from(changed);
        count += 1;
        if alternates {
            // The other process may have ended.
            let _ = node.wait_sync(handle, seen, Wait::at_most(TIME));
        }
    }
    println!("{count} {handed_over}");
    node.close_sync(handle, WAIT).expect("it is ours");
    node.shut_down(Duration::from_secs(1));
    Ok(())
}

/// Measures two members that change the value: alternately, or as often as each can.
fn hand_over(pinned: bool, alternates: bool) -> Result<()> {
    let message = Message::Sync(
        SyncCode::ConfirmUpgrade,
        Sync {
            id: HANDLE,
            state: SyncState::Exclusive,
            data: &[0; 8],
        },
    );
    let mut floor = floor::PingPong::start(message.length())?;
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let text = base.to_str().expect("UTF-8");
    let _leader = Child::start(&["leader", text])?;
    let mode = if alternates { "alternate" } else { "contend" };
    let mut rows = [const { Vec::new() }; 2];
    let mut changes_per_hand_over = Vec::new();
    for round in 0..=REPETITIONS {
        rows[0].push(floor.round_trip(if pinned { 5_000 } else { 1_000 })?);
        let vmids = [2, 3].map(|vmid| (u32::try_from(round).expect("few") * 2 + vmid).to_string());
        let mut contenders = [
            Child::start(&["contender", text, &vmids[0], mode])?,
            Child::start(&["contender", text, &vmids[1], mode])?,
        ];
        for contender in &mut contenders {
            contender.tell("go")?;
        }
        let (mut changes, mut handed_over) = (0, 0);
        for contender in &mut contenders {
            let line = contender.line()?;
            let (count, received) = line.split_once(' ').expect("two numbers");
            changes += count.parse::<u32>().expect("a number");
            handed_over += received.parse::<u32>().expect("a number");
        }
        rows[1].push(TIME / handed_over.max(1));
        changes_per_hand_over.push(f64::from(changes) / f64::from(handed_over.max(1)));
    }
    let [floor, ours] = rows.map(median);
    row(
        "a hand-over between two: half a bare ping-pong",
        floor / 2,
        None,
    );
    let what = if alternates {
        "a hand-over between two members"
    } else {
        "two that take it as fast as they can"
    };
    let bar = alternates.then_some(Bar::AtMost(MESSAGES * 1.2));
    judged_row(what, ours, floor / 2, bar);
    changes_per_hand_over.sort_by(f64::total_cmp);
    println!(
        "    {:.0} hand-overs a second, {:.2} changes for each",
        1.0 / ours.as_secs_f64(),
        changes_per_hand_over[changes_per_hand_over.len() / 2]
    );
    Ok(())
}

/// Runs one of two members, each of which acquires a semaphore that the other releases, and prints how often it has acquired
/// its own. `mode` has the words `first` for the member that begins, and `plain` for semaphores that are made of two calls on a
/// shared number, and not those of the crate.
fn play_ping_pong(base: &Path, vmid: u32, mode: &str) -> Result<()> {
    let node = member(base, vmid)?;
    let (begins, of_two_calls) = (mode.contains("first"), mode.contains("plain"));
    let ids = if begins { [8, 9] } else { [9, 8] };
    let semaphores = ids.map(|id| node.open_semaphore(Some(id), 0).expect("there is room"));
    let numbers = ids.map(|id| node.share::<u64>(Some(id + 10)).expect("there is room"));
    let acquire = |wait| {
        if !of_two_calls {
            return semaphores[0].acquire(wait);
        }
        loop {
            drop(numbers[0].wait_for(wait, |number| *number > 0)?);
            let mut number = numbers[0].write(wait)?;
            if *number > 0 {
                *number -= 1;
                return Ok(());
            }
        }
    };
    let release = || {
        if of_two_calls {
            *numbers[1].write(WAIT).expect("there is a leader") += 1;
        } else {
            semaphores[1].release(WAIT).expect("there is a leader");
        }
    };
    ready()?;
    std::io::stdin().read_line(&mut String::new())?;
    let (start, mut acquisitions) = (Instant::now(), 0_u32);
    while start.elapsed() < TIME || !begins {
        if begins {
            release();
        }
        // The other one has ended if this takes long.
        if acquire(Wait::at_most(TIME)).is_err() {
            break;
        }
        if !begins {
            release();
        }
        acquisitions += 1;
    }
    println!("{acquisitions}");
    drop((semaphores, numbers));
    node.shut_down(Duration::from_secs(1));
    Ok(())
}

/// A ping-pong of two members with two semaphores, beside the exchange of a shared value between
/// them: each release and each acquisition that wakes moves a value to the other process.
fn ping_pong(pinned: bool) -> Result<()> {
    let mut floor = floor::PingPong::start(64)?;
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let text = base.to_str().expect("UTF-8");
    let _leader = Child::start(&["leader", text])?;
    let mut vmid = 2;
    // Runs two processes, and returns the last number that each prints.
    let mut run_pair = |roles: [(&str, &str); 2]| -> Result<[u32; 2]> {
        let mut children = Vec::new();
        for (role, mode) in roles {
            children.push(Child::start(&[role, text, &vmid.to_string(), mode])?);
            vmid += 1;
        }
        for child in &mut children {
            child.tell("go")?;
        }
        let mut counts = [0; 2];
        for (child, count) in children.iter_mut().zip(&mut counts) {
            let line = child.line()?;
            let last = line.split(' ').next_back().expect("a number");
            *count = last.parse().expect("a number");
        }
        Ok(counts)
    };
    let mut rows = [const { Vec::new() }; 4];
    for _ in 0..=REPETITIONS {
        rows[0].push(floor.round_trip(if pinned { 5_000 } else { 1_000 })?);
        let exchanges = run_pair([("contender", "alternate"); 2])?;
        rows[1].push(TIME / exchanges.iter().sum::<u32>().max(1));
        let acquisitions = run_pair([("semaphores", "first"), ("semaphores", "second")])?;
        rows[2].push(TIME / acquisitions[0].max(1));
        let acquisitions = run_pair([
            ("semaphores", "first plain"),
            ("semaphores", "second plain"),
        ])?;
        rows[3].push(TIME / acquisitions[0].max(1));
    }
    let [floor, exchange, ours, plain] = rows.map(median);
    row("a bare ping-pong", floor, None);
    row(
        "an exchange: a hand-over there and one back",
        2 * exchange,
        None,
    );
    let what = "a ping-pong with two semaphores";
    judged_row(what, ours, 2 * exchange, Some(Bar::AtMost(4.0)));
    row(
        "the same with wait_for and write",
        plain,
        Some(2 * exchange),
    );
    row(what, ours, Some(floor));
    Ok(())
}

/// Measures one member that changes the value, while many read it.
fn fan_out() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let _leader = Child::start(&["leader", base.to_str().expect("UTF-8")])?;
    let nodes: Result<Vec<HostNode>> = (2..READERS + 3).map(|vmid| member(&base, vmid)).collect();
    let nodes = nodes?;
    let values: Vec<_> = nodes
        .iter()
        .map(|node| node.share::<u64>(Some(HANDLE)).expect("there is room"))
        .collect();
    let (writer, readers) = values.split_first().expect("some");
    let mut rows = [const { Vec::new() }; 2];
    for _ in 0..=REPETITIONS {
        let start = Instant::now();
        *writer.write(WAIT).expect("there is a leader") += 1;
        rows[0].push(start.elapsed());
        let start = Instant::now();
        for reader in readers {
            drop(reader.read(WAIT).expect("there is a leader"));
        }
        rows[1].push(start.elapsed() / READERS);
    }
    let [write, read] = rows.map(median);
    row(&format!("change what {READERS} members read"), write, None);
    row("then each of them reads it", read, None);
    Ok(())
}
