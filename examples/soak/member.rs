//! A process: joins, does one thing after the other until its life is over, and ends.

use std::env::current_exe;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use libos_ipc::error::errno::{EDEADLK, ENOENT, ESRCH};
use libos_ipc::host::{Host, HostNode, raise_descriptor_limit};
use libos_ipc::wire::{FileLock, LockFamily, LockKind, MetaCode, Process, ProcessState};
use libos_ipc::{
    Capacities, Config, Embedder, Error, Exit, Id, Metadata, MetadataReply, Node, PATH_MAX, Shared,
    Signal, SignalReply, Target, Vmid, Wait,
};
use rustix::process::{getgid, getuid};

use crate::common::{ProcessOptions, end, over, tell};
use crate::figures::{Kind, Report};
use crate::shared::{Guarded, PART, PARTS, SHARERS, Value};

/// How often a process says what it has done.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// What the leader signals to one, to a group, and to all.
pub(crate) const ONE: i32 = 10;
pub(crate) const GROUP: i32 = 12;
pub(crate) const ALL: i32 = 18;
/// What processes send each other, and the leader.
pub(crate) const HELLO: i32 = 17;

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    process: ProcessOptions,
    /// The file that all lock; that with `.flock` besides is locked with flock
    #[arg(long)]
    file: PathBuf,
    /// This process's place
    #[arg(long)]
    place: u32,
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
    limit: u64,
    /// What to end with
    #[arg(long)]
    code: u8,
}

/// Counts the signals that come, and answers what is asked.
#[derive(Default)]
struct Os {
    ones: AtomicU64,
    groups: AtomicU64,
    alls: AtomicU64,
    leader_left: AtomicBool,
}

struct OsOf(Arc<Os>);

impl Embedder<Host> for OsOf {
    fn signal(&self, node: &Node<'_, Host>, signal: &Signal, reply: SignalReply) {
        let is_here = match signal.target {
            Target::Process(pid) => node.pid() == Some(pid),
            Target::All => true,
            Target::Thread { .. } | Target::Group(_) => false,
        };
        let count = match signal.signal {
            ONE => Some(&self.0.ones),
            GROUP => Some(&self.0.groups),
            ALL => Some(&self.0.alls),
            _ => None,
        };
        if let Some(count) = count.filter(|_| is_here) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let outcome = if is_here { Ok(()) } else { Err(ESRCH) };
        let _ = reply.send(node, outcome);
    }

    fn metadata(&self, node: &Node<'_, Host>, pid: Id, what: MetaCode, reply: MetadataReply) {
        answer(node, pid, what, reply);
    }

    fn member_left(&self, _: &Node<'_, Host>, vmid: Vmid) {
        if vmid == Vmid::FIRST {
            self.0.leader_left.store(true, Ordering::Relaxed);
        }
    }
}

/// Answers what is asked about a process of this program.
pub(crate) fn answer(node: &Node<'_, Host>, pid: Id, what: MetaCode, reply: MetadataReply) {
    let program = current_exe().ok();
    let program = program.and_then(|path| std::ffi::CString::new(path.as_os_str().as_bytes()).ok());
    let known = match (what, &program) {
        _ if node.pid() != Some(pid) => Err(ESRCH),
        (MetaCode::Credentials, _) => {
            let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
            Ok(Metadata::Credentials { uid, gid })
        }
        (MetaCode::Executable, Some(path)) => Ok(Metadata::Path(path)),
        _ => Err(ENOENT),
    };
    let _ = reply.send(node, known);
}

/// The limits that all processes of the family have, but for the leader's tables.
pub(crate) fn capacities(members: u32) -> Capacities {
    Capacities {
        // Each may have to do with any other.
        peers: members as usize + 64,
        children: members as usize + 64,
        ..Capacities::DEFAULT
    }
}

