//! The trace of a run: a hash of all events, and their text if the options ask for it.

use std::fmt::Arguments;

/// The trace of one run.
#[derive(Default)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    keeps_lines: bool,
    /// The text of the events, which is long; empty unless `keeps_lines`.
    lines: Vec<String>,
}

impl Trace {
    pub(crate) fn new(keeps_lines: bool) -> Trace {
        Trace {
            keeps_lines,
            ..Trace::default()
        }
    }

    /// Records an event that two runs of the same seed have in common.
    pub(crate) fn record(&mut self, what: u64) {
        self.events += 1;
        let mixed = (self.hash ^ what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash = mixed ^ mixed >> 29;
    }

    /// Like [`Trace::record`], for bytes.
    pub(crate) fn record_bytes(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut number = [0; 8];
            number[..part.len()].copy_from_slice(part);
            self.record(u64::from_le_bytes(number));
        }
    }

    /// Logs a line of text at that time (in nanoseconds).
    pub(crate) fn log(&mut self, now: u64, line: Arguments<'_>) {
        if self.keeps_lines {
            let (millis, nanos) = (now / 1_000_000, now % 1_000_000);
            self.lines
                .push(format!("{millis:>9}.{nanos:06} ms  {line}"));
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}
