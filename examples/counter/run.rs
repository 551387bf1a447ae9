//! The leader's side: starts the workers, kills one that has the value, checks the sum.

use std::io::Write;
use std::io::{BufRead, BufReader, stdout};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use libos_ipc::host::HostNode;
use libos_ipc::{Config, Id, Identity, Which};

use crate::Options;
use crate::shared::{HANDLE, Value, WAIT};
use crate::worker::Tally;

/// What a worker that was killed has died of.
const SIGPWR: u32 = 30;

/// A process that counts.
struct Worker {
    pid: Id,
    process: Child,
    input: Option<ChildStdin>,
    tally: Tally,
}

pub(crate) fn run(options: &Options, wrong: &mut Vec<String>) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let leader = HostNode::start(&base, Identity::FIRST, Config::DEFAULT)?;
    leader.join(WAIT)?;
    let value = leader.share::<Value>(Some(HANDLE))?;
    // The value lives as long as somebody who has used it.
    drop(value.read(WAIT)?);
    let (sender, tallies) = channel();
    let mut workers = Vec::new();
    for number in 0..options.workers as usize {
        workers.push(start(&leader, &base, number, &sender)?);
    }
    drop(sender);

    let begin = Instant::now();
    let say = |what: &str| println!("{:>7.3} s  {what}", begin.elapsed().as_secs_f64());
    let victim = fastrand::usize(..workers.len());
    say(&format!(
        "{} workers; worker {victim} is going to be killed",
        workers.len()
    ));
    let half = options.seconds / 2;
    listen(&mut workers, &tallies, half, |_| false);
    let input = workers[victim].input.as_mut().context("it is piped")?;
    writeln!(input, "hold").context("telling the worker to keep the value")?;
    let holds = |workers: &[Worker]| workers[victim].tally.holding > 0;
    listen(&mut workers, &tallies, Duration::from_secs(20), holds);
    ensure!(holds(&workers), "worker {victim} never got the value");
    workers[victim].process.kill()?;
    let died = leader.wait_child(Which::Pid(workers[victim].pid), WAIT)?;
    ensure!(died.term_signal == SIGPWR, "{died:?} is no sudden death");
    say(&format!(
        "worker {victim} was killed while it had the value"
    ));
    listen(&mut workers, &tallies, half, |_| false);

    for worker in &mut workers {
        drop(worker.input.take());
    }
    while let Ok((number, tally)) = tallies.recv_timeout(Duration::from_secs(30)) {
        workers[number].tally = tally;
    }
    for (number, worker) in workers.iter_mut().enumerate() {
        let status = worker.process.wait()?;
        if number == victim {
            continue;
        }
        let exit = leader.wait_child(Which::Pid(worker.pid), WAIT)?;
        if !status.success() || (exit.exit_code, exit.term_signal) != (0, 0) {
            wrong.push(format!("worker {number} ended with {status} and {exit:?}"));
        }
    }
    say("all others have come to their end");

    check(&*value.read(WAIT)?, &workers, victim, wrong);
    table(&workers, victim);
    drop(value);
    leader.leave(WAIT)?;
    let pools = leader.statistics().pools;
    println!(
        "the leader: {} messages for {} increments",
        HumanCount(leader.statistics().frames_in),
        HumanCount(workers.iter().map(|worker| worker.tally.increments).sum()),
    );
    let left = [pools.served_handles, pools.sync_clients];
    if !leader.is_sound() || left.iter().any(|fill| fill.now > 0) {
        wrong.push(format!(
            "something is left in the leader's tables: {left:?}"
        ));
    }
    Ok(())
}

fn check(value: &Value, workers: &[Worker], victim: usize, wrong: &mut Vec<String>) {
    if let Some(fault) = value.fault() {
        wrong.push(fault.to_owned());
    }
    for (number, worker) in workers.iter().enumerate() {
        let (done, counted) = (worker.tally.increments, value.by_worker[number]);
        // The last of the one that was killed is in doubt.
        let is_right = counted == done || number == victim && counted == done + 1;
        if !is_right {
            wrong.push(format!(
                "worker {number} has counted {done} times, but the value says {counted}"
            ));
        }
    }
    if value.counter == 0 {
        wrong.push("nothing was counted at all".to_owned());
    }
    if workers.iter().all(|worker| worker.tally.deaths == 0) {
        wrong.push("nobody was told that a worker died with the value".to_owned());
    }
}

fn start(
    leader: &HostNode,
    base: &Path,
    number: usize,
    tallies: &Sender<(usize, Tally)>,
) -> Result<Worker> {
    let child = leader.start_child(WAIT).context("preparing a worker")?;
    let identity = child.numbers().map(|number| number.to_string()).join(",");
    let mut process = Command::new(std::env::current_exe()?)
        .arg("worker")
        .arg("--base")
        .arg(base)
        .args(["--identity", &identity])
        .args(["--worker", &number.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting a worker")?;
    let input = process.stdin.take();
    let output = BufReader::new(process.stdout.take().context("piped")?);
    let tallies = tallies.clone();
    thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let Some(tally) = Tally::read(&line) else {
                return;
            };
            if tallies.send((number, tally)).is_err() {
                return;
            }
        }
    });
    Ok(Worker {
        pid: child.pid,
        process,
        input,
        tally: Tally::default(),
    })
}

/// Shows how the work goes on for a time, or until that is so.
fn listen(
    workers: &mut [Worker],
    tallies: &Receiver<(usize, Tally)>,
    time: Duration,
    until: impl Fn(&[Worker]) -> bool,
) {
    let begin = Instant::now();
    let bar = ProgressBar::new(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
        bar.set_style(style);
    }
    while let Some(left) = time.checked_sub(begin.elapsed())
        && !until(workers)
    {
        if let Ok((number, tally)) = tallies.recv_timeout(left) {
            workers[number].tally = tally;
            let sum =
                |what: fn(&Tally) -> u64| workers.iter().map(|worker| what(&worker.tally)).sum();
            bar.set_position(u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX));
            bar.set_message(format!(
                "{} increments, {} hand-overs",
                HumanCount(sum(|tally| tally.increments)),
                HumanCount(sum(|tally| tally.handed_over)),
            ));
        }
    }
    bar.finish_and_clear();
}

fn table(workers: &[Worker], victim: usize) {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "worker",
        "increments",
        "reads",
        "hand-overs",
        "longest wait",
        "end",
    ]);
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
    let _ = writeln!(stdout().lock(), "{table}");
}
