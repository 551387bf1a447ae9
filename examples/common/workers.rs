//! A leader's workers: processes that repeat one kind of work until they are stopped, and report
//! their progress. One of them is killed.

use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libos_ipc::host::HostNode;
use libos_ipc::{ChildSelector, Pid, Wait};

use super::{Progress, SIGPWR, command, pid_of, read_lines, spawn};

/// The time in which all workers must end.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A worker process, and its last report.
pub(crate) struct Worker<T> {
    pid: Pid,
    process: Child,
    pub(crate) input: Option<ChildStdin>,
    pub(crate) tally: T,
}

/// All workers, in the order of their numbers.
pub(crate) struct WorkerPool<'a, T> {
    pub(crate) workers: Vec<Worker<T>>,
    leader: &'a HostNode,
    wait: Wait<'static>,
    sender: Sender<(usize, T)>,
    tallies: Receiver<(usize, T)>,
}

impl<'a, T> WorkerPool<'a, T>
where
    T: Clone + Default + FromStr<Err = anyhow::Error> + Send + 'static,
{
    pub(crate) fn new(leader: &'a HostNode, wait: Wait<'static>) -> Self {
        let (sender, tallies) = channel();
        WorkerPool {
            workers: Vec::new(),
            leader,
            wait,
            sender,
            tallies,
        }
    }

    /// Starts a worker: this program in that role, with these arguments beside those of every
    /// process.
    pub(crate) fn start(&mut self, role: &str, base: &Path, arguments: &[&str]) -> Result<()> {
        let child = self.leader.start_child(self.wait);
        let child = child.with_context(|| format!("preparing a {role}"))?;
        let mut start = command(role, base, &child)?;
        start.args(arguments);
        start.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = spawn(&mut start).with_context(|| format!("starting a {role}"))?;
        let input = process.stdin.take();
        let (number, tallies) = (self.workers.len(), self.sender.clone());
        read_lines(
            process.stdout.take().context("piped")?,
            move |said| match said {
                Some(Ok(tally)) => tallies.send((number, tally)).is_ok(),
                _ => false,
            },
        );
        self.workers.push(Worker {
            pid: pid_of(&child)?,
            process,
            input,
            tally: T::default(),
        });
        Ok(())
    }

    /// Shows the progress for a time, or until a condition is true.
    pub(crate) fn listen(
        &mut self,
        time: Duration,
        until: impl Fn(&[Worker<T>]) -> bool,
        message: impl Fn(&Self) -> String,
    ) {
        let begin = Instant::now();
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let progress = Progress::new();
        while let Some(left) = time.checked_sub(begin.elapsed())
            && !until(&self.workers)
        {
            if let Ok((number, tally)) = self.tallies.recv_timeout(left) {
                self.workers[number].tally = tally;
                let done = milliseconds(begin.elapsed());
                progress.show(done, milliseconds(time), &message(self));
            }
        }
        progress.clear();
    }

    /// Returns the sum of a count of all workers.
    pub(crate) fn sum(&self, what: impl Fn(&T) -> u64) -> u64 {
        self.workers.iter().map(|worker| what(&worker.tally)).sum()
    }

    /// Kills a worker, and waits until its parent has its exit report.
    pub(crate) fn kill(&mut self, victim: usize) -> Result<()> {
        let worker = &mut self.workers[victim];
        worker.process.kill()?;
        let died = self
            .leader
            .wait_child(ChildSelector::Pid(worker.pid), self.wait)?;
        ensure!(died.signal == SIGPWR, "{died:?} is no sudden death");
        Ok(())
    }

    /// Stops all workers but the one that was killed, and returns the faults of those that did not
    /// end well.
    pub(crate) fn stop(&mut self, role: &str, victim: usize) -> Result<Vec<String>> {
        for worker in &mut self.workers {
            drop(worker.input.take());
        }
        // The loop ends when all workers have closed their output.
        self.sender = channel().0;
        while let Ok((number, tally)) = self.tallies.recv_timeout(END_LIMIT) {
            self.workers[number].tally = tally;
        }
        let mut wrong = Vec::new();
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let status = worker.process.wait()?;
            if number == victim {
                continue;
            }
            let exit = self
                .leader
                .wait_child(ChildSelector::Pid(worker.pid), self.wait)?;
            if !status.success() || (exit.code, exit.signal) != (0, 0) {
                wrong.push(format!("{role} {number} ended with {status} and {exit:?}"));
            }
        }
        Ok(wrong)
    }
}