pub(crate) fn run(options: &Options) -> Result<u8> {
    raise_descriptor_limit().context("raising the limit of descriptors")?;
    let config = Config {
        capacities: capacities(options.members),
        ..Config::DEFAULT
    };
    let os = Arc::new(Os::default());
    let identity = options.process.identity()?;
    let embedder = Box::new(OsOf(Arc::clone(&os)));
    let node = HostNode::start_with(&options.process.base, identity, config, embedder)?;
    let over = over(|| ());
    let mut member = Member::new(&node, options)?;
    member.timed(Kind::Join, |node, wait| node.join(wait))?;
    let born = Instant::now();
    let mut told = Instant::now();
    let life = options.life.map(Duration::from_millis);
    let lives = || !over.load(Ordering::Relaxed) && !os.leader_left.load(Ordering::Relaxed);
    let start = member.own_changes()?;
    while lives() && life.is_none_or(|life| born.elapsed() < life) {
        member.step()?;
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tell(&std::mem::take(&mut member.report));
        }
        sleep(Duration::from_micros(fastrand::u64(
            ..=options.pause * 2000,
        )));
    }
    ensure!(
        !os.leader_left.load(Ordering::Relaxed),
        "the leader is gone"
    );
    let changes = member.own_changes()? - start;
    ensure!(
        changes == member.changes,
        "the shared value has {changes} of {} changes",
        member.changes
    );
    let exit = Exit {
        code: options.code.into(),
        ..Exit::default()
    };
    let mut report = member.leave()?;
    let begin = Instant::now();
    end(
        &node,
        exit,
        Wait::at_most(Duration::from_millis(options.limit)),
    )?;
    report
        .latencies
        .of_mut(Kind::Exit)
        .add(begin.elapsed().as_nanos());
    // Nothing comes any more.
    let counts = &mut report.counts;
    counts.from_first = os.ones.load(Ordering::Relaxed);
    counts.by_group = os.groups.load(Ordering::Relaxed);
    counts.to_all = os.alls.load(Ordering::Relaxed);
    counts.last = 1;
    tell(&report);
    Ok(options.code)
}

struct Member<'a> {
    node: &'a HostNode,
    options: &'a Options,
    pid: Id,
    wait: Wait<'static>,
    shared_file: Guarded,
    flocked: PathBuf,
    flocked_file: Guarded,
    /// What it shares with some others; they all have it open.
    value: Shared<'a, 'static, Host, Value>,
    held: Vec<Id>,
    /// A process, to ask after the next one.
    last: Option<Process>,
    /// How often it has changed the value that is shared.
    changes: u64,
    report: Report,
}

