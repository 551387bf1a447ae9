//! The leader's side: it starts the tellers, kills one, and counts the money.

use std::io::{Write, stdout};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libos_ipc::host::HostNode;
use libos_ipc::{Config, Identity, LockKind};

use crate::Options;
use crate::bank::{BALANCE, Bank};
use crate::common::{HumanCount, Worker, WorkerPool, fit, table};
use crate::teller::{ALL, Locker, Tally, WAIT};

pub(crate) fn run(options: &Options, wrong: &mut Vec<String>) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let path = directory.path().join("bank");
    let bank = Bank::create(&path, options.accounts)?;
    let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT)?;
    let pid = leader.join(WAIT)?;
    let mut workers = WorkerPool::<Tally>::new(&leader, WAIT);
    let bank_path = path.to_str().context("a directory with a readable name")?;
    let accounts = options.accounts.to_string();
    for number in 0..options.tellers {
        let (flag, number) = ("--teller", number.to_string());
        let arguments = ["--bank", bank_path, "--accounts", &accounts, flag, &number];
        workers.start("teller", &base, &arguments)?;
    }

    let begin = Instant::now();
    let print_line = |what: &str| println!("{:>7.3} s  {what}", begin.elapsed().as_secs_f64());
    let victim = fastrand::usize(..workers.workers.len());
    print_line(&format!(
        "{} tellers, {} accounts, {} in the bank; teller {victim} is going to be killed",
        workers.workers.len(),
        options.accounts,
        HumanCount(options.accounts * BALANCE.unsigned_abs()),
    ));
    workers.listen(options.seconds / 2, |_| false, message);
    workers.kill(victim)?;
    print_line(&format!("teller {victim} was killed"));
    workers.listen(options.seconds / 2, |_| false, message);
    wrong.extend(workers.stop("teller", victim)?);
    print_line("all others have come to their end");

    let locker = Locker {
        node: &leader,
        pid: pid.get(),
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
    print_table(&workers.workers, victim);
    if workers.sum(|tally| tally.transfers) == 0 {
        wrong.push("no money was moved at all".to_owned());
    }
    leader.leave(WAIT)?;
    let pools = leader.statistics().pools;
    println!(
        "the leader: at most {} locks at once, {} waiting; {} messages",
        pools.locks.peak,
        pools.waiting_for_locks.peak,
        HumanCount(leader.statistics().frames_in),
    );
    let left = [pools.locks, pools.locked_files, pools.waiting_for_locks];
    if !leader.check_invariants() || left.iter().any(|fill| fill.now > 0) {
        wrong.push(format!(
            "something is left in the leader's tables: {left:?}"
        ));
    }
    Ok(())
}

fn message(workers: &WorkerPool<'_, Tally>) -> String {
    format!(
        "{} transfers, {} deadlocks",
        HumanCount(workers.sum(|tally| tally.transfers)),
        HumanCount(workers.sum(|tally| tally.deadlocks)),
    )
}

fn print_table(tellers: &[Worker<Tally>], victim: usize) {
    let header = [
        "teller",
        "transfers",
        "too little\nmoney",
        "deadlocks",
        "counts",
        "longest\nwait",
        "end",
    ];
    let mut table = table(header, 1);
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
    fit(&mut table);
    let _ = writeln!(stdout().lock(), "{table}");
}
