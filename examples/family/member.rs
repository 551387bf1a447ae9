//! A member: allocates IDs, holds them for a while, transfers some, and releases the others.

use std::io::{BufRead, stdin, stdout};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use libos_ipc::{Capacities, Config, Errno, Error, Id, Identity, Vmid};

use crate::WAIT;
use crate::common::{Latency, print_line};
use crate::control::{Command, MemberMessage};
use crate::figures::{Counts, Ending, Report};
use crate::id_log::{Event, Log};
use crate::key::Key;
use crate::os::Os;
use crate::platform::FamilyNode;
use crate::snapshot::{Watcher, lock};

/// The number of IDs from which on a member takes no more.
const MAX_HELD: usize = 64;

/// The interval at which a member reports its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(crate) struct Options {
    /// Where the family listens
    #[arg(long)]
    pub(crate) base: PathBuf,
    /// This member's number
    #[arg(long, value_parser = vmid)]
    pub(crate) vmid: Vmid,
    /// The members that it transfers IDs to
    #[arg(long, value_delimiter = ',', value_parser = vmid)]
    pub(crate) others: Vec<Vmid>,
    /// The file of its ID log
    #[arg(long)]
    pub(crate) log: PathBuf,
    /// The seed of the random choices
    #[arg(long)]
    pub(crate) seed: u64,
    /// Where to record the frames that are sent and received
    #[arg(long)]
    pub(crate) traces: Option<PathBuf>,
    /// Send snapshots of this member while it works
    #[arg(long)]
    pub(crate) watched: bool,
    /// How many IDs to take; as many as there is time for if not given
    #[arg(long)]
    pub(crate) ids: Option<u64>,
    /// The key comes on the standard input
    #[arg(long)]
    pub(crate) secure: bool,
}

fn vmid(text: &str) -> Result<Vmid> {
    Vmid::new(text.parse()?).context("0 is no VMID")
}

pub(crate) fn run(options: &Options) -> Result<()> {
    // The key comes before the commands.
    let key = Key::from_parent(options.secure)?;
    let commands = read_commands();
    let config = Config {
        // Each ID that is transferred to this member is a range of its own.
        capacities: Capacities {
            own_ranges: 2048,
            ..Capacities::DEFAULT
        },
        ..Config::DEFAULT
    };
    let identity = Identity::child(options.vmid, Vmid::LEADER);
    // A member gets no signals.
    let (os, _) = Os::new();
    let traces = options.traces.as_deref();
    let node = FamilyNode::start(&options.base, identity, config, os, traces, &key)
        .with_context(|| format!("cannot join the family at {}", options.base.display()))?;
    let node = Arc::new(node);
    let recent_latency = Arc::new(Mutex::new(Latency::default()));
    let watcher = options
        .watched
        .then(|| Watcher::start(Arc::clone(&node), Arc::clone(&recent_latency)));
    let mut member = Member {
        node,
        log: Log::create(&options.log).context("cannot log")?,
        others: options.others.clone(),
        held: Vec::new(),
        counts: Counts::default(),
        latency: Latency::default(),
        recent_latency,
        random: fastrand::Rng::with_seed(options.seed),
        highest_id: 1,
        last_vmid: options.vmid,
    };
    member.owner_of(1)?;
    send(&MemberMessage::Ready)?;

    let (mut is_working, mut last_report) = (false, Instant::now());
    loop {
        // Without work the member waits for the next command.
        let command = if is_working {
            commands.try_recv().ok()
        } else {
            commands.recv().ok()
        };
        match command {
            Some(Command::Go) => is_working = true,
            Some(Command::Accept(id)) => member.accept(id)?,
            Some(Command::Gone(vmid)) => member.others.retain(|other| *other != vmid),
            Some(Command::Stop) => {
                is_working = false;
                member.report_progress()?;
                send(&MemberMessage::Stopped)?;
            }
            Some(Command::ReleaseAll) => {
                member.release_all()?;
                send(&MemberMessage::ReleasedAll)?;
            }
            Some(Command::Leave) => {
                if let Some(watcher) = watcher {
                    watcher.stop();
                }
                return member.leave();
            }
            None if is_working => {
                member.step()?;
                if options.ids.is_some_and(|ids| member.counts.taken >= ids) {
                    is_working = false;
                    member.report_progress()?;
                    send(&MemberMessage::Done)?;
                } else if last_report.elapsed() >= PROGRESS_INTERVAL {
                    last_report = Instant::now();
                    member.report_progress()?;
                }
            }
            None => bail!("the leader that started this member is gone"),
        }
    }
}

/// Reads commands in a thread. When the leader's process ends, this process ends, too.
fn read_commands() -> Receiver<Command> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in stdin().lock().lines() {
            let Ok(line) = line else { break };
            match line.parse() {
                Ok(command) => {
                    let is_last = command == Command::Leave;
                    if sender.send(command).is_err() || is_last {
                        return;
                    }
                }
                Err(error) => {
                    eprintln!("family: member: {error:#}");
                    break;
                }
            }
        }
        // The leader's process has ended.
        std::process::exit(1);
    });
    receiver
}

/// Sends a message to the leader's process.
fn send(message: &MemberMessage) -> Result<()> {
    print_line(&mut stdout().lock(), message).context("the leader's process reads no more")
}

/// The state of this member.
struct Member {
    node: Arc<FamilyNode>,
    log: Log,
    /// The members to which it transfers IDs.
    others: Vec<Vmid>,
    held: Vec<Id>,
    counts: Counts,
    /// The latencies of all requests.
    latency: Latency,
    /// The latencies of requests since the last snapshot.
    recent_latency: Arc<Mutex<Latency>>,
    random: fastrand::Rng,
    /// The highest ID that the member has got so far.
    highest_id: Id,
    /// The last VMID that the member has got from the leader.
    last_vmid: Vmid,
}

