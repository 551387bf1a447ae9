//! The time without an answer when the leader is killed.

use std::io::Result;
use std::time::{Duration, Instant};

use libos_ipc::Heirs;
use libos_ipc::host::HostNode;

use crate::common::bar::verdict;
use crate::common::{Bar, WAIT};
use crate::family::{ASKER, CROWD, Family, await_heir};

/// The number of leaders that are killed in each family.
const DEATHS: usize = 100;

/// A family that loses its leader.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// The members besides the leader and the heir.
    pub(crate) members: u32,
    /// The processes that have them.
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
    let asker = family.member(ASKER, 0)?;
    family.add_leader(asker.leader())?;
    let each = members / processes;
    let crowd = (0..processes)
        .map(|number| family.crowd(CROWD + number * each, each))
        .collect::<Result<Vec<_>>>()?;
    let mut outages = Vec::new();
    while outages.len() < DEATHS {
        if !await_heir(&asker) {
            let verdict = verdict(f64::INFINITY, Bar::AtMost(0.0));
            println!(
                "  {members} members: no heir after {} deaths  {verdict}",
                outages.len()
            );
            return Ok(());
        }
        outages.push(outage(&mut family, &asker)?);
        family.add_leader(asker.leader())?;
    }
    drop(crowd);
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

/// Kills the leader while the member asks all the time. Returns the time from the last answer of the old leader
/// to the first one of the new leader.
fn outage(family: &mut Family, asker: &HostNode) -> Result<Duration> {
    let old = asker.leader();
    let ask = || {
        asker
            .owner_of(1, WAIT)
            .expect("there is a leader, or will be");
        Instant::now()
    };
    // The leader dies at any moment of its work.
    let at = Instant::now() + Duration::from_micros(fastrand::u64(..2_000));
    let mut last = ask();
    while last < at {
        last = ask();
    }
    // The old leader is reaped afterwards.
    let _dead = family.kill(old)?;
    // An answer of the old leader may be followed by the change before this looks. So the longest wait counts, up
    // to the one after the change.
    let mut longest = Duration::ZERO;
    let mut after = 0;
    while after < 2 {
        let first = ask();
        longest = longest.max(first - last);
        last = first;
        if asker.leader() != old {
            after += 1;
        }
    }
    Ok(longest)
}
