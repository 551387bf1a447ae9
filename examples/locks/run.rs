//! The leader's side: it starts the tellers, kills one, and counts the money.

use std::io::{Write, stdout};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libos_ipc::host::HostNode;
use libos_ipc::{Config, Identity, LockKind};

use crate::Options;
use crate::bank::{Bank, INITIAL_BALANCE};
use crate::common::{HumanCount, Worker, WorkerPool, fit, leader_faults, print_at, table};
use crate::teller::{Locker, Tally, WAIT, WHOLE_FILE};

pub(crate) fn run(options: &Options, faults: &mut Vec<String>) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let path = directory.path().join("bank");
    let bank = Bank::create(&path, options.accounts)?;
    let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT)?;
    let pid = leader.join(WAIT)?;
    let mut pool = WorkerPool::<Tally>::new(&leader, WAIT);
    let bank_path = path.to_str().context("a directory with a readable name")?;
    let accounts = options.accounts.to_string();
    for number in 0..options.tellers {
        let (flag, number) = ("--teller", number.to_string());
        let arguments = ["--bank", bank_path, "--accounts", &accounts, flag, &number];
        pool.start("teller", &base, &arguments)?;
    }

    let begin = Instant::now();
    let print_line = |what: &str| print_at(begin, what);
    let victim = fastrand::usize(..pool.workers.len());
    print_line(&format!(
        "{} tellers, {} accounts, {} in the bank; teller {victim} is going to be killed",
        pool.workers.len(),
        options.accounts,
        HumanCount(options.accounts * INITIAL_BALANCE.unsigned_abs()),
    ));
    pool.receive_reports(options.seconds / 2, |_| false, message);
    pool.kill(victim)?;
    print_line(&format!("teller {victim} was killed"));
    pool.receive_reports(options.seconds / 2, |_| false, message);
    faults.extend(pool.stop("teller", victim)?);
    print_line("all others have come to their end");

    let locker = Locker {
        node: &leader,
        pid: pid.get(),
        path: path.as_os_str().as_bytes(),
    };
    locker.set(LockKind::Read, WHOLE_FILE)?;
    let sum = bank.sum()?;
    let expected = INITIAL_BALANCE * options.accounts.cast_signed();
    if sum != expected {
        faults.push(format!(
            "there is {sum} in the bank at the end, and not {expected}"
        ));
    }
    locker.set(LockKind::Unlock, WHOLE_FILE)?;
    print_table(&pool.workers, victim);
    if pool.sum(|tally| tally.transfers) == 0 {
        faults.push("no money was moved at all".to_owned());
    }
    leader.leave(WAIT)?;
    let pools = leader.statistics().pools;
    println!(
        "the leader: at most {} locks at once, {} waiting; {} messages",
        pools.locks.peak,
        pools.waiting_for_locks.peak,
        HumanCount(leader.statistics().frames_in),
    );
    leader.release_idle_ranges(WAIT)?;
    // A teller may be killed while the leader identifies or answers it.
    faults.extend(leader_faults(&leader, |_, _| true));
    Ok(())
}

/// Returns the text of the progress display.
fn message(pool: &WorkerPool<'_, Tally>) -> String {
    format!(
        "{} transfers, {} deadlocks",
        HumanCount(pool.sum(|tally| tally.transfers)),
        HumanCount(pool.sum(|tally| tally.deadlocks)),
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
            format!("{:.1?}", Duration::from_micros(tally.longest_wait_us)),
            if number == victim { "KILLED" } else { "left" }.to_owned(),
        ]);
    }
    fit(&mut table);
    let _ = writeln!(stdout().lock(), "{table}");
}
