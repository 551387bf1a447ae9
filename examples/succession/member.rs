//! A process of the family: it runs the commands of the supervisor on its standard input, and works meanwhile.

use std::io::stdin;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{ScopedJoinHandle, scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use libos_ipc::host::{Host, HostNode};
use libos_ipc::{
    Capacities, ChildExit, ChildSelector, Config, Embedder, Errno, Error, Exit, LockLimits, Node,
    Signal, SignalReply, Target, Wait,
};

use crate::common::{ProcessOptions, heir_of, leader_faults, may_lead};
use crate::record::{Event, now, report};
use crate::work::{Counters, Files, TO_ALL, Work, changes, counters};

/// The limit of every call: a call that takes longer is a fault.
pub(crate) const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));

/// The pause between two look-ups of the thread that observes the leader.
const LOOK_UP_PAUSE: Duration = Duration::from_micros(50);

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    process: ProcessOptions,
    /// The directory of the files that are locked
    #[arg(long)]
    files: PathBuf,
    /// The slot of this process in the shared value
    #[arg(long, default_value_t = 0)]
    slot: usize,
    /// The exit code of a brief process
    #[arg(long, default_value_t = 0)]
    code: u8,
}

/// The library OS of a process.
struct Os;

impl Embedder<Host> for Os {
    fn signal(&self, node: &Node<'_, Host>, signal: &Signal, reply: SignalReply) {
        let is_here = match signal.target {
            Target::Process(pid) => node.pid() == Some(pid),
            Target::All => true,
            Target::Thread { .. } | Target::Group(_) => false,
        };
        if is_here {
            let from = signal.sender.map_or(0, |sender| sender.get().into());
            let to_all = (signal.signal == TO_ALL).into();
            report(Event::GotSignal { from, to_all });
        }
        let outcome = if is_here { Ok(()) } else { Err(Errno::ESRCH) };
        let _ = reply.send(node, outcome);
    }

    fn child_ended(&self, _: &Node<'_, Host>, exit: &ChildExit) {
        let pid = exit.pid.get().into();
        report(Event::Notified { pid });
    }
}

/// Returns the limits of every process, each of which may lead.
fn config() -> Config {
    may_lead(Config {
        capacities: Capacities {
            children: 128,
            processes: 1024,
            // A path takes several places, and so does a file that is delegated.
            locks: LockLimits {
                locks: 16_384,
                files: 2048,
                waiting: 1024,
                ..Capacities::DEFAULT.locks
            },
            ..Capacities::DEFAULT
        },
        ..Config::DEFAULT
    })
}

fn start(options: &Options) -> Result<HostNode> {
    let ProcessOptions { base, identity } = &options.process;
    let node = HostNode::start_with(base, *identity, config(), Box::new(Os))?;
    let pid = node.join(WAIT).context("joining")?.get().into();
    let vmid = identity.vmid.get().into();
    report(Event::Joined { vmid, pid });
    Ok(node)
}

/// Runs a process that joins, takes an ID, and ends.
pub(crate) fn brief(options: &Options) -> Result<u8> {
    let node = start(options)?;
    let id = node.take_id(WAIT).context("taking an ID")?.into();
    report(Event::Took { id });
    end(&node, options.code, false)
}

pub(crate) fn run(options: &Options) -> Result<u8> {
    // The kernel gives up the locks of these files before it closes the streams of a process that it kills.
    let files = Files::open(&options.files)?;
    let node = start(options)?;
    let value = counters(&node)?;
    // The worker and the observer stop before the process ends, and the reaper after that.
    let (stop, stop_reaping) = (AtomicBool::new(false), AtomicBool::new(false));
    scope(|scope| {
        let mut threads = vec![
            scope.spawn(|| report_error("observing", || observe_leader(&node, &stop))),
            scope.spawn(|| {
                report_error("working", || {
                    Work::new(&node, options.slot, &files, &value)?.run(&stop)
                });
            }),
        ];
        let reaper =
            scope.spawn(|| report_error("waiting for children", || reap(&node, &stop_reaping)));
        let outcome = run_commands(&value, &node, &stop, &mut threads);
        stop.store(true, Ordering::Relaxed);
        stop_reaping.store(true, Ordering::Relaxed);
        join(&mut threads)?;
        join(&mut vec![reaper])?;
        outcome
    })
}

/// Runs the work of a thread, and reports its error.
fn report_error(what: &str, run: impl FnOnce() -> Result<()>) {
    if let Err(error) = run() {
        report(Event::Fault(format!("{what}: {error:#}")));
    }
}

