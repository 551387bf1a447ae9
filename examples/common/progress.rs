//! How far the work has come, on a terminal.

use std::cell::Cell;
use std::time::{Duration, Instant};

use console::{Term, truncate_str};

/// Drawing more often than that is a waste.
const REDRAW_AFTER: Duration = Duration::from_millis(50);

/// The width of the bar.
const WIDTH: usize = 40;

/// Some lines that change in place, on standard error. If that is no terminal, nothing is shown.
pub(crate) struct Progress {
    term: Term,
    /// How many lines stand there now.
    lines: Cell<usize>,
    drawn: Cell<Option<Instant>>,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress {
            term: Term::buffered_stderr(),
            lines: Cell::new(0),
            drawn: Cell::new(None),
        }
    }

    pub(crate) fn is_shown(&self) -> bool {
        self.term.is_term()
    }

    /// Shows `text`, and below it a bar for `done` of `all`, in place of what was shown before.
    pub(crate) fn show(&self, done: u64, all: u64, text: &str) {
        let is_soon = |drawn: Instant| drawn.elapsed() < REDRAW_AFTER;
        if !self.is_shown() || self.drawn.get().is_some_and(is_soon) {
            return;
        }
        self.drawn.set(Some(Instant::now()));
        let percent = usize::try_from(done.min(all) * 100 / all.max(1)).unwrap_or(0);
        let full = "█".repeat(percent * WIDTH / 100);
        let bar = format!("{full:░<WIDTH$} {percent:>3} %");
        let (_, width) = self.term.size();
        // If nobody sees it, the work goes on.
        let _ = self.term.clear_last_lines(self.lines.get());
        for line in text.lines().chain([bar.as_str()]) {
            let _ = self.term.write_line(&truncate_str(line, width.into(), "…"));
        }
        let _ = self.term.flush();
        self.lines.set(text.lines().count() + 1);
    }

    /// Takes away what is shown, before something else is printed or at the end.
    pub(crate) fn clear(&self) {
        let _ = self.term.clear_last_lines(self.lines.take());
        let _ = self.term.flush();
        self.drawn.set(None);
    }
}
