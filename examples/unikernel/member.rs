//! The member on the host, a process of its own: it locks the ledger first, and then counts and locks as the guests do.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use libos_ipc::host::{Host, HostNode};
use libos_ipc::{
    Config, Embedder, Errno, Error, Exit, LockKind, MetaCode, Node, PATH_MAX, Pid, Shared, Signal,
    SignalReply, Target, Wait,
};

use crate::common::ProcessOptions;
use crate::shared::{
    FIRST_BYTES, GUESTS, INCREMENTS, LIMIT, MEMBER, STATE_ID, SharedState, ledger_lock, own_bytes,
    step,
};

pub(crate) const WAIT: Wait<'static> = Wait::at_most(LIMIT);

const SIGUSR1: i32 = 10;

/// The number of measured round trips, for comparison.
const ROUND_TRIPS: usize = 1000;

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    process: ProcessOptions,
    /// How many guests are going to end without an error
    #[arg(long)]
    survivors: usize,
}

/// Records the signals that are delivered.
struct Os(Sender<i32>);

impl Embedder<Host> for Os {
    fn signal(&self, node: &Node<'_, Host>, signal: &Signal, reply: SignalReply) {
        let is_for_us = signal.target == node.pid().map_or(Target::All, Target::Process);
        if is_for_us && signal.signal != 0 {
            let _ = self.0.send(signal.signal);
        }
        let _ = reply.send(node, if is_for_us { Ok(()) } else { Err(Errno::ESRCH) });
    }
}

/// The member, once it has joined.
struct Member<'n> {
    node: &'n HostNode,
    pid: Pid,
    state: Shared<'n, 'static, Host, SharedState>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let identity = options.process.identity;
    let (sender, signals) = channel();
    let os = Box::new(Os(sender));
    let node = HostNode::start_with(&options.process.base, identity, Config::DEFAULT, os)?;
    let pid = node.join(WAIT)?;
    println!("I am process {pid}, VMID {}", identity.vmid);
    let member = Member {
        node: &node,
        pid,
        state: node.share(Some(STATE_ID))?,
    };
    member.measure()?;
    member.work(options, &signals)?;
    drop(member);
    node.exit(Exit::default(), WAIT)?;
    ensure!(node.shut_down(LIMIT), "something was not sent");
    Ok(())
}

impl Member<'_> {
    fn work(&self, options: &Options, signals: &Receiver<i32>) -> Result<()> {
        self.lock(LockKind::Write, FIRST_BYTES, true)?;
        println!("has locked the ledger");
        self.reach(step::LOCKED)?;
        for guest in GUESTS {
            self.wait_for(guest, step::LOCKED)?;
        }
        self.lock(LockKind::Unlock, FIRST_BYTES, false)?;
        println!("both guests wait for the ledger: unlocked");
        for guest in GUESTS {
            self.check_guest(guest)?;
        }
        for _ in 0..INCREMENTS {
            self.state.write(WAIT).context("counting")?.counter += 1;
        }
        println!("counted {INCREMENTS} times in the shared state");
        self.reach(step::COUNTED)?;
        for guest in GUESTS {
            let own = own_bytes(guest);
            self.lock(LockKind::Write, own, true)
                .with_context(|| format!("waiting for the bytes of guest {guest}"))?;
            println!("got the bytes of guest {guest}");
            self.lock(LockKind::Unlock, own, false)?;
        }
        for _ in 0..options.survivors {
            let signal = signals.recv_timeout(LIMIT);
            println!("signal {} came", signal.context("no signal of a guest")?);
        }
        Ok(())
    }

    /// Checks the locks and the metadata of a guest that holds its own bytes of the ledger, and signals it.
    fn check_guest(&self, guest: usize) -> Result<()> {
        let pid = self.wait_for(guest, step::HELD)?;
        let own = own_bytes(guest);
        let outcome = self.lock(LockKind::Write, own, false);
        ensure!(
            outcome
                == Err(Error::Refused {
                    errno: Errno::EAGAIN,
                    by: None
                }),
            "a lock of guest {guest} is not there: {outcome:?}"
        );
        let lock = ledger_lock(self.pid.get(), LockKind::Write, own, false);
        let held = self.node.find_lock(&lock, WAIT)?;
        ensure!(
            held.is_some_and(|held| held.pid == pid.get()),
            "guest {guest} is process {pid}, but the lock says {held:?}"
        );
        let mut path = [0; PATH_MAX];
        let length = self
            .node
            .path_of(pid, MetaCode::Executable, &mut path, WAIT)?;
        let path = String::from_utf8_lossy(&path[..length]);
        ensure!(
            path == format!("/boot/guest-{guest}"),
            "guest {guest} says that it runs {path}"
        );
        let (uid, _) = self.node.credentials(pid, WAIT)?;
        println!("process {pid} is {path} of user {uid}, and has locks: signalling it");
        self.node.kill(Target::Process(pid), SIGUSR1, WAIT)?;
        Ok(())
    }

    /// Measures requests to the leader from a process on the host.
    fn measure(&self) -> Result<()> {
        let mut times = Vec::with_capacity(ROUND_TRIPS);
        for _ in 0..ROUND_TRIPS {
            let start = Instant::now();
            self.node.owner_of(self.pid.get(), WAIT)?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        println!("figure round-trip {}", times[ROUND_TRIPS / 2].as_nanos());
        Ok(())
    }

    /// Writes the step of this member to the shared state.
    fn reach(&self, step: u64) -> Result<()> {
        let mut state = self.state.write(WAIT)?;
        state.pids[MEMBER] = u64::from(self.pid.get());
        state.steps[MEMBER] = step;
        Ok(())
    }

    /// Waits until a guest has reached a step. Returns its pid.
    fn wait_for(&self, guest: usize, step: u64) -> Result<Pid> {
        let state = self
            .state
            .wait_for(WAIT, |state| state.steps[guest] >= step)
            .with_context(|| format!("waiting for guest {guest}"))?;
        Pid::new(state.pids[guest].try_into()?).context("process 0")
    }

    fn lock(&self, kind: LockKind, bytes: (u64, u64), wait: bool) -> Result<(), Error> {
        self.node
            .set_lock(&ledger_lock(self.pid.get(), kind, bytes, wait), WAIT)
    }
}
