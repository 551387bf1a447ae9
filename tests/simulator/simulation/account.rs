//! The account of a run: a number that stands for all that happened, and the story, if wanted.

use std::fmt::Arguments;

#[derive(Default)]
pub(crate) struct Account {
    hash: u64,
    events: u64,
    tells: bool,
    /// Only where it is wanted: it is long.
    lines: Vec<String>,
}

impl Account {
    pub(crate) fn new(tells: bool) -> Account {
        Account {
            tells,
            ..Account::default()
        }
    }

    /// Something happened that two runs of the same seed have in common.
    pub(crate) fn note(&mut self, what: u64) {
        self.events += 1;
        let mixed = (self.hash ^ what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash = mixed ^ mixed >> 29;
    }

    /// As [`Account::note`], of bytes.
    pub(crate) fn note_bytes(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut number = [0; 8];
            number[..part.len()].copy_from_slice(part);
            self.note(u64::from_le_bytes(number));
        }
    }

    /// A line of the story, at that time (in nanoseconds).
    pub(crate) fn tell(&mut self, now: u64, line: Arguments<'_>) {
        if self.tells {
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
