//! The leader: it starts the workers, kills one that holds the value, and checks the sum.

use std::io::{Write, stdout};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libos_ipc::host::HostNode;
use libos_ipc::{Config, Identity};

use crate::Options;
use crate::common::{HumanCount, Worker, WorkerPool, fit, leader_faults, print_at, table};
use crate::shared::{HANDLE, Value, WAIT};
use crate::worker::Tally;

/// The time in which a worker must get the value.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn run(options: &Options, faults: &mut Vec<String>) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT)?;
    leader.join(WAIT)?;
    let value = leader.share::<Value>(Some(HANDLE))?;
    // The value lives until all processes that used it have closed it.
    drop(value.read(WAIT)?);
    let mut pool = WorkerPool::new(&leader, WAIT);
    for number in 0..options.workers {
        pool.start("worker", &base, &["--worker", &number.to_string()])?;
    }

    let begin = Instant::now();
    let print_line = |what: &str| print_at(begin, what);
    let victim = fastrand::usize(..pool.workers.len());
    print_line(&format!(
        "{} workers; worker {victim} is going to be killed",
        pool.workers.len()
    ));
    let half = options.seconds / 2;
    pool.receive_reports(half, |_| false, message);
    let input = pool.workers[victim].input.as_mut();
    writeln!(input.context("it is piped")?, "hold")
        .context("telling the worker to keep the value")?;
    let holds = |workers: &[Worker<Tally>]| workers[victim].tally.is_holding > 0;
    pool.receive_reports(LIMIT, holds, message);
    ensure!(holds(&pool.workers), "worker {victim} never got the value");
    pool.kill(victim)?;
    print_line(&format!(
        "worker {victim} was killed while it held the value"
    ));
    pool.receive_reports(half, |_| false, message);
    // On a busy machine the death may be reported only now.
    pool.receive_reports(LIMIT, is_reported, message);
    faults.extend(pool.stop("worker", victim)?);
    print_line("all others have ended");

    check(&*value.read(WAIT)?, &pool.workers, victim, faults);
    print_table(&pool.workers, victim);
    drop(value);
    leader.leave(WAIT)?;
    println!(
        "the leader: {} messages for {} increments",
        HumanCount(leader.statistics().frames_in),
        HumanCount(pool.sum(|tally| tally.increments)),
    );
    leader.release_idle_ranges(WAIT)?;
    // A worker may be killed while the leader identifies or answers it.
    faults.extend(leader_faults(&leader, |_, _| true));
    Ok(())
}

/// Returns the text of the progress display.
fn message(pool: &WorkerPool<'_, Tally>) -> String {
    format!(
        "{} increments, {} hand-overs",
        HumanCount(pool.sum(|tally| tally.increments)),
        HumanCount(pool.sum(|tally| tally.handed_over)),
    )
}

/// Returns true if a worker got a report that a worker died while it held the value.
fn is_reported(workers: &[Worker<Tally>]) -> bool {
    workers.iter().any(|worker| worker.tally.deaths > 0)
}

/// Checks the value against the reports of the workers.
fn check(value: &Value, workers: &[Worker<Tally>], victim: usize, faults: &mut Vec<String>) {
    if let Some(fault) = value.fault() {
        faults.push(fault.to_owned());
    }
    for (number, worker) in workers.iter().enumerate() {
        let (done, counted) = (worker.tally.increments, value.by_worker[number]);
        // The last increment of the killed worker may or may not count.
        let is_right = counted == done || number == victim && counted == done + 1;
        if !is_right {
            faults.push(format!(
                "worker {number} has counted {done} times, but the value says {counted}"
            ));
        }
    }
    if value.counter == 0 {
        faults.push("the counter is zero".to_owned());
    }
    if !is_reported(workers) {
        faults.push("no worker got a report that a worker died while it held the value".to_owned());
    }
}

fn print_table(workers: &[Worker<Tally>], victim: usize) {
    let header = [
        "worker",
        "increments",
        "reads",
        "hand-overs",
        "longest\nwait",
        "end",
    ];
    let mut table = table(header, 1);
    for (number, worker) in workers.iter().enumerate() {
        let tally = worker.tally;
        table.add_row([
            number.to_string(),
            HumanCount(tally.increments).to_string(),
            HumanCount(tally.reads).to_string(),
            HumanCount(tally.handed_over).to_string(),
            format!("{:.1?}", Duration::from_micros(tally.longest_wait_us)),
            if number == victim { "KILLED" } else { "left" }.to_owned(),
        ]);
    }
    fit(&mut table);
    let _ = writeln!(stdout().lock(), "{table}");
}
