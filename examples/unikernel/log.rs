//! The output of all processes, printed line by line as it arrives, and the figures among it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The prefix of a line with a figure: its name and its value.
const FIGURE: &str = "figure ";

/// The figures, by process and name.
type Figures = BTreeMap<(String, String), Figure>;

/// The log of a run. Its clones share it.
#[derive(Clone)]
pub(crate) struct RunLog {
    begin: Instant,
    figures: Arc<Mutex<Figures>>,
    changed: Arc<Condvar>,
}

/// A figure and its time of arrival.
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

    pub(crate) fn print(&self, who: &str, what: &str) {
        println!("{:>7.3} s  {who:<8} {what}", self.elapsed().as_secs_f64());
    }

    /// Prints the output of a process, until its end.
    pub(crate) fn copy_output(
        &self,
        who: &str,
        output: impl Read + Send + 'static,
    ) -> JoinHandle<()> {
        let (log, who) = (self.clone(), who.to_owned());
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end();
                if !log.record_figure(&who, line) {
                    log.print(&who, line);
                }
            }
        })
    }

    /// Records a figure. Returns false if the line has none.
    fn record_figure(&self, who: &str, line: &str) -> bool {
        let words = line
            .strip_prefix(FIGURE)
            .and_then(|line| line.split_once(' '));
        let Some((name, value)) = words else {
            return false;
        };
        let Ok(value) = value.parse() else {
            return false;
        };
        let at = self.elapsed();
        let key = (who.to_owned(), name.to_owned());
        self.figures().insert(key, Figure { value, at });
        self.changed.notify_all();
        true
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn figure(&self, who: &str, name: &str) -> Option<Figure> {
        let key = (who.to_owned(), name.to_owned());
        self.figures().get(&key).copied()
    }

    /// Waits for a figure. Returns false if it does not arrive within `limit`.
    pub(crate) fn wait_for(&self, who: &str, name: &str, limit: Duration) -> bool {
        let key = (who.to_owned(), name.to_owned());
        let is_missing = |figures: &mut Figures| !figures.contains_key(&key);
        let waited = self
            .changed
            .wait_timeout_while(self.figures(), limit, is_missing);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}
