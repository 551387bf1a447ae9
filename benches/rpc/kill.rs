//! Signals and metadata of other processes.

use std::ffi::CString;
use std::io::{Result, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use libos_ipc::host::{Host, HostNode};
use libos_ipc::wire::{Message, MetaCode, PidKill};
use libos_ipc::{
    Capacities, Config, Embedder, Id, Identity, Metadata, MetadataReply, Node, PATH_MAX, Pid,
    Signal, SignalReply, Target, Vmid,
};

use crate::Asker;
use crate::common::process::{Child, ready, wait_for_the_end};
use crate::common::{Bar, REPETITIONS, WAIT, floor, judged_row, large, median, point, row};
use crate::process::Family;

/// The number of IDs: more than a process remembers the owners of.
const IDS: usize = 256;
/// The numbers of members that a signal for all goes to.
const MEMBERS: [u32; 3] = [1, 10, 100];

/// An embedder that accepts every signal, and answers with a long path.
struct AcceptAll(CString);

impl Embedder<Host> for AcceptAll {
    fn signal(&self, node: &Node<'_, Host>, _: &Signal, reply: SignalReply) {
        let _ = reply.send(node, Ok(()));
    }

    fn metadata(&self, node: &Node<'_, Host>, _: Pid, _: MetaCode, reply: MetadataReply) {
        let _ = reply.send(node, Ok(Metadata::Path(&self.0)));
    }
}

fn accept_all() -> AcceptAll {
    AcceptAll(CString::new("p".repeat(4000)).expect("no NUL"))
}

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

/// Members with the VMIDs from `first` on.
pub(crate) fn crowd(base: &str, first: u32, count: u32) -> Result<()> {
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
    let count = if pinned { 10_000 } else { 2_000 };
    let kill = Message::PidKill(PidKill {
        sender: 0,
        pid: 0,
        id: 0,
        signal: 0,
        target: libos_ipc::wire::KillTarget::Process,
    });
    let mut floor = floor::PingPong::start(kill.length())?;
    let mut second = floor::PingPong::start(kill.length())?;
    let family = Family::start(&large())?;
    let base = family.base().to_str().expect("UTF-8");
    let mut other = Child::start(&["target", base])?;
    let line = other.line()?;
    let ids: Vec<Id> = line
        .split(' ')
        .map(|id| id.parse().expect("an ID"))
        .collect();
    let asker = Asker::join(&family, 2, Config::DEFAULT.spin)?;
    let mut path = [0; PATH_MAX];
    let mut rows = [const { Vec::new() }; 5];
    for _ in 0..=REPETITIONS {
        let start = Instant::now();
        for _ in 0..count {
            floor.round_trip(1)?;
            second.round_trip(1)?;
        }
        rows[4].push(start.elapsed() / count);
        rows[0].push(floor.round_trip(count)?);
        let known = Target::Process(Pid::new(ids[0]).unwrap());
        rows[1].push(each(count, |_| asker.0.kill(known, 0, WAIT)));
        rows[2].push(each(count, |at| {
            asker
                .0
                .kill(Target::Process(Pid::new(ids[at % IDS]).unwrap()), 0, WAIT)
        }));
        rows[3].push(each(count, |_| {
            let length =
                asker
                    .0
                    .path_of(Pid::new(ids[0]).unwrap(), MetaCode::Root, &mut path, WAIT)?;
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
    for count in MEMBERS {
        // No VMID is used again.
        let first = 1_000 * count;
        // The target is one of the members.
        let others = (count - 1).to_string();
        let _crowd = Child::start(&["crowd", base, &first.to_string(), &others])?;
        let signals = (0..=REPETITIONS)
            .map(|_| each(50, |_| asker.0.kill(Target::All, 10, WAIT)))
            .collect();
        let all = median(signals);
        let what = format!("a signal for all, {count} members");
        row(&what, all, Some(floor));
        if pinned {
            point("members", "a signal for all", count, all);
        }
    }
    Ok(())
}

fn each(
    count: u32,
    mut call: impl FnMut(usize) -> std::result::Result<(), libos_ipc::Error>,
) -> Duration {
    let start = Instant::now();
    for at in 0..count {
        call(at as usize).expect("it is done");
    }
    start.elapsed() / count
}
