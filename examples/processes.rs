//! Three processes: the first starts two, signals one, and waits for both.
//!
//! The smallest program with processes, signals and exits. Each process is a real one, which runs
//! this program again and gets its identity on its command line.

use std::env::{args, current_exe};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use libos_ipc::host::{Host, HostNode};
use libos_ipc::{
    ChildSelector, Config, Embedder, Errno, Exit, Identity, Node, Signal, SignalReply, Target, Wait,
};

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));
const SIGUSR1: i32 = 10;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The library OS: it sends each signal to the process's only thread.
struct Os(Sender<i32>);

impl Embedder<Host> for Os {
    fn signal(&self, node: &Node<'_, Host>, signal: &Signal, reply: SignalReply) {
        let is_for_us = match signal.target {
            Target::Process(pid) => node.pid() == Some(pid),
            Target::All => true,
            _ => false,
        };
        // Signal 0 only checks that the target exists.
        if is_for_us && signal.signal != 0 {
            let _ = self.0.send(signal.signal);
        }
        let _ = reply.send(node, if is_for_us { Ok(()) } else { Err(Errno::ESRCH) });
    }
}

fn start(base: &Path, identity: Identity) -> Result<(HostNode, Receiver<i32>)> {
    let (sender, signals) = channel();
    let node = HostNode::start_with(base, identity, Config::DEFAULT, Box::new(Os(sender)))?;
    node.join(WAIT)?;
    Ok((node, signals))
}

/// Runs the first process: the leader.
fn first() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("family"); // process N listens at family.N
    let (node, _) = start(&base, Identity::LEADER)?;
    let mut pids = Vec::new();
    for name in ["one", "two"] {
        // Allocates a pid for the child, and makes it this process's child. The result is all that
        // the child needs to know.
        let child = node.start_child(WAIT)?;
        Command::new(current_exe()?)
            .arg(name)
            .arg(&base)
            .arg(child.to_string())
            .spawn()?;
        pids.extend(child.pid);
    }
    // The child may not run yet: then it gets the signal when it has joined.
    node.kill(Target::Process(pids[1]), SIGUSR1, WAIT)?;
    for _ in &pids {
        let exit = node.wait_child(ChildSelector::Any, WAIT)?;
        println!("first: process {} ended with {}", exit.pid, exit.code);
    }
    // The leader stays until the last member has ended, since members need their leader.
    node.leave(WAIT)?;
    Ok(())
}

/// Runs a child: `one` ends at once, `two` waits for a signal.
fn child(name: &str, base: &Path, identity: Identity) -> Result<()> {
    let (node, signals) = start(base, identity)?;
    println!("{name}: I am process {}", node.pid().ok_or("no pid")?);
    let code = if name == "two" {
        let signal = signals.recv_timeout(Duration::from_secs(10))?;
        println!("{name}: signal {signal} came");
        7
    } else {
        0
    };
    let exit = Exit {
        code,
        ..Exit::default()
    };
    node.exit(exit, WAIT)?;
    // Sends the remaining frames and leaves; dropping the node does so, too.
    node.shut_down(Duration::from_secs(1));
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = args().skip(1).collect();
    let [name, base, identity] = &arguments[..] else {
        return first();
    };
    child(name, Path::new(base), identity.parse()?)
}
