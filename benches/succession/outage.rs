//! The time without an answer when the leader is killed.

use std::io::Result;
use std::time::{Duration, Instant};

use libos_ipc::Heirs;
use libos_ipc::host::HostNode;

use crate::common::bar::verdict;
use crate::common::{Bar, WAIT};
use crate::family::{FIRST_MEMBER, Family, OBSERVER, await_heir};

/// The number of leaders that are killed in each family.
const DEATHS: usize = 100;

/// The size of a family that loses its leader, and its limits.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// The members besides the leader and the heir.
    pub(crate) members: u32,
    /// The number of processes in which these members live.
    processes: u32,
    /// The limits of the outage, for half of the deaths, and for 99 of 100.
    p50: Option<Duration>,
    p99: Option<Duration>,
}

pub(crate) const SIZES: [Size; 3] = [
    Size {
        members: 8,
        processes: 8,
        p50: Some(Duration::from_millis(5)),
        p99: Some(Duration::from_millis(10)),
    },
    Size {
        members: 64,
        processes: 64,
        p50: Some(Duration::from_millis(5)),
        p99: Some(Duration::from_millis(10)),
    },
    Size {
        members: 1_000,
        processes: 8,
        p50: Some(Duration::from_millis(100)),
        p99: None,
    },
];

/// Kills leaders, and prints how long there was no answer.
pub(crate) fn measure(size: Size) -> Result<()> {
    let Size {
        members, processes, ..
    } = size;
    let mut family = Family::start(members, Heirs::Any)?;
    let observer = family.member(OBSERVER, 0)?;
    family.add_leader(observer.leader())?;
    let each = members / processes;
    let followers = (0..processes)
        .map(|number| family.start_members(FIRST_MEMBER + number * each, each))
        .collect::<Result<Vec<_>>>()?;
    let mut outages = Vec::new();
    while outages.len() < DEATHS {
        if !await_heir(&observer) {
            let verdict = verdict(f64::INFINITY, Bar::AtMost(0.0));
            println!(
                "  {members} members: no heir after {} deaths  {verdict}",
                outages.len()
            );
            return Ok(());
        }
        outages.push(outage(&mut family, &observer)?);
        family.add_leader(observer.leader())?;
    }
    drop(followers);
    outages.sort_unstable();
    let percentile = |percent: usize| outages[(outages.len() * percent).div_ceil(100) - 1];
    println!(
        "  {members} members in {processes} processes, {DEATHS} dead leaders: {:.2} to {:.2} ms",
        milliseconds(percentile(1)),
        milliseconds(percentile(100))
    );
    for (percent, limit) in [(50, size.p50), (99, size.p99)] {
        let figure = percentile(percent);
        let verdict =
            limit.map(|limit| verdict(milliseconds(figure), Bar::AtMost(milliseconds(limit))));
        println!(
            "    p{percent} {:.2} ms  {}",
            milliseconds(figure),
            verdict.unwrap_or_default()
        );
    }
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Kills the leader while the member sends look-ups all the time. Returns the time from the last answer of the old leader
/// to the first one of the new leader.
fn outage(family: &mut Family, observer: &HostNode) -> Result<Duration> {
    let old = observer.leader();
    // Returns the time of the answer.
    let look_up = || {
        observer
            .owner_of(1, WAIT)
            .expect("there is a leader, or will be");
        Instant::now()
    };
    // The leader dies at any moment of its work.
    let kill_at = Instant::now() + Duration::from_micros(fastrand::u64(..2_000));
    let mut last = look_up();
    while last < kill_at {
        last = look_up();
    }
    // The old leader is reaped afterwards.
    let _dead = family.kill(old)?;
    // The node may name the new leader already after an answer of the old one. So the longest wait counts, up to the one
    // after the change.
    let mut longest = Duration::ZERO;
    let mut answers_after_change = 0;
    while answers_after_change < 2 {
        let first = look_up();
        longest = longest.max(first - last);
        last = first;
        if observer.leader() != old {
            answers_after_change += 1;
        }
    }
    Ok(longest)
}
