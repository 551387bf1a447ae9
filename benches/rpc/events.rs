//! The cost of recording the last events.

use std::io::Result;
use std::path::Path;
use std::time::{Duration, Instant};

use libos_ipc::host::HostNode;
use libos_ipc::wire::{IdRange, Message};
use libos_ipc::{Capacities, Config, Identity, Vmid};

use crate::common::{Bar, REPETITIONS, WAIT, judged_row, median, row};

/// A leader and a member in this process.
struct Pair {
    // The member is dropped first.
    member: HostNode,
    _leader: HostNode,
}

impl Pair {
    /// Starts both. Each keeps that many events.
    fn start(base: &Path, events: usize) -> Result<Pair> {
        let config = Config {
            capacities: Capacities {
                events,
                ..Capacities::DEFAULT
            },
            ..Config::DEFAULT
        };
        let leader = HostNode::start(base, Identity::LEADER, config)?;
        let second = Vmid::new(2).expect("not 0");
        let member = HostNode::start(base, Identity::child(second, Vmid::LEADER), config)?;
        Ok(Pair {
            member,
            _leader: leader,
        })
    }

    fn round_trip(&self, count: u32) -> Duration {
        let start = Instant::now();
        for id in 1..=count {
            self.member.owner_of(id, WAIT).expect("the leader answers");
        }
        start.elapsed() / count
    }

    /// Sends frames with one event at each end, and little else.
    fn queued(&self, count: u32) -> Duration {
        let frame = Message::ReleaseIdRange(IdRange { start: 1, end: 32 });
        let start = Instant::now();
        for _ in 0..count {
            self.member.queue(Vmid::LEADER, &frame, WAIT).expect("room");
        }
        self.member.owner_of(1, WAIT).expect("the leader answers");
        start.elapsed() / count
    }
}

pub(crate) fn measure(pinned: bool) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let without = Pair::start(&directory.path().join("without"), 0)?;
    let with = Pair::start(&directory.path().join("with"), Capacities::DEFAULT.events)?;
    let mut rows = [const { Vec::new() }; 4];
    let count = if pinned { 10_000 } else { 2_000 };
    for _ in 0..=REPETITIONS {
        rows[0].push(without.round_trip(count));
        rows[1].push(with.round_trip(count));
        rows[2].push(without.queued(200_000));
        rows[3].push(with.queued(200_000));
    }
    let [without, with, queued_without, queued_with] = rows.map(median);
    row("round trip, no events kept", without, None);
    judged_row(
        "round trip, 7 events kept",
        with,
        without,
        Some(Bar::AtMost(1.02)),
    );
    row("frame that is queued, no events kept", queued_without, None);
    row("the same, 2 events kept", queued_with, Some(queued_without));
    let nanoseconds = (queued_with.as_secs_f64() - queued_without.as_secs_f64()) * 1e9 / 2.0;
    println!("  an event takes {nanoseconds:.1} ns");
    Ok(())
}
