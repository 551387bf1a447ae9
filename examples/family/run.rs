//! The leader's side of a run: starts the members, kills one, stops the others, and checks the
//! remains.

use std::fs::{File, Permissions, create_dir};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use libos_ipc::host::{Addresses, Host, raise_descriptor_limit};
use libos_ipc::{Capacities, Config, Identity, Vmid};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::common::{leader_faults, run_checked};
use crate::control::Command;
use crate::key::Key;
use crate::os::{Event, Os};
use crate::platform::{FamilyNode, merge_traces};
use crate::processes::{Member, Processes, Stage, Start};
use crate::summary::{self, ALL, Summary};
use crate::{RunOptions, Streams, WAIT, final_checks, id_log, world};

/// The time limit of a step that all members do at once.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// The time limit of members that work for a number of IDs.
const WORK_LIMIT: Duration = Duration::from_secs(600);

/// The time in which the leader must detect the end of a member.
const NOTICE_LIMIT: Duration = Duration::from_secs(30);

/// The context identifier of this machine for the sockets of virtual machines.
const THIS_MACHINE: u32 = 1;

/// Where the ports of a family begin: below those that the kernel gives to connections.
const PORTS: Range<u16> = 10_000..20_000;

/// The number of the leader's last events that are printed.
const EVENTS: usize = 40;

pub(crate) fn run(options: &RunOptions) -> ExitCode {
    if options.streams == Streams::Vsock {
        let any = Addresses::Vsock {
            cid: THIS_MACHINE,
            base: PORTS.end.into(),
        };
        // Few machines have this transport, so this is no fault.
        if let Err(error) = Host::listen_at(&any, Vmid::LEADER)
            && error.kind() != ErrorKind::AddrInUse
        {
            println!("family: skipped: {error}");
            return ExitCode::SUCCESS;
        }
    }
    run_checked("family", |faults| family(options, faults))
}

fn family(options: &RunOptions, faults: &mut Vec<String>) -> Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("family-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .context("making a directory for the family (TMPDIR names another place)")?;
    raise_descriptor_limit().context("raising the limit of descriptors")?;
    let traces = match &options.trace {
        Some(to) => {
            // The file is made first: else the run would be over before it is known that its recording cannot be kept.
            File::create(to).with_context(|| {
                let to = to.display();
                format!("cannot write {to}: give --trace a file in a directory that is there")
            })?;
            let traces = directory.path().join("traces");
            create_dir(&traces).context("a directory for the recordings")?;
            Some(traces)
        }
        None => None,
    };
    let outcome = live(options, directory.path(), traces.as_deref(), faults);
    // The traces are merged even if the run has failed. All recordings have ended.
    if let (Some(traces), Some(to)) = (traces, &options.trace) {
        merge_traces(&traces, to)?;
    }
    outcome
}

fn live(
    options: &RunOptions,
    directory: &Path,
    traces: Option<&Path>,
    faults: &mut Vec<String>,
) -> Result<()> {
    let mut run = Run::start(options, directory, traces)?;
    let outcome = run.all(traces, faults);
    if outcome.is_err() || !faults.is_empty() {
        run.summary.finish();
        let events: Vec<_> = run.leader.events().collect();
        println!("what happened last at the leader:");
        for event in events.iter().skip(events.len().saturating_sub(EVENTS)) {
            println!("{event}");
        }
    }
    outcome
}