impl<'a> Member<'a> {
    fn new(node: &'a HostNode, options: &'a Options) -> Result<Member<'a>> {
        let mut flocked = options.file.clone();
        flocked.add_extension("flock");
        Ok(Member {
            node,
            options,
            pid: node.identity().pid,
            wait: Wait::at_most(Duration::from_millis(options.limit)),
            shared_file: Guarded::open(&options.file).context("the shared file")?,
            flocked_file: Guarded::open(&flocked).context("the file for flock")?,
            flocked,
            value: node.share(Some(value_of(options.place)))?,
            held: Vec::new(),
            last: None,
            changes: 0,
            report: Report::default(),
        })
    }

    /// Makes a call, and notes how long it took.
    fn timed<T>(
        &mut self,
        kind: Kind,
        call: impl FnOnce(&'a HostNode, Wait<'static>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let begin = Instant::now();
        let outcome = call(self.node, self.wait);
        let took = begin.elapsed().as_nanos();
        self.report.latencies.of_mut(kind).add(took);
        outcome
    }

    /// One thing or another.
    fn step(&mut self) -> Result<()> {
        match fastrand::u32(..8) {
            0 => self.ids().context("IDs"),
            1 => self.processes().context("processes"),
            2 => self.signals().context("signals"),
            3 => self.metadata().context("metadata"),
            4 => self.own_file().context("a file of its own"),
            5 => self.shared_files().context("the shared files"),
            6 => self.own_value().context("a value of its own"),
            _ => self.shared_value().context("the shared value"),
        }
    }

    fn ids(&mut self) -> Result<()> {
        for _ in 0..fastrand::u32(1..=8) {
            let id = self.timed(Kind::Id, |node, wait| node.take_id(wait))?;
            self.held.push(id);
            self.report.counts.taken += 1;
        }
        let own = self.held[fastrand::usize(..self.held.len())];
        let us = self.node.identity().vmid;
        let owner = self.timed(Kind::Id, |node, wait| node.owner_of(own, wait))?;
        ensure!(owner == Some(us), "{own} belongs to {us}, not {owner:?}");
        let keep = fastrand::usize(..=32);
        while self.held.len() > keep {
            self.release()?;
        }
        Ok(())
    }

    fn release(&mut self) -> Result<()> {
        if let Some(id) = self.held.pop() {
            self.timed(Kind::Id, |node, wait| node.release_id(id, wait))?;
            self.report.counts.released += 1;
        }
        Ok(())
    }

    /// The next process in the list of all, if it runs and is another.
    fn another(&mut self) -> Result<Option<Id>, Error> {
        let last = self.last;
        self.last = self.timed(Kind::Process, |node, wait| {
            node.next_process(last.as_ref(), wait)
        })?;
        Ok(self
            .last
            .filter(|process| process.state == ProcessState::Running && process.pid != self.pid)
            .map(|process| process.pid))
    }

    fn processes(&mut self) -> Result<()> {
        let own = self.timed(Kind::Process, |node, wait| node.process(0, wait))?;
        ensure!(
            own.pid == self.pid && own.vmid == self.node.identity().vmid.get(),
            "it is {}, and not {own:?}",
            self.pid
        );
        if own.group != self.pid && fastrand::bool() {
            self.timed(Kind::Process, |node, wait| node.set_group(0, 0, wait))?;
            let group = self.timed(Kind::Process, |node, wait| node.group_of(0, wait))?;
            ensure!(group == self.pid, "its own group is {group}");
        }
        for _ in 0..4 {
            self.another()?;
        }
        Ok(())
    }

    fn signals(&mut self) -> Result<()> {
        let first = self.node.identity().parent_pid;
        self.timed(Kind::Signal, |node, wait| {
            node.kill(Target::Process(first), HELLO, wait)
        })?;
        self.report.counts.to_first += 1;
        if let Some(other) = self.another()? {
            let sent = self.timed(Kind::Signal, |node, wait| {
                node.kill(Target::Process(other), HELLO, wait)
            });
            let came = u64::from(if_there(sent)?.is_some());
            if other == first {
                self.report.counts.to_first += came;
            } else {
                self.report.counts.to_others += came;
            }
        }
        Ok(())
    }

    fn metadata(&mut self) -> Result<()> {
        let pid = match self.another()? {
            Some(other) => other,
            None => self.node.identity().parent_pid,
        };
        let whose = self.timed(Kind::Metadata, |node, wait| node.credentials(pid, wait));
        if let Some(whose) = if_there(whose)? {
            let ours = (getuid().as_raw(), getgid().as_raw());
            ensure!(whose == ours, "{pid} is said to be of {whose:?}");
        }
        let mut path = [0; PATH_MAX];
        let length = self.timed(Kind::Metadata, |node, wait| {
            node.path_of(pid, MetaCode::Executable, &mut path, wait)
        });
        if let Some(length) = if_there(length)? {
            let (path, program) = (&path[..length], current_exe()?);
            let path = path.strip_suffix(&[0]).unwrap_or(path);
            ensure!(
                path == program.as_os_str().as_bytes(),
                "{pid} runs another program"
            );
        }
        Ok(())
    }

    fn set_lock(&mut self, kind: Kind, lock: &FileLock<'_>) -> Result<(), Error> {
        self.timed(kind, |node, wait| node.set_lock(lock, wait))
    }

    fn lock<'p>(&self, path: &'p [u8], kind: LockKind, start: u64, end: u64) -> FileLock<'p> {
        FileLock {
            family: LockFamily::Posix,
            kind,
            start,
            end,
            pid: self.pid,
            handle: 0,
            wait: true,
            path,
        }
    }

    /// Locks in a file that nobody else uses: it is lent.
    fn own_file(&mut self) -> Result<()> {
        let path = format!("own file of {}", self.pid);
        let path = path.as_bytes();
        for at in 0..8 {
            let kind = if fastrand::bool() {
                LockKind::Write
            } else {
                LockKind::Read
            };
            let lock = self.lock(path, kind, at * 10, at * 10 + fastrand::u64(..20));
            self.set_lock(Kind::OwnLock, &lock)?;
        }
        let all = self.lock(path, LockKind::Write, 0, u64::MAX);
        let found = self.timed(Kind::OwnLock, |node, wait| node.find_lock(&all, wait))?;
        ensure!(found.is_none(), "{found:?} is in a file of its own");
        if fastrand::bool() {
            let all = self.lock(path, LockKind::Unlock, 0, u64::MAX);
            self.set_lock(Kind::OwnLock, &all)?;
        }
        Ok(())
    }

    /// Locks that others want, too: first of one part, then perhaps of another, which may be a
    /// deadlock; or `flock` of the other file.
    fn shared_files(&mut self) -> Result<()> {
        let kind = Kind::SharedLock;
        let options = self.options;
        if fastrand::u32(..3) == 0 {
            let path = self.flocked.clone();
            let read = fastrand::bool();
            let lock = FileLock {
                family: LockFamily::Flock,
                kind: if read {
                    LockKind::Read
                } else {
                    LockKind::Write
                },
                handle: u64::from(self.pid),
                ..self.lock(path.as_os_str().as_bytes(), LockKind::Write, 0, u64::MAX)
            };
            self.set_lock(kind, &lock)?;
            if read {
                self.flocked_file.see_none(self.node, 0, self.wait)?;
            } else {
                self.flocked_file
                    .use_alone(self.node, 0, self.pid, self.wait)?;
            }
            let unlock = FileLock {
                kind: LockKind::Unlock,
                ..lock
            };
            self.set_lock(kind, &unlock)?;
            return Ok(());
        }
        let path = options.file.as_os_str().as_bytes();
        for _ in 0..fastrand::u32(1..=2) {
            let part = fastrand::u64(..PARTS);
            let lock = self.lock(path, LockKind::Write, part * PART, part * PART + PART - 1);
            match self.set_lock(kind, &lock) {
                Ok(()) => self
                    .shared_file
                    .use_alone(self.node, part, self.pid, self.wait)?,
                Err(Error::Refused(EDEADLK)) => {
                    self.report.counts.deadlocks += 1;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let all = self.lock(path, LockKind::Unlock, 0, u64::MAX);
        Ok(self.set_lock(kind, &all)?)
    }

    fn own_value(&mut self) -> Result<()> {
        let node = self.node;
        let value = node.share::<u64>(None)?;
        let wait = self.wait;
        let begin = Instant::now();
        *value.write(wait)? += 7;
        let seen = *value.read(wait)?;
        drop(value);
        let took = begin.elapsed().as_nanos();
        self.report.latencies.of_mut(Kind::OwnValue).add(took);
        ensure!(seen == 7, "7 was written, and {seen} read");
        Ok(())
    }

    /// Changes, or reads, the value that this process shares with some others.
    fn shared_value(&mut self) -> Result<()> {
        let wait = self.wait;
        let place = self.place();
        for _ in 0..fastrand::u32(1..=8) {
            let begin = Instant::now();
            if fastrand::u32(..4) == 0 {
                let value = self.value.read(wait)?;
                ensure!(value.is_sound(), "the shared value is torn");
            } else {
                let mut value = self.value.write(wait)?;
                ensure!(value.is_sound(), "the shared value is torn");
                value.sum += 1;
                value.by_place[place] += 1;
                self.changes += 1;
                self.report.counts.changes += 1;
            }
            let took = begin.elapsed().as_nanos();
            self.report.latencies.of_mut(Kind::SharedValue).add(took);
        }
        Ok(())
    }

    /// This process's place in the shared value.
    fn place(&self) -> usize {
        (self.options.place % SHARERS) as usize
    }

    /// How often the process at this place has changed the shared value.
    fn own_changes(&self) -> Result<u64, Error> {
        Ok(self.value.read(self.wait)?.by_place[self.place()])
    }

    /// Gives back what it has.
    fn leave(mut self) -> Result<Report> {
        while !self.held.is_empty() {
            self.release()?;
        }
        Ok(self.report)
    }
}

/// The number of the value that the process at a place shares with others.
pub(crate) fn value_of(place: u32) -> u64 {
    u64::from(place / SHARERS) + 1
}

/// What is known of another process; nothing if it has ended meanwhile.
fn if_there<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Error::NoSuchProcess | Error::Refused(ESRCH)) => Ok(None),
        Err(error) => Err(error),
    }
}
