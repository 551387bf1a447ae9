//! What members count.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result};
use libos_ipc::Statistics;

use crate::common::{Latency, figures};

figures!(
    /// What a member did so far.
    Counts { taken, handed_on, received, looked_up, new_vmids, released, }
);

figures!(
    /// What a member's node says at its end. Of the last four nothing may be left.
    Ending {
        frames_in, frames_out, bytes_in, bytes_out,
        peers, waiters, own_ranges, send_queue,
    }
);

figures!(
    /// A member in mid-work: requests and frames in a second, how long the requests took in
    /// nanoseconds, calls that wait, bytes that wait to be sent.
    Glance { requests, p50, p99, frames_in, frames_out, waiters, queued, }
);

impl From<Statistics> for Ending {
    fn from(statistics: Statistics) -> Self {
        let pools = &statistics.pools;
        Ending {
            frames_in: statistics.frames_in,
            frames_out: statistics.frames_out,
            bytes_in: statistics.bytes_in,
            bytes_out: statistics.bytes_out,
            peers: pools.peers.now as u64,
            waiters: pools.waiters.now as u64,
            own_ranges: pools.own_ranges.now as u64,
            send_queue: pools.send_queue.now as u64,
        }
    }
}

/// What a member says last of all.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    pub(crate) counts: Counts,
    pub(crate) ending: Ending,
    pub(crate) latency: Latency,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {} / {}", self.counts, self.ending, self.latency)
    }
}

impl FromStr for Report {
    type Err = Error;
    fn from_str(line: &str) -> Result<Self> {
        let mut parts = line.splitn(3, '/').map(str::trim);
        let mut part = || parts.next().context("a report has three parts");
        Ok(Report {
            counts: part()?.parse()?,
            ending: part()?.parse()?,
            latency: part()?.parse()?,
        })
    }
}