/// Returns where the family listens, as text for the command line of its processes.
fn base(options: &RunOptions, directory: &Path) -> Result<PathBuf> {
    let make = |port: u16| match options.streams {
        Streams::Unix => Addresses::Unix(directory.join("f")),
        Streams::Tcp => Addresses::Tcp {
            host: Ipv4Addr::LOCALHOST.into(),
            base: port,
        },
        Streams::Vsock => Addresses::Vsock {
            cid: THIS_MACHINE,
            base: port.into(),
        },
    };
    ensure!(
        options.streams == Streams::Unix || options.secure || options.plain,
        "others can read and change plain streams on a network: add --secure (built with --features secure), or --plain"
    );
    loop {
        let addresses = make(fastrand::u16(PORTS));
        match Host::listen_at(&addresses, Vmid::LEADER) {
            Ok(_) => return Ok(addresses.to_string().into()),
            // Another program is at that port.
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    }
}

struct Run<'a> {
    options: &'a RunOptions,
    /// The members are dropped before the leader.
    processes: Processes,
    leader: FamilyNode,
    base: PathBuf,
    key: Key,
    /// The events of this process.
    events: Receiver<Event>,
    /// The member that will be killed.
    victim: Vmid,
    summary: Summary,
    interrupted: Arc<AtomicBool>,
}

impl<'a> Run<'a> {
    /// Becomes the leader, and starts the members.
    fn start(options: &'a RunOptions, directory: &Path, traces: Option<&Path>) -> Result<Run<'a>> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        let base = base(options, directory)?;
        let config = Config {
            capacities: Capacities::LARGE,
            ..Config::DEFAULT
        };
        let (os, events) = Os::new();
        let key = Key::fresh(options.secure)?;
        let leader = FamilyNode::start(&base, Identity::LEADER, config, os, traces, &key)?;

        let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
        let mut random = fastrand::Rng::with_seed(seed);
        let vmids: Vec<Vmid> = (0..options.members)
            .map(|_| leader.new_vmid(WAIT))
            .collect::<Result<_, _>>()?;
        let victim = random.choice(&vmids).copied().context("no members")?;
        let summary = Summary::new(options);
        summary.print_line(&format!(
            "members: {}; member {victim} is going to be killed; seed {seed}",
            vmids.len()
        ));

        let mut processes = Processes::new();
        for vmid in &vmids {
            processes.start(Start {
                base: &base,
                key: &key,
                vmid: *vmid,
                others: vmids
                    .iter()
                    .copied()
                    .filter(|other| other != vmid)
                    .collect(),
                log: directory.join(format!("log.{vmid}")),
                seed: random.u64(..),
                // The member that will be killed works until then.
                ids: options.ids.filter(|_| *vmid != victim),
                traces,
                is_watched: options.top,
            })?;
        }
        Ok(Run {
            options,
            processes,
            leader,
            base,
            key,
            events,
            victim,
            summary,
            interrupted,
        })
    }

    /// Runs the work of the members, and then the process tree.
    fn all(&mut self, traces: Option<&Path>, faults: &mut Vec<String>) -> Result<()> {
        self.work()?;
        faults.extend(self.stop()?);
        let (count, overlaps) = final_checks::holds(&self.processes)?;
        self.summary
            .print_line(&format!("{count} holds of IDs compared"));
        faults.extend(overlaps);
        summary::print_tables(&self.processes, &self.leader.statistics());
        let Run {
            leader,
            base,
            key,
            events,
            summary,
            options,
            ..
        } = self;
        let world = world::run(leader, events, base, traces, key, options.members, summary);
        faults.extend(world.context("the world of processes")?);
        leader.release_idle_ranges(WAIT)?;
        faults.extend(leader_faults(leader, |_, _| false));
        Ok(())
    }

    /// Runs the members from their start to the end of their work, with one death in between.
    fn work(&mut self) -> Result<()> {
        self.processes.listen_until(
            "starting",
            STEP_LIMIT,
            |_| (),
            |processes| processes.all_at(Stage::Ready),
        )?;
        self.summary.print_line("all have joined");
        self.processes.send_all(Command::Go);
        let begin = Instant::now();
        let Run {
            options,
            processes,
            leader,
            victim,
            summary,
            interrupted,
            ..
        } = self;
        let limit = if options.ids.is_some() {
            WORK_LIMIT
        } else {
            options.seconds + STEP_LIMIT
        };
        let done = |processes: &Processes| {
            if interrupted.load(Ordering::Relaxed) {
                ALL
            } else {
                done(options, processes, begin.elapsed())
            }
        };
        let has_begun = |processes: &Processes| {
            processes
                .member(*victim)
                .is_some_and(|member| member.counts.taken > 0)
        };
        processes.listen_until(
            "the first half of the work",
            limit,
            |processes| summary.tick(processes, leader, done(processes)),
            |processes| done(processes) >= ALL / 2 && has_begun(processes),
        )?;
        kill(processes, leader, *victim, summary)?;
        processes.listen_until(
            "the work",
            limit,
            |processes| summary.tick(processes, leader, done(processes)),
            |processes| done(processes) >= ALL,
        )
    }

