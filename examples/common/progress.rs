//! The display of the progress of the work, on a terminal.

use std::cell::Cell;
use std::time::{Duration, Instant};

use console::{Term, truncate_str};

/// The shortest time between two drawings.
const REDRAW_AFTER: Duration = Duration::from_millis(50);

/// The width of the bar in columns.
const WIDTH: usize = 40;

/// Some lines that change in place, on standard error. If that is no terminal, nothing is printed.
pub(crate) struct Progress {
    term: Term,
    /// The number of printed lines.
    lines: Cell<usize>,
    /// The time of the last drawing.
    drawn_at: Cell<Option<Instant>>,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress {
            term: Term::buffered_stderr(),
            lines: Cell::new(0),
            drawn_at: Cell::new(None),
        }
    }

    pub(crate) fn is_shown(&self) -> bool {
        self.term.is_term()
    }

    /// Shows `text`, and below it a bar for `done` of `all`, in place of the last output.
    pub(crate) fn show(&self, done: u64, all: u64, text: &str) {
        let is_recent = |drawn_at: Instant| drawn_at.elapsed() < REDRAW_AFTER;
        if !self.is_shown() || self.drawn_at.get().is_some_and(is_recent) {
            return;
        }
        self.drawn_at.set(Some(Instant::now()));
        let percent = usize::try_from(done.min(all) * 100 / all.max(1)).unwrap_or(0);
        let full = "█".repeat(percent * WIDTH / 100);
        let bar = format!("{full:░<WIDTH$} {percent:>3} %");
        let (_, width) = self.term.size();
        // If the output fails, the work continues.
        let _ = self.term.clear_last_lines(self.lines.get());
        for line in text.lines().chain([bar.as_str()]) {
            let _ = self.term.write_line(&truncate_str(line, width.into(), "…"));
        }
        let _ = self.term.flush();
        self.lines.set(text.lines().count() + 1);
    }

    /// Clears the lines, before other output or at the end.
    pub(crate) fn clear(&self) {
        let _ = self.term.clear_last_lines(self.lines.take());
        let _ = self.term.flush();
        self.drawn_at.set(None);
    }
}
