//! A worker: it acquires the value, increments it, and releases it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use libos_ipc::host::HostNode;
use libos_ipc::{Config, Exit};

use crate::common::{ProcessOptions, exit_family, figures, send, stop_at_input_end};
use crate::shared::{HANDLE, Value, WAIT};

/// The interval between two reports of a worker.
const REPORT_INTERVAL: Duration = Duration::from_millis(50);

/// Of this many uses of the value one only reads it.
const READ_EVERY: u64 = 16;

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    process: ProcessOptions,
    /// The worker's number
    #[arg(long)]
    worker: usize,
}

figures!(
    /// The report of a worker: how often it changed and read the value, how often another process
    /// had changed it before, how often the owner had died, the longest wait in µs, and 1 if it
    /// keeps the value.
    Tally { increments, reads, handed_over, deaths, longest_wait_us, is_holding, }
);

pub(crate) fn run(options: &Options) -> Result<()> {
    let process = &options.process;
    let node = HostNode::start(&process.base, process.identity, Config::DEFAULT)?;
    node.join(WAIT)?;
    let value = node.share::<Value>(Some(HANDLE))?;
    // A line of input tells the worker to keep the value when it next gets it.
    let shall_keep = Arc::new(AtomicBool::new(false));
    let stop = stop_at_input_end({
        let shall_keep = Arc::clone(&shall_keep);
        move || shall_keep.store(true, Ordering::Relaxed)
    });
    let mut tally = Tally::default();
    let mut last_report = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let status;
        if fastrand::u64(..READ_EVERY) == 0 {
            let reader = value.read(WAIT).context("reading")?;
            status = reader.status();
            if let Some(fault) = reader.fault() {
                anyhow::bail!("{fault}");
            }
            tally.reads += 1;
        } else {
            let mut writer = value.write(WAIT).context("changing")?;
            status = writer.status();
            // Once another process has changed the value, all earlier increments of this one are
            // safe.
            if shall_keep.load(Ordering::Relaxed) && status.changed {
                tally.is_holding = 1;
                send(&tally);
                writer.increment(options.worker);
                // The leader kills this process here.
                loop {
                    thread::park();
                }
            }
            writer.increment(options.worker);
            tally.increments += 1;
        }
        let took = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        tally.longest_wait_us = tally.longest_wait_us.max(took);
        tally.handed_over += u64::from(status.changed);
        tally.deaths += u64::from(status.owner_died);
        if last_report.elapsed() >= REPORT_INTERVAL {
            last_report = Instant::now();
            send(&tally);
        }
    }
    send(&tally);
    // The close sends its last increments to the leader.
    drop(value);
    exit_family(&node, Exit::default(), WAIT)
}
