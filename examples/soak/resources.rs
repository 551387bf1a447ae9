//! The memory and descriptors of this process, and checks that they do not grow.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The allowed growth of memory in bytes: that of the allocator, by threads that start and end.
const ALLOWED_GROWTH: u64 = 2 << 20;

/// The interval of samples.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);

/// The time in which the streams of all processes must be closed after the last has ended.
const CLOSE_LIMIT: Duration = Duration::from_secs(20);

/// Memory and descriptors of this process.
pub(crate) struct Resources {
    /// The length of the run.
    time: Duration,
    /// The time of the next sample, from the beginning of the run on.
    next_sample: Duration,
    /// The resident memory in bytes, and the number of descriptors, in the last sample.
    pub(crate) memory: u64,
    pub(crate) descriptors: usize,
    /// The greatest memory in the first quarter of the time, or that of the first sample, and the greatest in the last quarter.
    peak_at_first: u64,
    peak_at_last: u64,
    /// The number of descriptors before the first process.
    initial_descriptors: usize,
}

impl Resources {
    pub(crate) fn new(time: Duration) -> Result<Resources> {
        let descriptors = descriptors()?;
        Ok(Resources {
            time,
            next_sample: Duration::ZERO,
            memory: memory()?,
            descriptors,
            peak_at_first: 0,
            peak_at_last: 0,
            initial_descriptors: descriptors,
        })
    }

    /// Takes a sample if its time has come.
    pub(crate) fn sample(&mut self, elapsed: Duration) -> Result<()> {
        if elapsed < self.next_sample {
            return Ok(());
        }
        self.next_sample = elapsed + SAMPLE_INTERVAL;
        (self.memory, self.descriptors) = (memory()?, descriptors()?);
        // The first processes start before the first sample, which takes longer than a quarter on a busy machine.
        if self.peak_at_first == 0 || elapsed < self.time / 4 {
            self.peak_at_first = self.peak_at_first.max(self.memory);
        } else if elapsed > self.time / 4 * 3 {
            self.peak_at_last = self.peak_at_last.max(self.memory);
        }
        Ok(())
    }

    /// Returns the faults when all processes have ended. `more_descriptors` is the number of descriptors that may be open
    /// besides those of the beginning.
    pub(crate) fn final_faults(&self, more_descriptors: usize) -> Vec<String> {
        let mut faults = Vec::new();
        let allowed = self.initial_descriptors..=self.initial_descriptors + more_descriptors;
        let is_right =
            |found: &Result<usize>| found.as_ref().is_ok_and(|now| allowed.contains(now));
        // The node closes the streams of a process some time after its end, so the check is repeated.
        let until = Instant::now() + CLOSE_LIMIT;
        let mut found = descriptors();
        while !is_right(&found) && Instant::now() < until {
            sleep(Duration::from_millis(5));
            found = descriptors();
        }
        if !is_right(&found) {
            faults.push(format!(
                "{found:?} descriptors are open, and there were {} at first",
                self.initial_descriptors
            ));
        }
        if self.peak_at_last > self.peak_at_first + ALLOWED_GROWTH {
            faults.push(format!(
                "the memory has grown from {} to {} bytes",
                self.peak_at_first, self.peak_at_last
            ));
        }
        faults
    }
}

/// Returns the resident memory of this process, in bytes.
fn memory() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kibibytes: u64 = kibibytes.context("no VmRSS")?.parse()?;
    Ok(kibibytes * 1024)
}

/// Returns the number of open descriptors, without the one for reading them.
fn descriptors() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count() - 1)
}
