//! The leader: it starts the workers, kills one that holds the value, and checks the sum.

use std::io::{Write, stdout};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libos_ipc::host::HostNode;
use libos_ipc::{Config, Identity};

use crate::Options;
use crate::common::{HumanCount, Worker, WorkerPool, fit, table};
use crate::shared::{HANDLE, Value, WAIT};
use crate::worker::Tally;

/// The time in which a worker must get the value.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn run(options: &Options, wrong: &mut Vec<String>) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT)?;
    leader.join(WAIT)?;
    let value = leader.share::<Value>(Some(HANDLE))?;
    // The value lives until all processes that used it have closed it.
    drop(value.read(WAIT)?);
    let mut workers = WorkerPool::new(&leader, WAIT);
    for number in 0..options.workers {
        workers.start("worker", &base, &["--worker", &number.to_string()])?;
    }

    let begin = Instant::now();
    let print_line = |what: &str| println!("{:>7.3} s  {what}", begin.elapsed().as_secs_f64());
    let victim = fastrand::usize(..workers.workers.len());
    print_line(&format!(
        "{} workers; worker {victim} is going to be killed",
        workers.workers.len()
    ));
    let half = options.seconds / 2;
    workers.listen(half, |_| false, message);
    let input = workers.workers[victim].input.as_mut();
    writeln!(input.context("it is piped")?, "hold")
        .context("telling the worker to keep the value")?;
    let holds = |workers: &[Worker<Tally>]| workers[victim].tally.holding > 0;
    workers.listen(LIMIT, holds, message);
    ensure!(
        holds(&workers.workers),
        "worker {victim} never got the value"
    );
    workers.kill(victim)?;
    print_line(&format!(
        "worker {victim} was killed while it held the value"
    ));
    workers.listen(half, |_| false, message);
    // On a busy machine the death may be reported only now.
    workers.listen(LIMIT, is_reported, message);
    wrong.extend(workers.stop("worker", victim)?);
    print_line("all others have ended");

    check(&*value.read(WAIT)?, &workers.workers, victim, wrong);
    print_table(&workers.workers, victim);
    drop(value);
    leader.leave(WAIT)?;
    let pools = leader.statistics().pools;
    println!(
        "the leader: {} messages for {} increments",
        HumanCount(leader.statistics().frames_in),
        HumanCount(workers.sum(|tally| tally.increments)),
    );
    let left = [pools.served_handles, pools.sync_clients];
    if !leader.check_invariants() || left.iter().any(|fill| fill.now > 0) {
        wrong.push(format!(
            "something is left in the leader's tables: {left:?}"
        ));
    }
    Ok(())
}

fn message(workers: &WorkerPool<'_, Tally>) -> String {
    format!(
        "{} increments, {} hand-overs",
        HumanCount(workers.sum(|tally| tally.increments)),
        HumanCount(workers.sum(|tally| tally.handed_over)),
    )
}

/// Returns true if a worker got a report that a worker died while it held the value.
fn is_reported(workers: &[Worker<Tally>]) -> bool {
    workers.iter().any(|worker| worker.tally.deaths > 0)
}

fn check(value: &Value, workers: &[Worker<Tally>], victim: usize, wrong: &mut Vec<String>) {
    if let Some(fault) = value.fault() {
        wrong.push(fault.to_owned());
    }
    for (number, worker) in workers.iter().enumerate() {
        let (done, counted) = (worker.tally.increments, value.by_worker[number]);
        // The last increment of the killed worker may or may not count.
        let is_right = counted == done || number == victim && counted == done + 1;
        if !is_right {
            wrong.push(format!(
                "worker {number} has counted {done} times, but the value says {counted}"
            ));
        }
    }
    if value.counter == 0 {
        wrong.push("the counter is zero".to_owned());
    }
    if !is_reported(workers) {
        wrong.push("no worker got a report that a worker died while it held the value".to_owned());
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
            format!("{:.1?}", Duration::from_micros(tally.longest)),
            if number == victim { "KILLED" } else { "left" }.to_owned(),
        ]);
    }
    fit(&mut table);
    let _ = writeln!(stdout().lock(), "{table}");
}
