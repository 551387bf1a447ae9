//! A teller: it locks two accounts, moves money, and unlocks them.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use libos_ipc::host::HostNode;
use libos_ipc::{Config, Errno, Error, Exit, FileLock, Id, LockFamily, LockKind, Wait};

use crate::bank::{ACCOUNT_LENGTH, Bank, INITIAL_BALANCE};
use crate::common::{ProcessOptions, exit_family, figures, send, stop_at_input_end};

/// Every wait takes less time than this, unless it lasts for ever.
pub(crate) const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(20));

/// The interval at which a teller reports its progress.
const REPORT_INTERVAL: Duration = Duration::from_millis(50);

/// Of this many steps one is a count of all the money, and the others are transfers.
const COUNT_EVERY: u64 = 50;

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    process: ProcessOptions,
    /// The bank's file
    #[arg(long)]
    bank: PathBuf,
    #[arg(long)]
    accounts: u64,
    /// The teller's number
    #[arg(long)]
    teller: u64,
}

figures!(
    /// The work of a teller: its transfers, those that it did not make because an account had too little, the deadlocks,
    /// its counts of all the money, and the longest wait for a lock in µs.
    Tally { transfers, refused, deadlocks, counts, longest_wait_us, }
);

/// Sets locks of one process on the bank's file.
pub(crate) struct Locker<'a> {
    pub(crate) node: &'a HostNode,
    pub(crate) pid: Id,
    pub(crate) path: &'a [u8],
}

impl Locker<'_> {
    pub(crate) fn set(&self, kind: LockKind, (start, end): (u64, u64)) -> Result<(), Error> {
        let lock = FileLock {
            family: LockFamily::Posix,
            kind,
            start,
            end,
            pid: self.pid,
            handle: 0,
            wait: true,
            path: self.path,
        };
        self.node.set_lock(&lock, WAIT)
    }
}

/// All bytes of the file: the first and the last.
pub(crate) const WHOLE_FILE: (u64, u64) = (0, u64::MAX);

/// Returns the first and the last byte of an account.
fn bytes_of(account: u64) -> (u64, u64) {
    let start = account * ACCOUNT_LENGTH;
    (start, start + ACCOUNT_LENGTH - 1)
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let process = &options.process;
    let node = HostNode::start(&process.base, process.identity, Config::DEFAULT)?;
    let pid = node.join(WAIT)?;
    let bank = Bank::open(&options.bank, options.accounts)?;
    let stop = stop_at_input_end(|| ());
    let locker = Locker {
        node: &node,
        pid: pid.get(),
        path: options.bank.as_os_str().as_bytes(),
    };
    let mut tally = Tally::default();
    let mut last_report = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if fastrand::u64(..COUNT_EVERY) == 0 {
            count(&locker, &bank, options, &mut tally)?;
        } else {
            transfer(&locker, &bank, options, &mut tally)?;
        }
        if last_report.elapsed() >= REPORT_INTERVAL {
            last_report = Instant::now();
            send(&tally);
        }
    }
    send(&tally);
    // The locks of a process end with it.
    exit_family(&node, Exit::default(), WAIT)
}

/// Sets a lock, and records how long that took.
fn timed(tally: &mut Tally, set: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    let start = Instant::now();
    let outcome = set();
    let took = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    tally.longest_wait_us = tally.longest_wait_us.max(took);
    outcome
}

/// Moves some money between two accounts.
fn transfer(locker: &Locker<'_>, bank: &Bank, options: &Options, tally: &mut Tally) -> Result<()> {
    let from = fastrand::u64(..options.accounts);
    let to = (from + fastrand::u64(1..options.accounts)) % options.accounts;
    let amount = fastrand::i64(1..=INITIAL_BALANCE);
    let teller = options.teller;
    let lock = |account| locker.set(LockKind::Write, bytes_of(account));
    loop {
        timed(tally, || lock(from)).context("locking the first account")?;
        bank.take_over(from, teller)?;
        match timed(tally, || lock(to)) {
            Ok(()) => break,
            Err(Error::Refused {
                errno: Errno::EDEADLK,
                ..
            }) => {
                tally.deadlocks += 1;
                locker.set(LockKind::Unlock, bytes_of(from))?;
            }
            Err(error) => return Err(error).context("locking the second account"),
        }
    }
    bank.take_over(to, teller)?;
    if bank.transfer(teller, tally.transfers + 1, [from, to], amount)? {
        tally.transfers += 1;
    } else {
        tally.refused += 1;
    }
    for account in [from, to] {
        locker.set(LockKind::Unlock, bytes_of(account))?;
    }
    Ok(())
}

/// Counts all the money.
fn count(locker: &Locker<'_>, bank: &Bank, options: &Options, tally: &mut Tally) -> Result<()> {
    timed(tally, || locker.set(LockKind::Read, WHOLE_FILE)).context("locking all to read")?;
    let sum = bank.sum()?;
    let expected = INITIAL_BALANCE * options.accounts.cast_signed();
    ensure!(
        sum == expected,
        "there is {sum} in the bank, and not {expected}"
    );
    tally.counts += 1;
    locker.set(LockKind::Unlock, WHOLE_FILE)?;
    Ok(())
}
