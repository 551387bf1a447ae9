//! The leader's side of a run: starts the members, kills one, stops the others, and checks what they leave behind.

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
use crate::summary::{self, COMPLETE, Summary};
use crate::{RunOptions, Streams, WAIT, final_checks, id_log, process_tree};

/// The time limit of a step that all members do at once.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// The time limit of members that work for a number of IDs.
const WORK_LIMIT: Duration = Duration::from_secs(600);

/// The time in which the leader must detect the end of a member.
const NOTICE_LIMIT: Duration = Duration::from_secs(30);

/// The context identifier of this machine for the sockets of virtual machines.
const LOCAL_CID: u32 = 1;

/// The range of the first port of a family: below the ports that the kernel gives to connections.
const FIRST_PORTS: Range<u16> = 10_000..20_000;

/// The number of the leader's last events that are printed after a failure.
const PRINTED_EVENTS: usize = 40;

pub(crate) fn run(options: &RunOptions) -> ExitCode {
    if options.streams == Streams::Vsock {
        let any = Addresses::Vsock {
            cid: LOCAL_CID,
            base: FIRST_PORTS.end.into(),
        };
        // Few machines have this transport, so this is no fault.
        if let Err(error) = Host::listen_at(&any, Vmid::LEADER)
            && error.kind() != ErrorKind::AddrInUse
        {
            println!("family: skipped: {error}");
            return ExitCode::SUCCESS;
        }
    }
    run_checked("family", |faults| run_in_directory(options, faults))
}

