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
    /// Its counts, as of its last report.
    pub(crate) tally: T,
}

/// All workers, in the order of their numbers.
pub(crate) struct WorkerPool<'a, T> {
    pub(crate) workers: Vec<Worker<T>>,
    leader: &'a HostNode,
    /// The time limit of each call.
    wait: Wait<'static>,
    /// The reports of the workers, with the worker's number: the end that the readers of their output use, and that of
    /// this process.
    tally_sender: Sender<(usize, T)>,
    tallies: Receiver<(usize, T)>,
}

impl<'a, T> WorkerPool<'a, T>
where
    T: Clone + Default + FromStr<Err = anyhow::Error> + Send + 'static,
{
    pub(crate) fn new(leader: &'a HostNode, wait: Wait<'static>) -> Self {
        let (tally_sender, tallies) = channel();
        WorkerPool {
            workers: Vec::new(),
            leader,
            wait,
            tally_sender,
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
        let (number, sender) = (self.workers.len(), self.tally_sender.clone());
        read_lines(
            process.stdout.take().context("piped")?,
            move |line| match line {
                Some(Ok(tally)) => sender.send((number, tally)).is_ok(),
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

    /// Receives reports and shows the progress for a time, or until a condition is true.
    pub(crate) fn receive_reports(
        &mut self,
        time: Duration,
        is_done: impl Fn(&[Worker<T>]) -> bool,
        message: impl Fn(&Self) -> String,
    ) {
        let begin = Instant::now();
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let progress = Progress::new();
        while let Some(remaining) = time.checked_sub(begin.elapsed())
            && !is_done(&self.workers)
        {
            if let Ok((number, tally)) = self.tallies.recv_timeout(remaining) {
                self.workers[number].tally = tally;
                let done = milliseconds(begin.elapsed());
                progress.show(done, milliseconds(time), &message(self));
            }
        }
        progress.clear();
    }

    /// Returns the sum of a count over all workers.
    pub(crate) fn sum(&self, count: impl Fn(&T) -> u64) -> u64 {
        self.workers.iter().map(|worker| count(&worker.tally)).sum()
    }

    /// Kills a worker, and waits until its parent has its exit report.
    pub(crate) fn kill(&mut self, victim: usize) -> Result<()> {
        let worker = &mut self.workers[victim];
        worker.process.kill()?;
        let exit = self
            .leader
            .wait_child(ChildSelector::Pid(worker.pid), self.wait)?;
        ensure!(exit.signal == SIGPWR, "{exit:?} is no sudden death");
        Ok(())
    }

    /// Stops all workers but the one that was killed, and returns the faults of their ends.
    pub(crate) fn stop(&mut self, role: &str, victim: usize) -> Result<Vec<String>> {
        for worker in &mut self.workers {
            drop(worker.input.take());
        }
        // The loop ends when all workers have closed their output.
        self.tally_sender = channel().0;
        while let Ok((number, tally)) = self.tallies.recv_timeout(END_LIMIT) {
            self.workers[number].tally = tally;
        }
        let mut faults = Vec::new();
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let status = worker.process.wait()?;
            if number == victim {
                continue;
            }
            let exit = self
                .leader
                .wait_child(ChildSelector::Pid(worker.pid), self.wait)?;
            if !status.success() || (exit.code, exit.signal) != (0, 0) {
                faults.push(format!("{role} {number} ended with {status} and {exit:?}"));
            }
        }
        Ok(faults)
    }
}
