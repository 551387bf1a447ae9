//! The counts of members, and the figures of their nodes.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result};
use libos_ipc::Statistics;

use crate::common::{Latency, figures};

figures!(
    /// The counts of a member so far.
    Counts { taken, transferred, received, looked_up, new_vmids, released, }
);

figures!(
    /// The figures of a member's node at its end: the traffic, and the usage of its pools, which must be 0.
    Ending {
        frames_in, frames_out, bytes_in, bytes_out,
        peers, waiters, own_ranges, send_queue,
    }
);

figures!(
    /// The figures of a working member: requests and frames per second, the latencies of requests
    /// in nanoseconds, the number of waiting calls, and that of bytes that wait to be sent.
    Rates { requests, p50, p99, frames_in, frames_out, waiters, queued, }
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

/// The last message of a member.
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
