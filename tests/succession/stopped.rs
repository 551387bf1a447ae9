//! A leader in another process that is stopped, and would go on later.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::{Capacities, ChildSelector, Config, Exit, Identity};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::family::{CONFIG, LONG, long, wait_until};

/// The limit is longer than a busy machine stops a process.
const WATCHED: Config = Config {
    stall_limit: Duration::from_secs(1),
    ..CONFIG
};

/// Names the directory of the family to the process that leads.
const BASE: &str = "STOPPED_LEADER_BASE";

/// The program of the process that leads. In any other process the test does nothing.
#[test]
fn leading_process() {
    let Some(base) = std::env::var_os(BASE) else {
        return;
    };
    let leader = HostNode::start(Path::new(&base), Identity::LEADER, WATCHED).unwrap();
    leader.join(long()).unwrap();
    for _ in 0..2 {
        println!("\nchild {}", leader.start_child(long()).unwrap());
    }
    // The test ends it.
    std::thread::sleep(LONG);
}

fn start_leader(base: &Path) -> (Child, [Identity; 2]) {
    let mut leader = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "stopped::leading_process", "--nocapture"])
        .env(BASE, base)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(leader.stdout.take().unwrap()).lines();
    let mut children = lines.filter_map(|line| {
        let line = line.unwrap();
        Some(line.strip_prefix("child ")?.parse().unwrap())
    });
    let children = [(); 2].map(|()| children.next().unwrap());
    (leader, children)
}

fn stop(process: &Child) {
    let pid = Pid::from_child(process);
    kill_process(pid, Signal::STOP).unwrap();
    // The process runs on for a moment after the signal was sent.
    let stopped = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
    assert!(stopped.is_some_and(|(_, status)| status.stopped()));
}

#[test]
fn exit_of_the_heir_that_its_dying_leader_has_not_handled_reaches_the_parent() {
    const LEADS_NEVER: Config = Config {
        capacities: Capacities {
            ranges: CONFIG.capacities.ranges + 1,
            ..CONFIG.capacities
        },
        ..CONFIG
    };
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("f");
    let (mut leader, [child, _]) = start_leader(&base);
    let parent = HostNode::start(&base, child, LEADS_NEVER).unwrap();
    parent.join(long()).unwrap();
    let child = parent.start_child(long()).unwrap();
    let heir = HostNode::start(&base, child, CONFIG).unwrap();
    heir.join(long()).unwrap();
    for node in [&heir, &parent] {
        wait_until("the heir is named", || {
            node.statistics().succession.heir == Some(child.vmid)
        });
    }
    stop(&leader);
    let exit = Exit {
        code: 7,
        ..Exit::default()
    };
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| heir.exit(exit, long()));
        wait_until("the exit has been sent", || {
            heir.pending_calls().next().is_some()
        });
        leader.kill().unwrap();
        leader.wait().unwrap();
        ended.join().unwrap().unwrap();
    });
    let ended = parent.wait_child(ChildSelector::Any, long()).unwrap();
    assert_eq!((ended.code, ended.signal), (7, 0));
}

#[test]
fn stopped_leader_is_ended_for_certain_before_its_heir_leads() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("f");
    let (mut leader, children) = start_leader(&base);
    let [heir, member] = children.map(|child| {
        let node = HostNode::start(&base, child, WATCHED).unwrap();
        node.join(long()).unwrap();
        node
    });
    for node in [&heir, &member] {
        wait_until("the heir is named", || {
            node.statistics().succession.heir == Some(heir.identity().vmid)
        });
    }
    let id = member.take_id(long()).unwrap();
    stop(&leader);
    let owner = member.owner_of(id, long()).unwrap();
    assert_eq!(owner, Some(member.identity().vmid));
    assert_eq!(member.leader(), heir.identity().vmid);
    // The old leader can't wake up any more.
    let _ = kill_process(Pid::from_child(&leader), Signal::CONT);
    let status = leader.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status}");
}

#[test]
fn leader_that_answers_is_not_ended_however_long_it_has_nothing_to_say() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("f");
    let (mut leader, [child, _]) = start_leader(&base);
    let heir = HostNode::start(&base, child, WATCHED).unwrap();
    heir.join(long()).unwrap();
    wait_until("the heir is named", || {
        heir.statistics().succession.heir == Some(child.vmid)
    });
    // Longer than any time without a sign of life, and shorter than that for which the process sleeps.
    std::thread::sleep(2 * WATCHED.stall_limit);
    assert_eq!(leader.try_wait().unwrap(), None);
    assert_eq!(heir.leader(), Identity::LEADER.vmid);
    leader.kill().unwrap();
    leader.wait().unwrap();
}
