//! The leader alone, for members of any kind.

use std::fmt;
use std::io::stdout;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libos_ipc::host::{HostNode, raise_descriptor_limit};
use libos_ipc::{Capacities, Config, Identity, Refusal, Statistics};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::common::print_line;

/// The interval at which changes are printed.
const PRINT_INTERVAL: Duration = Duration::from_secs(1);

/// The time for which the leader waits at the end until members have read the remaining frames.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);

pub(crate) fn run(base: &Path, quiet: bool, wrap_ids: bool) -> Result<()> {
    // The handler is set before any process can know of this one, so no signal comes too early.
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("waiting for signals")?;
    let (sender, end_signals) = mpsc::channel();
    thread::spawn(move || {
        for signal in signals.forever() {
            let _ = sender.send(signal);
        }
    });
    let descriptors = raise_descriptor_limit().context("raising the limit of descriptors")?;
    let config = Config {
        capacities: Capacities::LARGE,
        wrap_ids,
        ..Config::DEFAULT
    };
    let leader = HostNode::start(base, Identity::LEADER, config)?;

    let output = Output {
        quiet,
        begin: Instant::now(),
    };
    output.print_line(format_args!(
        "leading as member 1, listening at {}.1",
        base.display()
    ));
    if !leader.pal().directory_is_private() {
        output.print_line(
            "note: others can write to that directory: they can't get in, but in the way",
        );
    }
    let peers = config.capacities.peers as u64;
    if descriptors / 2 < peers {
        output.print_line(format_args!(
            "note: {descriptors} descriptors are enough for about {} members at once, not for {peers}",
            descriptors / 2
        ));
    }

    let mut last = leader.statistics();
    let signal = loop {
        match end_signals.recv_timeout(PRINT_INTERVAL) {
            Ok(signal) => break signal,
            Err(RecvTimeoutError::Timeout) => {
                let now = leader.statistics();
                output.print_changes(&last, &now);
                last = now;
            }
            Err(RecvTimeoutError::Disconnected) => break SIGTERM,
        }
    };
    output.print_changes(&last, &leader.statistics());
    output.print_line(format_args!(
        "ending: {}",
        if signal == SIGINT {
            "SIGINT"
        } else {
            "SIGTERM"
        }
    ));
    let end = leader.statistics();
    if !leader.shut_down(LEAVE_LIMIT) {
        output.print_line("note: not every member read all that was sent to it");
    }
    output.print_totals(&end);
    // Dropping the node removes the socket file.
    drop(leader);
    Ok(())
}

/// The output of the leader.
struct Output {
    quiet: bool,
    /// The time that the times in the output count from.
    begin: Instant,
}

impl Output {
    fn print_line(&self, what: impl fmt::Display) {
        if !self.quiet {
            let line = format!("{:>9.3} s  {what}", self.begin.elapsed().as_secs_f64());
            // The members are not affected if the output is not read.
            let _ = print_line(&mut stdout().lock(), &line);
        }
    }

    /// Prints the members that connected and disconnected, and refused connections.
    fn print_changes(&self, last: &Statistics, now: &Statistics) {
        let (accepted, disconnected) = (
            now.accepted - last.accepted,
            now.disconnects - last.disconnects,
        );
        if accepted + disconnected > 0 {
            self.print_line(format_args!(
                "{accepted} connections came, {disconnected} members went: {} are here, with {} ID ranges",
                now.pools.peers.now, now.pools.ranges.now
            ));
        }
        for reason in Refusal::all() {
            let count = now.refused(reason) - last.refused(reason);
            if count > 0 {
                self.print_line(format_args!("refused {count}: {reason}"));
            }
        }
    }

    /// Prints the figures of the whole run.
    fn print_totals(&self, end: &Statistics) {
        let pools = &end.pools;
        self.print_line(format_args!(
            "in all: {} connections, {} refused, at most {} members at once",
            end.accepted,
            end.refused_total(),
            pools.peers.peak
        ));
        self.print_line(format_args!(
            "frames: {} in, {} out; bytes: {} in, {} out; unknown {}, could not be done {}, held back {}",
            end.frames_in, end.frames_out, end.bytes_in, end.bytes_out, end.unknown_codes, end.rejected_oneway, end.paused_reads
        ));
        self.print_line(format_args!(
            "ID ranges: {} when it ended, at most {} of {}",
            pools.ranges.now, pools.ranges.peak, pools.ranges.limit
        ));
    }
}
