//! Signals and metadata of other processes.

use std::ffi::CString;
use std::io::{Result, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use libos_ipc::host::{Host, HostNode};
use libos_ipc::wire::{Message, MetaCode, PidKill};
use libos_ipc::{
    Capacities, Config, Embedder, Identity, Metadata, MetadataReply, Node, PATH_MAX, Pid, Signal,
    SignalReply, Target, Vmid,
};

use crate::Requester;
use crate::common::process::{Child, ready, wait_for_the_end};
use crate::common::{Bar, REPETITIONS, WAIT, floor, judged_row, large, median, point, row};
use crate::process::Family;

/// The number of IDs of the target: a process remembers the owners of fewer.
const IDS: usize = 256;
/// The numbers of members to which a signal for all is sent.
const MEMBERS: [u32; 3] = [1, 10, 100];

/// An embedder that accepts every signal, and answers each request for a path with this one.
struct AcceptAll(CString);

impl Embedder<Host> for AcceptAll {
    fn signal(&self, node: &Node<'_, Host>, _: &Signal, reply: SignalReply) {
        let _ = reply.send(node, Ok(()));
    }

    fn metadata(&self, node: &Node<'_, Host>, _: Pid, _: MetaCode, reply: MetadataReply) {
        let _ = reply.send(node, Ok(Metadata::Path(&self.0)));
    }
}

/// Returns an embedder that answers with a path of 4,000 bytes.
fn accept_all() -> AcceptAll {
    AcceptAll(CString::new("p".repeat(4000)).expect("no NUL"))
}

/// Starts the leader, which accepts every signal.
pub(crate) fn leader(base: &str, config: Config) -> Result<HostNode> {
    HostNode::start_with(
        Path::new(base),
        Identity::LEADER,
        config,
        Box::new(accept_all()),
    )
}

/// Runs a member that has many pids, and prints them.
pub(crate) fn target(base: &str) -> Result<()> {
    let identity = Identity::child(Vmid::new(3).expect("not 0"), Vmid::LEADER);
    let node = HostNode::start_with(Path::new(base), identity, large(), Box::new(accept_all()))?;
    let ids: Vec<String> = (0..IDS)
        .map(|_| node.take_id(WAIT).expect("there are IDs").to_string())
        .collect();
    ready()?;
    println!("{}", ids.join(" "));
    std::io::stdout().flush()?;
    wait_for_the_end()
}

/// Runs a process with `count` members, whose VMIDs are those from `first` on.
pub(crate) fn members(base: &str, first: u32, count: u32) -> Result<()> {
    let config = Config {
        capacities: Capacities {
            peers: 4,
            ..Capacities::DEFAULT
        },
        spin: Duration::ZERO,
        ..Config::DEFAULT
    };
    let mut members = Vec::new();
    for vmid in first..first + count {
        let identity = Identity::child(Vmid::new(vmid).expect("not 0"), Vmid::LEADER);
        let node = HostNode::start_with(Path::new(base), identity, config, Box::new(accept_all()))?;
        node.owner_of(1, WAIT).expect("the leader answers");
        members.push(node);
    }
    ready()?;
    wait_for_the_end()
}

pub(crate) fn measure(pinned: bool) -> Result<()> {
    let kill = Message::PidKill(PidKill {
        sender: 0,
        pid: 0,
        id: 0,
        signal: 0,
        target: libos_ipc::wire::KillTarget::Process,
    });
    let ping_pongs = [
        floor::PingPong::start(kill.length())?,
        floor::PingPong::start(kill.length())?,
    ];
    let family = Family::start(&large())?;
    let base = family.base().to_str().expect("UTF-8");
    let mut target = Child::start(&["target", base])?;
    let line = target.line()?;
    let pids: Vec<Pid> = line
        .split(' ')
        .map(|id| Pid::new(id.parse().expect("an ID")).expect("not 0"))
        .collect();
    let requester = Requester::join(&family, 2, Config::DEFAULT.spin)?;
    let floor = one_target(pinned, &requester.node, &pids, ping_pongs)?;
    signals_for_all(pinned, &requester.node, base, floor)
}

/// Measures signals to the process that has these pids, with a pid whose owner is known or not, and a path of it. Returns
/// the time of a bare ping-pong.
fn one_target(
    pinned: bool,
    node: &HostNode,
    pids: &[Pid],
    [mut ping_pong, mut second]: [floor::PingPong; 2],
) -> Result<Duration> {
    let count = if pinned { 10_000 } else { 2_000 };
    let mut path = [0; PATH_MAX];
    let mut rows = [const { Vec::new() }; 5];
    for _ in 0..=REPETITIONS {
        let [floor, known, unknown, metadata, two] = &mut rows;
        let start = Instant::now();
        for _ in 0..count {
            ping_pong.round_trip(1)?;
            second.round_trip(1)?;
        }
        two.push(start.elapsed() / count);
        floor.push(ping_pong.round_trip(count)?);
        known.push(time_of_call(count, |_| {
            node.kill(Target::Process(pids[0]), 0, WAIT)
        }));
        unknown.push(time_of_call(count, |number| {
            node.kill(Target::Process(pids[number % IDS]), 0, WAIT)
        }));
        metadata.push(time_of_call(count, |_| {
            let length = node.path_of(pids[0], MetaCode::Root, &mut path, WAIT)?;
            assert_eq!(length, 4000);
            Ok(())
        }));
    }
    let [floor, known, unknown, metadata, two] = rows.map(median);
    row("signals: bare ping-pong", floor, None);
    let bar = |most| pinned.then_some(Bar::AtMost(most));
    judged_row("kill, owner known", known, floor, bar(1.3));
    row(
        "a bare ping-pong with each of two processes",
        two,
        Some(floor),
    );
    judged_row("kill, owner unknown", unknown, floor, bar(2.4));
    row("a path of 4,000 bytes", metadata, Some(floor));
    Ok(floor)
}

/// Measures signals for all members of the family at `base`, beside the time of a bare ping-pong.
fn signals_for_all(pinned: bool, node: &HostNode, base: &str, floor: Duration) -> Result<()> {
    for count in MEMBERS {
        // No VMID is used again.
        let first = 1_000 * count;
        // The target of the other signals still lives, and is one of the members.
        let others = (count - 1).to_string();
        let _members = Child::start(&["members", base, &first.to_string(), &others])?;
        let times = (0..=REPETITIONS)
            .map(|_| time_of_call(50, |_| node.kill(Target::All, 10, WAIT)))
            .collect();
        let time = median(times);
        let what = format!("a signal for all, {count} members");
        row(&what, time, Some(floor));
        if pinned {
            point("members", "a signal for all", count, time);
        }
    }
    Ok(())
}

/// Returns the time of one of `count` calls. `call` gets the number of the call.
fn time_of_call(
    count: u32,
    mut call: impl FnMut(usize) -> std::result::Result<(), libos_ipc::Error>,
) -> Duration {
    let start = Instant::now();
    for number in 0..count {
        call(number as usize).expect("the call succeeds");
    }
    start.elapsed() / count
}