    /// Ends the work: no member releases IDs or leaves before all have stopped transferring IDs.
    /// Returns the faults at that point.
    fn stop(&mut self) -> Result<Vec<String>> {
        self.processes.send_all(Command::Stop);
        self.processes.listen_until(
            "stopping",
            STEP_LIMIT,
            |_| (),
            |processes| processes.all_at(Stage::Stopped),
        )?;
        self.processes.send_all(Command::Empty);
        self.processes.listen_until(
            "giving back",
            STEP_LIMIT,
            |_| (),
            |processes| processes.all_at(Stage::Emptied),
        )?;
        self.summary.finish();
        self.summary
            .print_line("all have stopped and given back what they had");
        let mut faults = final_checks::table(&self.leader, &self.processes)?;
        self.processes.send_all(Command::Leave);
        let all_left =
            |processes: &Processes| processes.members.iter().all(|member| member.output_ended);
        self.processes
            .listen_until("leaving", STEP_LIMIT, |_| (), all_left)?;
        faults.extend(leader_faults(&self.leader, |_, _| false));
        faults.extend(final_checks::members(&self.processes));
        Ok(faults)
    }
}

/// Returns the part of the work that is done, of [`ALL`].
fn done(options: &RunOptions, processes: &Processes, time: Duration) -> u64 {
    let Some(ids) = options.ids else {
        let done = time.as_millis() * u128::from(ALL) / options.seconds.as_millis();
        return u64::try_from(done).unwrap_or(ALL);
    };
    if processes.all_at(Stage::Done) && processes.members.iter().any(Member::is_killed) {
        return ALL;
    }
    let taken: u64 = processes
        .members
        .iter()
        .map(|member| member.counts.taken.min(ids))
        .sum();
    let wanted = ids.saturating_mul(processes.members.len() as u64);
    // The work is complete only when the members report that.
    (taken.saturating_mul(ALL) / wanted).min(ALL - 1)
}

/// Kills the member and waits until the leader has reclaimed its IDs.
fn kill(
    processes: &mut Processes,
    leader: &FamilyNode,
    victim: Vmid,
    summary: &Summary,
) -> Result<()> {
    processes.kill(victim)?;
    let since = Instant::now();
    let log = processes
        .member(victim)
        .map(|member| member.log.clone())
        .context("no such member")?;
    // The log may be long, and the others wait for their transferred IDs.
    let reading =
        thread::spawn(move || id_log::read(&log).map(|records| id_log::held_at_end(&records)));
    processes.listen_until(
        "reading its log",
        STEP_LIMIT,
        |_| (),
        |_| reading.is_finished(),
    )?;
    let held = reading
        .join()
        .map_err(|_| anyhow!("reading a log has panicked"))??;
    summary.print_line(&format!(
        "killed member {victim}, which held {} IDs",
        held.len()
    ));
    let came_back = |processes: &Processes| {
        let given = processes
            .transferred
            .iter()
            .filter(|gift| gift.to == victim)
            .map(|gift| gift.id);
        let its = |id| leader.owner_of(id, WAIT) == Ok(Some(victim));
        processes
            .member(victim)
            .is_some_and(|member| member.output_ended)
            && !held.iter().copied().chain(given).any(its)
    };
    let what = format!("taking back what member {victim} had");
    processes.listen_until(&what, NOTICE_LIMIT, |_| (), came_back)?;
    summary.print_line(&format!(
        "what it had came back, {:.1?} after its death at the latest",
        since.elapsed()
    ));
    Ok(())
}
