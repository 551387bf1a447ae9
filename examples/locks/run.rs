//! The leader's side: starts the tellers, kills one, counts the money.

use std::io::Write;
use std::io::{BufRead, BufReader, stdout};
use std::os::unix::ffi::OsStrExt;
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
use libos_ipc::wire::LockKind;
use libos_ipc::{Config, Id, Identity, Which};

use crate::Options;
use crate::bank::{BALANCE, Bank};
use crate::teller::{ALL, Locker, Tally, WAIT};

/// What a teller that was killed has died of.
const SIGPWR: u32 = 30;

/// A process that makes transfers.
struct Teller {
    pid: Id,
    process: Child,
    input: Option<ChildStdin>,
    tally: Tally,
}

pub(crate) fn run(options: &Options, wrong: &mut Vec<String>) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let path = directory.path().join("bank");
    let bank = Bank::create(&path, options.accounts)?;
    let leader = HostNode::start(&base, Identity::FIRST, Config::DEFAULT)?;
    let pid = leader.join(WAIT)?;
    let (sender, tallies) = channel();
    let mut tellers = Vec::new();
    for number in 0..options.tellers as usize {
        tellers.push(start(&leader, options, (&base, &path), number, &sender)?);
    }
    drop(sender);

    let begin = Instant::now();
    let say = |what: &str| println!("{:>7.3} s  {what}", begin.elapsed().as_secs_f64());
    let victim = fastrand::usize(..tellers.len());
    say(&format!(
        "{} tellers, {} accounts, {} in the bank; teller {victim} is going to be killed",
        tellers.len(),
        options.accounts,
        HumanCount(options.accounts * BALANCE.unsigned_abs()),
    ));
    listen(&mut tellers, &tallies, options.seconds / 2);
    tellers[victim].process.kill()?;
    let died = leader.wait_child(Which::Pid(tellers[victim].pid), WAIT)?;
    ensure!(died.term_signal == SIGPWR, "{died:?} is no sudden death");
    say(&format!("teller {victim} was killed"));
    listen(&mut tellers, &tallies, options.seconds / 2);

    for teller in &mut tellers {
        drop(teller.input.take());
    }
    while let Ok((number, tally)) = tallies.recv_timeout(Duration::from_secs(30)) {
        tellers[number].tally = tally;
    }
    for (number, teller) in tellers.iter_mut().enumerate() {
        let status = teller.process.wait()?;
        if number == victim {
            continue;
        }
        let exit = leader.wait_child(Which::Pid(teller.pid), WAIT)?;
        if !status.success() || (exit.exit_code, exit.term_signal) != (0, 0) {
            wrong.push(format!("teller {number} ended with {status} and {exit:?}"));
        }
    }
    say("all others have come to their end");

    let locker = Locker {
        node: &leader,
        pid,
        path: path.as_os_str().as_bytes(),
    };
    locker.set(LockKind::Read, ALL)?;
    let sum = bank.sum()?;
    let all = BALANCE * options.accounts.cast_signed();
    if sum != all {
        wrong.push(format!(
            "there is {sum} in the bank at the end, and not {all}"
        ));
    }
    locker.set(LockKind::Unlock, ALL)?;
    table(&tellers, victim);
    let done: u64 = tellers.iter().map(|teller| teller.tally.transfers).sum();
    if done == 0 {
        wrong.push("no money was moved at all".to_owned());
    }
    leader.leave(WAIT)?;
    let pools = leader.statistics().pools;
    println!(
        "the leader: at most {} locks at once, {} waiting; {} messages",
        pools.locks.most,
        pools.waiting_for_locks.most,
        HumanCount(leader.statistics().frames_in),
    );
    let left = [pools.locks, pools.locked_files, pools.waiting_for_locks];
    if !leader.is_sound() || left.iter().any(|fill| fill.now > 0) {
        wrong.push(format!(
            "something is left in the leader's tables: {left:?}"
        ));
    }
    Ok(())
}

fn start(
    leader: &HostNode,
    options: &Options,
    (base, bank): (&Path, &Path),
    number: usize,
    tallies: &Sender<(usize, Tally)>,
) -> Result<Teller> {
    let child = leader.start_child(WAIT).context("preparing a teller")?;
    let identity = child.numbers().map(|number| number.to_string()).join(",");
    let mut process = Command::new(std::env::current_exe()?)
        .arg("teller")
        .arg("--base")
        .arg(base)
        .arg("--bank")
        .arg(bank)
        .args(["--identity", &identity])
        .args(["--accounts", &options.accounts.to_string()])
        .args(["--teller", &number.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting a teller")?;
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
    Ok(Teller {
        pid: child.pid,
        process,
        input,
        tally: Tally::default(),
    })
}

/// Shows how the work goes on for a time.
fn listen(tellers: &mut [Teller], tallies: &Receiver<(usize, Tally)>, time: Duration) {
    let begin = Instant::now();
    let bar = ProgressBar::new(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
        bar.set_style(style);
    }
    while let Some(left) = time.checked_sub(begin.elapsed()) {
        if let Ok((number, tally)) = tallies.recv_timeout(left) {
            tellers[number].tally = tally;
            let transfers: u64 = tellers.iter().map(|teller| teller.tally.transfers).sum();
            let deadlocks: u64 = tellers.iter().map(|teller| teller.tally.deadlocks).sum();
            bar.set_position(u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX));
            bar.set_message(format!(
                "{} transfers, {} deadlocks",
                HumanCount(transfers),
                HumanCount(deadlocks)
            ));
        }
    }
    bar.finish_and_clear();
}

fn table(tellers: &[Teller], victim: usize) {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "teller",
        "transfers",
        "too little money",
        "deadlocks",
        "counts",
        "longest wait",
        "end",
    ]);
    for (number, teller) in tellers.iter().enumerate() {
        let tally = teller.tally;
        table.add_row([
            number.to_string(),
            HumanCount(tally.transfers).to_string(),
            HumanCount(tally.refused).to_string(),
            HumanCount(tally.deadlocks).to_string(),
            HumanCount(tally.counts).to_string(),
            format!("{:.1?}", Duration::from_micros(tally.longest)),
            if number == victim { "KILLED" } else { "left" }.to_owned(),
        ]);
    }
    let _ = writeln!(stdout().lock(), "{table}");
}