fn join(threads: &mut Vec<ScopedJoinHandle<'_, ()>>) -> Result<()> {
    for thread in threads.drain(..) {
        ensure!(thread.join().is_ok(), "a thread has panicked");
    }
    Ok(())
}

/// Runs the command in each line of standard input. Returns the exit code.
fn run_commands(
    value: &Counters<'_>,
    node: &HostNode,
    stop: &AtomicBool,
    threads: &mut Vec<ScopedJoinHandle<'_, ()>>,
) -> Result<u8> {
    for line in stdin().lines() {
        let line = line?;
        let (command, argument) = line.split_once(' ').unwrap_or((&line, ""));
        if command != "child" {
            stop.store(true, Ordering::Relaxed);
            join(threads)?;
        }
        match command {
            "child" => match node.start_child(WAIT) {
                Ok(child) => report(Event::Child(child)),
                Err(error) => report(Event::Fault(format!("preparing a child: {error}"))),
            },
            "stop" => report(Event::Stopped {}),
            "value" => report(Event::Value(changes(value)?)),
            "end" => return end(node, argument.parse()?, false),
            "end-last" => return end(node, argument.parse()?, true),
            _ => bail!("{line:?} is no command"),
        }
    }
    bail!("the supervisor is gone")
}

/// Ends this process in the family. A leader hands the family over; the last one has nothing left.
fn end(node: &HostNode, code: u8, is_last: bool) -> Result<u8> {
    report(Event::Ends { code: code.into() });
    let begin = Instant::now();
    let exit = Exit {
        code: code.into(),
        ..Exit::default()
    };
    node.exit(exit, WAIT).context("ending")?;
    node.leave(WAIT).context("leaving")?;
    let took = begin.elapsed();
    if is_last {
        node.release_idle_ranges(WAIT)?;
        for what in leader_faults(node, |_, _| true) {
            report(Event::Fault(what));
        }
    }
    // A leader that has handed over is closed already.
    let _ = node.shut_down(Duration::from_secs(5));
    let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    report(Event::Left { microseconds });
    Ok(code)
}

/// Sends look-ups to the leader all the time. Reports each leader and heir, and when the leader changes how long there was
/// no answer.
fn observe_leader(node: &HostNode, stop: &AtomicBool) -> Result<()> {
    let pid = node.pid().context("it has joined")?.get();
    let own_vmid = node.identity().vmid;
    let mut leader = node.leader();
    report(Event::Follows {
        leader: leader.get().into(),
    });
    let mut heir = 0;
    let mut last = now();
    // The answers before and after which the leader was seen to have changed.
    let mut gap_at_change: Option<(u64, u64)> = None;
    while !stop.load(Ordering::Relaxed) {
        let owner = node
            .owner_of(pid, WAIT)
            .context("looking up the owner of its pid")?;
        ensure!(
            owner == Some(own_vmid),
            "its pid {pid} belongs to {own_vmid}, not {owner:?}"
        );
        let first = now();
        // The node may name the new leader already after an answer of the old one. So the longer of two gaps counts.
        if let Some((begin, end)) = gap_at_change.take() {
            let is_longer = first - last > end - begin;
            let (last, first) = if is_longer {
                (last, first)
            } else {
                (begin, end)
            };
            let leader = leader.get().into();
            report(Event::Outage {
                leader,
                last,
                first,
            });
        }
        if node.leader() != leader {
            leader = node.leader();
            gap_at_change = Some((last, first));
            let leader = leader.get().into();
            report(Event::Follows { leader });
        }
        let new_heir = heir_of(node).map_or(0, |heir| heir.get().into());
        if new_heir != heir {
            heir = new_heir;
            report(Event::Heir { vmid: heir });
        }
        last = first;
        sleep(LOOK_UP_PAUSE);
    }
    Ok(())
}

/// Waits for children, and reports their ends.
fn reap(node: &HostNode, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        match node.wait_child(ChildSelector::Any, Wait::at_most(Duration::from_millis(50))) {
            Ok(ChildExit {
                pid, code, signal, ..
            }) => report(Event::Reaped {
                pid: pid.get().into(),
                code: code.into(),
                signal: signal.into(),
            }),
            Err(Error::NoChild) => sleep(Duration::from_millis(2)),
            Err(Error::TimedOut) => {}
            Err(Error::ShuttingDown) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
