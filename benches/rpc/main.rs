//! The cost of a request, beside the least that two processes can do on the same sockets.
//!
//! `cargo bench --bench rpc`. Everything is measured twice: with all processes pinned to one core,
//! where the work determines the time, and unpinned, where waking a sleeping core does. The figures
//! of one row are measured alternately in one run, so that the ratios hold on a noisy machine.

mod clients;
#[path = "../common/mod.rs"]
mod common;
mod counted;
mod events;
mod kill;
mod process;
mod roles;
#[cfg(feature = "secure")]
mod secure;

use std::io::Result;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use libos_ipc::host::{HostNode, raise_descriptor_limit};
use libos_ipc::wire::{IdRange, Message};
use libos_ipc::{Config, Identity, Vmid};

use common::bar::verdict;
use common::process::{pin, unpin};
use common::{Bar, REPETITIONS, WAIT, floor, judged_row, large, median, point, ratio, row};
use process::Family;

/// The numbers of members that are connected and never send a request.
const IDLE: [u32; 4] = [1, 10, 100, 1_000];

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--role") {
        roles::play(&arguments[at + 1..])?;
        return Ok(ExitCode::SUCCESS);
    }
    raise_descriptor_limit()?;
    let cores = unpin()?;
    println!("medians of {REPETITIONS}, {cores} cores");
    for pinned in [true, false] {
        println!(
            "\n{}",
            if pinned {
                "pinned to one core"
            } else {
                "unpinned"
            }
        );
        if pinned {
            pin()?;
        } else {
            unpin()?;
        }
        round_trip(pinned)?;
        #[cfg(feature = "secure")]
        secure::measure(pinned)?;
        one_way()?;
        events::measure(pinned)?;
        idle_connections(pinned)?;
        clients::at_once(pinned)?;
        kill::measure(pinned)?;
    }
    unpin()?;
    println!();
    counted::system_calls()?;
    Ok(common::bar::finish())
}

/// A member in the process of the bench, which measures its requests.
struct Requester {
    node: HostNode,
}

impl Requester {
    fn join(family: &Family, vmid: u32, spin: Duration) -> Result<Requester> {
        let vmid = Vmid::new(vmid).expect("not 0");
        let config = Config {
            spin,
            ..Config::DEFAULT
        };
        let identity = Identity::child(vmid, Vmid::LEADER);
        let node = HostNode::start(family.base(), identity, config)?;
        Ok(Requester { node })
    }

    /// Returns the time of one of `count` requests.
    fn round_trip(&self, count: u32) -> Duration {
        let start = Instant::now();
        for id in 1..=count {
            self.node.owner_of(id, WAIT).expect("the leader answers");
        }
        start.elapsed() / count
    }
}

/// Measures a request to the leader, with sleeping and with spinning waits, beside a bare ping-pong.
fn round_trip(pinned: bool) -> Result<()> {
    let count = if pinned { 10_000 } else { 2_000 };
    let mut floor = floor::PingPong::start(Message::GetIdOwner(1).length())?;
    let sleeping = Family::start(&Config {
        spin: Duration::ZERO,
        ..large()
    })?;
    let spinning = Family::start(&large())?;
    let sleeping_requester = Requester::join(&sleeping, 2, Duration::ZERO)?;
    let spinning_requester = Requester::join(&spinning, 2, Config::DEFAULT.spin)?;
    let mut rows = [const { Vec::new() }; 3];
    for _ in 0..=REPETITIONS {
        rows[0].push(floor.round_trip(count)?);
        rows[1].push(sleeping_requester.round_trip(count));
        rows[2].push(spinning_requester.round_trip(count));
    }
    let [floor, sleeping, spinning] = rows.map(median);
    row(
        "round trip: bare ping-pong, poll before each read",
        floor,
        None,
    );
    row(
        "round trip: look-up at the leader, spin off",
        sleeping,
        Some(floor),
    );
    judged_row(
        "round trip: look-up at the leader",
        spinning,
        floor,
        Some(Bar::AtMost(if pinned { 1.25 } else { 0.5 })),
    );
    let cores = if pinned { "one core" } else { "all cores" };
    point("round trip", "a bare ping-pong", cores, floor);
    point("round trip", "a look-up, spin off", cores, sleeping);
    point("round trip", "a look-up", cores, spinning);
    Ok(())
}

/// Measures frames that have no answer, beside bare writes.
fn one_way() -> Result<()> {
    let count = 200_000;
    let mut floor = floor::OneWay::start()?;
    let family = Family::start(&large())?;
    let requester = Requester::join(&family, 2, Config::DEFAULT.spin)?;
    let frame = Message::ReleaseIdRange(IdRange { start: 1, end: 32 });
    let mut rows = [const { Vec::new() }; 3];
    for _ in 0..=REPETITIONS {
        rows[0].push(floor.writes(count, frame.length())?);
        for (row, is_queued) in [(1, false), (2, true)] {
            let start = Instant::now();
            for _ in 0..count {
                if is_queued {
                    requester
                        .node
                        .queue(Vmid::LEADER, &frame, WAIT)
                        .expect("room");
                } else {
                    requester
                        .node
                        .send(Vmid::LEADER, &frame, WAIT)
                        .expect("room");
                }
            }
            // The answer shows that the leader has handled every frame before it.
            requester
                .node
                .owner_of(1, WAIT)
                .expect("the leader answers");
            rows[row].push(start.elapsed() / count);
        }
    }
    let [floor, sent, queued] = rows.map(median);
    row("one way, 25 bytes: a bare write per frame", floor, None);
    row("one way: sent one by one", sent, Some(floor));
    row("one way: queued", queued, Some(floor));
    let times = ratio(floor, queued);
    println!(
        "    {times:.1} times as many as bare writes  {}",
        verdict(times, Bar::AtLeast(25.0))
    );
    Ok(())
}

/// Measures a request to a leader that has idle connections.
fn idle_connections(pinned: bool) -> Result<()> {
    let count = if pinned { 10_000 } else { 2_000 };
    let families: Vec<Family> = IDLE
        .iter()
        .map(|_| Family::start(&large()))
        .collect::<Result<_>>()?;
    let mut idle = Vec::new();
    let mut requesters = Vec::new();
    for (family, count) in families.iter().zip(IDLE) {
        idle.extend(family.connect_idle_members(count)?);
        requesters.push(Requester::join(family, 2, Config::DEFAULT.spin)?);
    }
    let mut rows = [const { Vec::new() }; IDLE.len()];
    for _ in 0..=REPETITIONS {
        for (row, requester) in rows.iter_mut().zip(&requesters) {
            row.push(requester.round_trip(count));
        }
    }
    let figures = rows.map(median);
    let [_, ten, ..] = figures;
    for (idle, figure) in IDLE.into_iter().zip(figures) {
        let what = format!("with {idle} idle connections");
        if idle > 10 {
            let bar = (idle == 1_000).then_some(Bar::AtMost(1.1));
            judged_row(&what, figure, ten, bar);
        } else {
            row(&what, figure, None);
        }
        if pinned {
            point("members", "a look-up at the leader", idle, figure);
        }
    }
    Ok(())
}