impl Member {
    fn vmid(&self) -> Vmid {
        self.node.identity().vmid
    }

    /// Makes a request to the leader, and records its latency.
    fn timed<T>(
        &mut self,
        request: impl FnOnce(&FamilyNode) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let start = Instant::now();
        let answer = request(&self.node);
        let nanoseconds = start.elapsed().as_nanos();
        self.latency.add(nanoseconds);
        lock(&self.recent_latency).add(nanoseconds);
        answer
    }

    fn owner_of(&mut self, id: Id) -> Result<Option<Vmid>> {
        self.counts.looked_up += 1;
        self.timed(|node| node.owner_of(id, WAIT))
            .with_context(|| format!("looking up ID {id}"))
    }

    /// Makes one step of work.
    fn step(&mut self) -> Result<()> {
        if self.held.len() >= MAX_HELD {
            return self.release_some();
        }
        match self.random.u32(0..100) {
            0..40 => self.take_some(),
            40..60 => self.release_some(),
            60..75 => self.look_up_own(),
            75..92 => self.look_up_any(),
            92..99 => self.transfer_id(),
            _ => self.new_vmid(),
        }
    }

    fn take_some(&mut self) -> Result<()> {
        for _ in 0..self.random.u32(1..=8) {
            let id = self.node.take_id(WAIT).context("taking an ID")?;
            self.log.write(Event::Taken, id)?;
            self.held.push(id);
            self.highest_id = self.highest_id.max(id);
            self.counts.taken += 1;
        }
        Ok(())
    }

    /// Removes any held ID from the list of held IDs.
    fn pop_any(&mut self) -> Option<Id> {
        let count = self.held.len();
        (count > 0).then(|| self.held.swap_remove(self.random.usize(0..count)))
    }

    fn release_some(&mut self) -> Result<()> {
        for _ in 0..self.random.u32(1..=16) {
            let Some(id) = self.pop_any() else { break };
            self.release(id)?;
        }
        Ok(())
    }

    fn release(&mut self, id: Id) -> Result<()> {
        self.log.write(Event::Released, id)?;
        self.node
            .release_id(id, WAIT)
            .with_context(|| format!("releasing ID {id}"))?;
        self.counts.released += 1;
        Ok(())
    }

    fn look_up_own(&mut self) -> Result<()> {
        let Some(id) = self.random.choice(&self.held).copied() else {
            return Ok(());
        };
        let owner = self.owner_of(id)?;
        ensure!(
            owner == Some(self.vmid()),
            "ID {id} is held here, but its owner is said to be {owner:?}"
        );
        Ok(())
    }

    fn look_up_any(&mut self) -> Result<()> {
        // Its owner may release it at any time, so any answer is right.
        let id = self.random.u32(1..=self.highest_id);
        self.owner_of(id).map(drop)
    }

    fn transfer_id(&mut self) -> Result<()> {
        let Some(to) = self.random.choice(&self.others).copied() else {
            return Ok(());
        };
        let Some(id) = self.pop_any() else {
            return Ok(());
        };
        self.log.write(Event::Transferred, id)?;
        match self.timed(|node| node.transfer_id(id, to, WAIT)) {
            Ok(()) => {
                self.counts.transferred += 1;
                send(&MemberMessage::Transferred { id, to })
            }
            // That member has died, and this one has not been notified yet.
            Err(
                Error::NoSuchProcess
                | Error::Refused {
                    errno: Errno::ESRCH,
                    ..
                },
            ) => {
                self.log.write(Event::Kept, id)?;
                self.held.push(id);
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("transferring ID {id} to {to}")),
        }
    }

    fn accept(&mut self, id: Id) -> Result<()> {
        self.node
            .accept_id(id)
            .with_context(|| format!("accepting ID {id}"))?;
        self.log.write(Event::Accepted, id)?;
        self.held.push(id);
        self.highest_id = self.highest_id.max(id);
        self.counts.received += 1;
        Ok(())
    }

    fn new_vmid(&mut self) -> Result<()> {
        let vmid = match self.timed(|node| node.new_vmid(WAIT)) {
            Ok(vmid) => vmid,
            // No process uses these VMIDs. Once the member has its part of them, the leader gives it no more.
            Err(Error::NoIds) if self.counts.new_vmids > 0 => return Ok(()),
            Err(error) => return Err(error).context("getting a VMID"),
        };
        ensure!(
            vmid > self.last_vmid,
            "got VMID {vmid} after {}",
            self.last_vmid
        );
        self.last_vmid = vmid;
        self.counts.new_vmids += 1;
        Ok(())
    }

    /// Releases all IDs, and waits until the leader has received that.
    fn release_all(&mut self) -> Result<()> {
        while let Some(id) = self.held.pop() {
            self.release(id)?;
        }
        self.node
            .release_idle_ranges(WAIT)
            .context("releasing the idle ID ranges")?;
        // A release has no answer; but a request after it is answered after it.
        self.owner_of(1)?;
        ensure!(
            self.node.ids_in_use() == 0,
            "IDs are in use though all were released"
        );
        Ok(())
    }

    fn report_progress(&self) -> Result<()> {
        send(&MemberMessage::Progress(self.counts))
    }

    fn leave(self) -> Result<()> {
        let all_sent = self.node.shut_down(Duration::from_secs(20));
        ensure!(all_sent, "something was not sent until the end");
        let ending = Ending::from(self.node.statistics());
        send(&MemberMessage::Report(Box::new(Report {
            counts: self.counts,
            ending,
            latency: self.latency,
        })))
    }
}
