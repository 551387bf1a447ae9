//! The output of all processes, printed line by line as it arrives, and the figures among it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The prefix of a line with a figure. The figure's name and its value come after it.
const FIGURE_PREFIX: &str = "figure ";

/// The figures, by process and name.
type Figures = BTreeMap<(String, String), Figure>;

/// The log of a run. Its clones share it.
#[derive(Clone)]
pub(crate) struct RunLog {
    begin: Instant,
    figures: Arc<Mutex<Figures>>,
    changed: Arc<Condvar>,
}

/// A figure, and the time at which it arrived, from the beginning of the run on.
#[derive(Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) value: u64,
    pub(crate) at: Duration,
}

impl RunLog {
    pub(crate) fn new() -> RunLog {
        RunLog {
            begin: Instant::now(),
            figures: Arc::default(),
            changed: Arc::default(),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    pub(crate) fn print(&self, process: &str, what: &str) {
        println!(
            "{:>7.3} s  {process:<8} {what}",
            self.elapsed().as_secs_f64()
        );
    }

    /// Prints the output of a process, until its end.
    pub(crate) fn copy_output(
        &self,
        process: &str,
        output: impl Read + Send + 'static,
    ) -> JoinHandle<()> {
        let (log, process) = (self.clone(), process.to_owned());
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end();
                if !log.record_figure(&process, line) {
                    log.print(&process, line);
                }
            }
        })
    }

    /// Records a figure. Returns false if the line has none.
    fn record_figure(&self, process: &str, line: &str) -> bool {
        let words = line
            .strip_prefix(FIGURE_PREFIX)
            .and_then(|line| line.split_once(' '));
        let Some((name, value)) = words else {
            return false;
        };
        let Ok(value) = value.parse() else {
            return false;
        };
        let at = self.elapsed();
        let key = (process.to_owned(), name.to_owned());
        self.figures().insert(key, Figure { value, at });
        self.changed.notify_all();
        true
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn figure(&self, process: &str, name: &str) -> Option<Figure> {
        let key = (process.to_owned(), name.to_owned());
        self.figures().get(&key).copied()
    }

    /// Waits for a figure. Returns false if it does not arrive within `limit`.
    pub(crate) fn wait_for(&self, process: &str, name: &str, limit: Duration) -> bool {
        let key = (process.to_owned(), name.to_owned());
        let is_missing = |figures: &mut Figures| !figures.contains_key(&key);
        let waited = self
            .changed
            .wait_timeout_while(self.figures(), limit, is_missing);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}
