//! A process of the process tree: starts children, signals others, waits for its children, ends.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::Receiver;

use anyhow::{Context, Result, ensure};
use clap::Args;
use libos_ipc::{ChildSelector, Config, Error, Exit, Pid, Target};

use crate::WAIT;
use crate::common::{ProcessOptions, command, exit_family, pid_of, send, spawn};
use crate::key::Key;
use crate::os::{Event, Os};
use crate::platform::FamilyNode;

/// The signal after which a process signals others.
pub(crate) const GO: i32 = 12;
/// The signal after which a process ends.
pub(crate) const TERM: i32 = 15;
/// The signal that processes send to each other.
pub(crate) const HELLO: i32 = 10;

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    process: ProcessOptions,
    /// Where to record the frames that are sent and received
    #[arg(long)]
    traces: Option<PathBuf>,
    /// How many generations come after this one
    #[arg(long)]
    below: u32,
    /// The seed of the random choices
    #[arg(long)]
    seed: u64,
    /// The key comes on the standard input
    #[arg(long)]
    secure: bool,
}

/// Starts a child of this process: the same program in another role. It has the same standard
/// output as this process.
pub(crate) fn start(
    node: &FamilyNode,
    base: &Path,
    traces: Option<&Path>,
    key: &Key,
    below: u32,
    output: impl Into<Stdio>,
) -> Result<(Pid, Child)> {
    let child = node.start_child(WAIT).context("preparing a child")?;
    let mut command = command("process", base, &child)?;
    if key.is_set() {
        command.arg("--secure").stdin(Stdio::piped());
    }
    if let Some(traces) = traces {
        command.arg("--traces").arg(traces);
    }
    command
        .args(["--below", &below.to_string()])
        .args(["--seed", &fastrand::u64(..).to_string()])
        .stdout(output);
    let mut process = match spawn(&mut command) {
        Ok(process) => process,
        Err(error) => {
            node.abandon_child(child.vmid)?;
            return Err(error).context("starting a child");
        }
    };
    if let Some(mut input) = process.stdin.take() {
        key.send(&mut input).context("giving the key to a child")?;
    }
    Ok((pid_of(&child)?, process))
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let identity = options.process.identity;
    let pid = pid_of(&identity)?;
    let parent_pid = identity.parent_pid.context("it has no parent")?;
    let (os, events) = Os::new();
    let key = Key::from_parent(options.secure)?;
    let node = FamilyNode::start(
        &options.process.base,
        identity,
        Config::DEFAULT,
        os,
        options.traces.as_deref(),
        &key,
    )?;
    node.join(WAIT).context("joining the family")?;
    fastrand::seed(options.seed);
    if options.below > 0 {
        // This process and its descendants form a group.
        node.set_group(None, None, WAIT)?;
    }
    send(&format!(
        "started {pid} {parent_pid} {}",
        std::process::id()
    ));
    let children = start_children(&node, options, &key)?;
    send(&format!("children {pid} {}", children.len()));
    let mut printer = EventPrinter {
        pid,
        events,
        ended: 0,
    };
    ensure!(
        printer.until(|_, signal| signal == Some(GO)),
        "no signal to begin has arrived"
    );
    signal_others(&node, pid)?;
    send(&format!("signalled {pid}"));
    ensure!(
        printer.until(|_, signal| signal == Some(TERM)),
        "no signal to end has arrived"
    );
    wait_for_all(&node, pid)?;
    // The notices may arrive only now.
    let have_all_ended = |printer: &EventPrinter, _| printer.ended == children.len();
    ensure!(
        have_all_ended(&printer, None) || printer.until(have_all_ended),
        "children are missing"
    );
    for mut process in children {
        let _ = process.wait();
    }
    let code = fastrand::u32(..256);
    send(&format!("exits {pid} {code}"));
    let exit = Exit {
        uid: rustix::process::getuid().as_raw(),
        code,
        signal: 0,
    };
    exit_family(&node, exit, WAIT)
}

/// Starts one or two children, if there is a generation after this one.
fn start_children(node: &FamilyNode, options: &Options, key: &Key) -> Result<Vec<Child>> {
    let Some(below) = options.below.checked_sub(1) else {
        return Ok(Vec::new());
    };
    let mut children = Vec::new();
    for _ in 0..fastrand::u32(1..=2) {
        let (base, traces) = (&options.process.base, options.traces.as_deref());
        let (_, process) = start(node, base, traces, key, below, Stdio::inherit())?;
        children.push(process);
    }
    Ok(children)
}

/// Receives the events of this process, and prints them.
struct EventPrinter {
    pid: Pid,
    events: Receiver<Event>,
    /// The number of children that have ended.
    ended: usize,
}

impl EventPrinter {
    /// Receives events until `is_last` returns true; it gets the state and the last signal. Returns false
    /// if no more events arrive.
    fn until(&mut self, is_last: impl Fn(&EventPrinter, Option<i32>) -> bool) -> bool {
        let pid = self.pid;
        loop {
            let signal = match self.events.recv() {
                Ok(Event::Signal(signal)) => {
                    let sender = signal.sender.map_or(0, Pid::get);
                    send(&format!("delivered {sender} {pid} {}", signal.signal));
                    Some(signal.signal)
                }
                Ok(Event::Ended(exit)) => {
                    self.ended += 1;
                    let (code, signal) = (exit.code, exit.signal);
                    send(&format!("ended {pid} {} {code} {signal}", exit.pid));
                    None
                }
                Ok(Event::LeaderLeft) | Err(_) => return false,
            };
            if is_last(self, signal) {
                return true;
            }
        }
    }
}

/// Signals ten other processes of the family.
fn signal_others(node: &FamilyNode, pid: Pid) -> Result<()> {
    let mut others = Vec::new();
    let mut last = None;
    while let Some(process) = node
        .next_process(last.as_ref(), WAIT)
        .with_context(|| format!("{pid} lists the processes"))?
    {
        if process.pid != pid {
            others.push(process.pid);
        }
        last = Some(process);
    }
    for _ in 0..10 {
        let to = others[fastrand::usize(..others.len())];
        node.kill(Target::Process(to), HELLO, WAIT)
            .with_context(|| format!("{pid} signals {to}"))?;
        send(&format!("sent {pid} {to} {HELLO}"));
    }
    Ok(())
}

/// Waits for all children.
fn wait_for_all(node: &FamilyNode, pid: Pid) -> Result<()> {
    loop {
        match node.wait_child(ChildSelector::Any, WAIT) {
            Ok(exit) => send(&format!("reaped {pid} {}", exit.pid)),
            Err(Error::NoChild) => return Ok(()),
            Err(error) => return Err(error).context("waiting for children"),
        }
    }
}
