//! A worker: takes the value, increments, lets go.

use std::io::{BufRead, Write, stdin, stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use libos_ipc::host::HostNode;
use libos_ipc::{Config, Exit, Identity};

use crate::shared::{HANDLE, Value, WAIT};

/// How often a worker says how far it is.
const TELL_EVERY: Duration = Duration::from_millis(50);

/// One use in so many only reads.
const READ_EVERY: u64 = 16;

#[derive(Args)]
pub(crate) struct Options {
    /// Where the family listens
    #[arg(long)]
    base: PathBuf,
    /// Who this process is: the numbers of its identity
    #[arg(long, value_delimiter = ',')]
    identity: Vec<u32>,
    /// The worker's number
    #[arg(long)]
    worker: usize,
}

/// What a worker has done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) increments: u64,
    pub(crate) reads: u64,
    /// How often another had changed the value before it got it.
    pub(crate) handed_over: u64,
    /// How often it was told that a worker died with the value.
    pub(crate) deaths: u64,
    /// The longest wait, in µs.
    pub(crate) longest: u64,
    /// It has the value and keeps it.
    pub(crate) holding: u64,
}

impl Tally {
    fn line(&self) -> String {
        let Tally {
            increments,
            reads,
            handed_over,
            deaths,
            longest,
            holding,
        } = self;
        format!("{increments} {reads} {handed_over} {deaths} {longest} {holding}")
    }

    pub(crate) fn read(line: &str) -> Option<Tally> {
        let mut numbers = line.split(' ').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Tally {
            increments: next()?,
            reads: next()?,
            handed_over: next()?,
            deaths: next()?,
            longest: next()?,
            holding: next()?,
        })
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let numbers = options.identity.as_slice().try_into();
    let identity = numbers.ok().and_then(Identity::from_numbers);
    let identity = identity.context("--identity takes the five numbers of an identity")?;
    let node = HostNode::start(&options.base, identity, Config::DEFAULT)?;
    node.join(WAIT)?;
    let value = node.share::<Value>(Some(HANDLE))?;
    let (over, hold) = (Arc::default(), Arc::default());
    listen(&over, &hold);
    let mut tally = Tally::default();
    let mut told = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        let news;
        if fastrand::u64(..READ_EVERY) == 0 {
            let reader = value.read(WAIT).context("reading")?;
            news = reader.news();
            if let Some(fault) = reader.fault() {
                anyhow::bail!("{fault}");
            }
            tally.reads += 1;
        } else {
            let mut writer = value.write(WAIT).context("changing")?;
            news = writer.news();
            // When others have changed it since, what was done before is not lost any more.
            if hold.load(Ordering::Relaxed) && news.changed {
                tally.holding = 1;
                tell(&tally);
                writer.increment(options.worker);
                // For whoever kills this process.
                loop {
                    thread::park();
                }
            }
            writer.increment(options.worker);
            tally.increments += 1;
        }
        let took = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        tally.longest = tally.longest.max(took);
        tally.handed_over += u64::from(news.changed);
        tally.deaths += u64::from(news.owner_died);
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tell(&tally);
        }
    }
    tell(&tally);
    // Its last increments go to the leader with it.
    drop(value);
    node.exit(Exit::default(), WAIT)?;
    ensure!(
        node.shut_down(Duration::from_secs(5)),
        "something was not sent"
    );
    Ok(())
}

/// Does what the leader says: a line, to keep the value at the next chance; the end, to stop.
fn listen(over: &Arc<AtomicBool>, hold: &Arc<AtomicBool>) {
    let (over, hold) = (Arc::clone(over), Arc::clone(hold));
    thread::spawn(move || {
        let mut line = String::new();
        while stdin()
            .lock()
            .read_line(&mut line)
            .is_ok_and(|length| length > 0)
        {
            hold.store(true, Ordering::Relaxed);
        }
        over.store(true, Ordering::Relaxed);
    });
}

fn tell(tally: &Tally) {
    let _ = stdout().write_all(format!("{}\n", tally.line()).as_bytes());
}