/// Makes a directory for the run, and merges the recordings of all processes at the end.
fn run_in_directory(options: &RunOptions, faults: &mut Vec<String>) -> Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("family-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .context("making a directory for the family (TMPDIR names another place)")?;
    raise_descriptor_limit().context("raising the limit of descriptors")?;
    let traces = match &options.trace {
        Some(to) => {
            // The file is made first, so that a run whose recording cannot be kept does not begin.
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
    let outcome = run_family(options, directory.path(), traces.as_deref(), faults);
    // The traces are merged even if the run has failed. All recordings have ended.
    if let (Some(traces), Some(to)) = (traces, &options.trace) {
        merge_traces(&traces, to)?;
    }
    outcome
}

/// Runs the family. After a failure it prints the leader's last events.
fn run_family(
    options: &RunOptions,
    directory: &Path,
    traces: Option<&Path>,
    faults: &mut Vec<String>,
) -> Result<()> {
    let mut run = Run::start(options, directory, traces)?;
    let outcome = run.run_both_parts(traces, faults);
    if outcome.is_err() || !faults.is_empty() {
        run.summary.finish();
        let events: Vec<_> = run.leader.events().collect();
        println!("what happened last at the leader:");
        for event in events
            .iter()
            .skip(events.len().saturating_sub(PRINTED_EVENTS))
        {
            println!("{event}");
        }
    }
    outcome
}

/// Chooses the addresses of the family, and returns them as text for the command line of its processes.
fn choose_base(options: &RunOptions, directory: &Path) -> Result<PathBuf> {
    let addresses_from = |port: u16| match options.streams {
        Streams::Unix => Addresses::Unix(directory.join("f")),
        Streams::Tcp => Addresses::Tcp {
            host: Ipv4Addr::LOCALHOST.into(),
            base: port,
        },
        Streams::Vsock => Addresses::Vsock {
            cid: LOCAL_CID,
            base: port.into(),
        },
    };
    ensure!(
        options.streams == Streams::Unix || options.secure || options.plain,
        "others can read and change plain streams on a network: add --secure (built with --features secure), or --plain"
    );
    loop {
        let addresses = addresses_from(fastrand::u16(FIRST_PORTS));
        match Host::listen_at(&addresses, Vmid::LEADER) {
            Ok(_) => return Ok(addresses.to_string().into()),
            // Another program listens at that port.
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The state of a run.
struct Run<'a> {
    options: &'a RunOptions,
    /// The members are dropped before the leader.
    processes: Processes,
    leader: FamilyNode,
    /// Where the family listens.
    base: PathBuf,
    key: Key,
    /// The events of this process.
    events: Receiver<Event>,
    /// The member that will be killed.
    victim: Vmid,
    summary: Summary,
    /// Whether SIGINT or SIGTERM has come: then the work ends.
    interrupted: Arc<AtomicBool>,
}

impl<'a> Run<'a> {
    /// Becomes the leader, and starts the members.
    fn start(options: &'a RunOptions, directory: &Path, traces: Option<&Path>) -> Result<Run<'a>> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        let base = choose_base(options, directory)?;
        let config = Config {
            capacities: Capacities::LARGE,
            ..Config::DEFAULT
        };
        let (os, events) = Os::new();
        let key = Key::generate(options.secure)?;
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
    fn run_both_parts(&mut self, traces: Option<&Path>, faults: &mut Vec<String>) -> Result<()> {
        self.work()?;
        faults.extend(self.stop()?);
        let (count, hold_faults) = final_checks::holds(&self.processes)?;
        self.summary
            .print_line(&format!("{count} holds of IDs compared"));
        faults.extend(hold_faults);
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
        let tree_faults =
            process_tree::run(leader, events, base, traces, key, options.members, summary);
        faults.extend(tree_faults.context("the process tree")?);
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
        let progress = |processes: &Processes| {
            if interrupted.load(Ordering::Relaxed) {
                COMPLETE
            } else {
                progress(options, processes, begin.elapsed())
            }
        };
        let victim_works = |processes: &Processes| {
            processes
                .member(*victim)
                .is_some_and(|member| member.counts.taken > 0)
        };
        processes.listen_until(
            "the first half of the work",
            limit,
            |processes| summary.tick(processes, leader, progress(processes)),
            |processes| progress(processes) >= COMPLETE / 2 && victim_works(processes),
        )?;
        kill(processes, leader, *victim, summary)?;
        processes.listen_until(
            "the work",
            limit,
            |processes| summary.tick(processes, leader, progress(processes)),
            |processes| progress(processes) >= COMPLETE,
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
        self.processes.send_all(Command::ReleaseAll);
        self.processes.listen_until(
            "giving back",
            STEP_LIMIT,
            |_| (),
            |processes| processes.all_at(Stage::ReleasedAll),
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

/// Returns the part of the work that is done after `time`, in thousandths: [`COMPLETE`] at the end.
fn progress(options: &RunOptions, processes: &Processes, time: Duration) -> u64 {
    let Some(ids) = options.ids else {
        let done = time.as_millis() * u128::from(COMPLETE) / options.seconds.as_millis();
        return u64::try_from(done).unwrap_or(COMPLETE);
    };
    if processes.all_at(Stage::Done) && processes.members.iter().any(Member::is_killed) {
        return COMPLETE;
    }
    let taken: u64 = processes
        .members
        .iter()
        .map(|member| member.counts.taken.min(ids))
        .sum();
    let wanted = ids.saturating_mul(processes.members.len() as u64);
    // The work is complete only when the members report that.
    (taken.saturating_mul(COMPLETE) / wanted).min(COMPLETE - 1)
}

/// Kills the member and waits until the leader has reclaimed its IDs.
fn kill(
    processes: &mut Processes,
    leader: &FamilyNode,
    victim: Vmid,
    summary: &Summary,
) -> Result<()> {
    processes.kill(victim)?;
    let killed_at = Instant::now();
    let log = processes
        .member(victim)
        .map(|member| member.log.clone())
        .context("no such member")?;
    // The log may be long. A thread reads it, since the others wait for the IDs that are transferred to them.
    let reader =
        thread::spawn(move || id_log::read(&log).map(|records| id_log::held_at_end(&records)));
    processes.listen_until(
        "reading its log",
        STEP_LIMIT,
        |_| (),
        |_| reader.is_finished(),
    )?;
    let held = reader
        .join()
        .map_err(|_| anyhow!("reading a log has panicked"))??;
    summary.print_line(&format!(
        "killed member {victim}, which held {} IDs",
        held.len()
    ));
    let is_reclaimed = |processes: &Processes| {
        let received = processes
            .transferred
            .iter()
            .filter(|transfer| transfer.to == victim)
            .map(|transfer| transfer.id);
        let is_owned_by_victim = |id| leader.owner_of(id, WAIT) == Ok(Some(victim));
        processes
            .member(victim)
            .is_some_and(|member| member.output_ended)
            && !held.iter().copied().chain(received).any(is_owned_by_victim)
    };
    let what = format!("reclaiming the IDs of member {victim}");
    processes.listen_until(&what, NOTICE_LIMIT, |_| (), is_reclaimed)?;
    summary.print_line(&format!(
        "what it had came back, {:.1?} after its death at the latest",
        killed_at.elapsed()
    ));
    Ok(())
}
