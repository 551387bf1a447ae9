//! A process: joins, works until its life is over, and ends.

use std::env::current_exe;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use libos_ipc::host::{Host, HostNode, raise_descriptor_limit};
use libos_ipc::{
    Capacities, Config, Embedder, Errno, Exit, MetaCode, Metadata, MetadataReply, Node, Pid,
    Signal, SignalReply, Target, Vmid, Wait,
};
use rustix::process::{getgid, getuid};

use crate::common::{
    ProcessOptions, exit_family, follows_successors, may_lead, send, stop_at_input_end,
};
use crate::figures::Kind;
use crate::leaders;
use crate::signals::{TO_ALL, TO_GROUP, TO_PROCESS};
use crate::work::Member;

/// The interval of a process's reports.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    process: ProcessOptions,
    /// The file with record locks; that with `.flock` at the end of its name is locked with flock
    #[arg(long)]
    pub(crate) file: PathBuf,
    /// The slot in which this process lives
    #[arg(long)]
    pub(crate) slot: u32,
    /// How many others there can be
    #[arg(long)]
    members: u32,
    /// How long to live, in milliseconds; not given: until it is killed
    #[arg(long)]
    life: Option<u64>,
    /// The mean pause, in milliseconds
    #[arg(long)]
    pause: u64,
    /// How long a call may take, in milliseconds
    #[arg(long)]
    pub(crate) limit: u64,
    /// The exit code
    #[arg(long)]
    code: u8,
    /// Whether the leader may change, and whether this process may lead
    #[arg(long, value_enum, default_value_t)]
    succession: Succession,
}

/// The reaction of a process when its leader is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Succession {
    /// The process ends.
    #[default]
    None,
    /// The process goes on with another leader.
    Follows,
    /// The process may lead.
    Leads,
}

impl Succession {
    /// Returns the name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Succession::None => "none",
            Succession::Follows => "follows",
            Succession::Leads => "leads",
        }
    }
}

/// Returns the configuration of a member.
pub(crate) fn config(members: u32, succession: Succession) -> Config {
    let config = Config {
        capacities: match succession {
            Succession::None | Succession::Follows => capacities(members),
            Succession::Leads => leaders::capacities(members),
        },
        ..Config::DEFAULT
    };
    match succession {
        Succession::None => config,
        Succession::Follows => follows_successors(config),
        Succession::Leads => may_lead(config),
    }
}

/// Counts the signals that are delivered, and answers requests for metadata.
#[derive(Default)]
struct Os {
    /// The signals of the first process to this process alone, to its group, and to all.
    single_signals: AtomicU64,
    group_signals: AtomicU64,
    broadcasts: AtomicU64,
    leader_left: AtomicBool,
}

/// The library OS as the node calls it.
struct SharedOs(Arc<Os>);

impl Embedder<Host> for SharedOs {
    fn signal(&self, node: &Node<'_, Host>, signal: &Signal, reply: SignalReply) {
        let is_here = match signal.target {
            Target::Process(pid) => node.pid() == Some(pid),
            Target::All => true,
            Target::Thread { .. } | Target::Group(_) => false,
        };
        let count = match signal.signal {
            TO_PROCESS => Some(&self.0.single_signals),
            TO_GROUP => Some(&self.0.group_signals),
            TO_ALL => Some(&self.0.broadcasts),
            _ => None,
        };
        if let Some(count) = count.filter(|_| is_here) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let outcome = if is_here { Ok(()) } else { Err(Errno::ESRCH) };
        let _ = reply.send(node, outcome);
    }

    fn metadata(&self, node: &Node<'_, Host>, pid: Pid, what: MetaCode, reply: MetadataReply) {
        reply_metadata(node, pid, what, reply);
    }

    fn member_left(&self, _: &Node<'_, Host>, vmid: Vmid) {
        if vmid == Vmid::LEADER {
            self.0.leader_left.store(true, Ordering::Relaxed);
        }
    }
}

/// Returns the library OS of a process that only leads. It answers requests as that of any other process.
pub(crate) fn library_os() -> Box<dyn Embedder<Host> + Send> {
    Box::new(SharedOs(Arc::default()))
}

/// Answers requests for metadata of a process of this program.
pub(crate) fn reply_metadata(
    node: &Node<'_, Host>,
    pid: Pid,
    what: MetaCode,
    reply: MetadataReply,
) {
    let program = current_exe().ok();
    let program = program.and_then(|path| std::ffi::CString::new(path.as_os_str().as_bytes()).ok());
    let metadata = match (what, &program) {
        _ if node.pid() != Some(pid) => Err(Errno::ESRCH),
        (MetaCode::Credentials, _) => {
            let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
            Ok(Metadata::Credentials { uid, gid })
        }
        (MetaCode::Executable, Some(path)) => Ok(Metadata::Path(path)),
        _ => Err(Errno::ENOENT),
    };
    let _ = reply.send(node, metadata);
}

/// Returns the limits of all processes of the family, except for the leader's tables.
pub(crate) fn capacities(members: u32) -> Capacities {
    Capacities {
        // Each process may be connected to any other.
        peers: members as usize + 64,
        children: members as usize + 64,
        ..Capacities::DEFAULT
    }
}

pub(crate) fn run(options: &Options) -> Result<u8> {
    raise_descriptor_limit().context("raising the limit of descriptors")?;
    let config = config(options.members, options.succession);
    let os = Arc::new(Os::default());
    let identity = options.process.identity;
    let embedder = Box::new(SharedOs(Arc::clone(&os)));
    let node = HostNode::start_with(&options.process.base, identity, config, embedder)?;
    let stop = stop_at_input_end(|| ());
    let mut member = Member::new(&node, options)?;
    member.timed(Kind::Join, |node, wait| node.join(wait))?;
    let started = Instant::now();
    let mut last_report = Instant::now();
    let life = options.life.map(Duration::from_millis);
    let is_orphan =
        || options.succession == Succession::None && os.leader_left.load(Ordering::Relaxed);
    let may_live = || !stop.load(Ordering::Relaxed) && !is_orphan();
    let earlier_changes = member.own_changes()?;
    while may_live() && life.is_none_or(|life| started.elapsed() < life) {
        member.step()?;
        if last_report.elapsed() >= REPORT_INTERVAL {
            last_report = Instant::now();
            send(&std::mem::take(&mut member.report));
        }
        let twice_the_mean_us = options.pause * 2000;
        sleep(Duration::from_micros(fastrand::u64(..=twice_the_mean_us)));
    }
    ensure!(!is_orphan(), "the leader is gone");
    let changes = member.own_changes()? - earlier_changes;
    ensure!(
        changes == member.changes,
        "the shared value has {changes} of {} changes by this process",
        member.changes
    );
    let exit = Exit {
        code: options.code.into(),
        ..Exit::default()
    };
    let mut report = member.leave()?;
    let begin = Instant::now();
    exit_family(
        &node,
        exit,
        Wait::at_most(Duration::from_millis(options.limit)),
    )?;
    report
        .latencies
        .of_mut(Kind::Exit)
        .add(begin.elapsed().as_nanos());
    // No more signals are delivered.
    let counts = &mut report.counts;
    counts.from_first = os.single_signals.load(Ordering::Relaxed);
    counts.by_group = os.group_signals.load(Ordering::Relaxed);
    counts.to_all = os.broadcasts.load(Ordering::Relaxed);
    counts.is_last = 1;
    send(&report);
    Ok(options.code)
}
