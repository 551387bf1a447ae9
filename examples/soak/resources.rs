//! What this process takes of the machine, and whether that grows.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// What the memory may grow by: the allocator's own, of threads that come and go.
const GROWTH: u64 = 2 << 20;

/// How often to look.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);

/// Memory and descriptors of this process.
pub(crate) struct Resources {
    time: Duration,
    next_look: Duration,
    pub(crate) memory: u64,
    pub(crate) descriptors: usize,
    /// The most memory in the first and in the last quarter of the time.
    early: u64,
    late: u64,
    /// Descriptors before anybody came.
    at_first: usize,
}

impl Resources {
    pub(crate) fn new(time: Duration) -> Result<Resources> {
        let descriptors = descriptors()?;
        Ok(Resources {
            time,
            next_look: Duration::ZERO,
            memory: memory()?,
            descriptors,
            early: 0,
            late: 0,
            at_first: descriptors,
        })
    }

    pub(crate) fn look(&mut self, elapsed: Duration) -> Result<()> {
        if elapsed < self.next_look {
            return Ok(());
        }
        self.next_look = elapsed + SAMPLE_EVERY;
        (self.memory, self.descriptors) = (memory()?, descriptors()?);
        if elapsed < self.time / 4 {
            self.early = self.early.max(self.memory);
        } else if elapsed > self.time / 4 * 3 {
            self.late = self.late.max(self.memory);
        }
        Ok(())
    }

    /// When all have gone. `kept` is how many calls of this process ever waited at once: the event that
    /// wakes such one is kept for the next.
    pub(crate) fn verdict(&self, kept: usize) -> Vec<String> {
        let mut wrong = Vec::new();
        match descriptors() {
            Ok(now) if (self.at_first..=self.at_first + kept).contains(&now) => {}
            now => wrong.push(format!(
                "{now:?} descriptors are open, and there were {} at first",
                self.at_first
            )),
        }
        if self.late > self.early + GROWTH {
            wrong.push(format!(
                "the memory has grown from {} to {} bytes",
                self.early, self.late
            ));
        }
        wrong
    }
}

/// The memory of this process that is there, in bytes.
fn memory() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kibibytes: u64 = kibibytes.context("no VmRSS")?.parse()?;
    Ok(kibibytes * 1024)
}

/// How many descriptors are open, but for that which looks.
fn descriptors() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count() - 1)
}
