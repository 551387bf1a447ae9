//! Processes of one family in one test, each with a library OS that records its calls.

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libos_ipc::events::EventKind;
use libos_ipc::host::{Host, HostNode};
use libos_ipc::wire::{MetaCode, codes};
use libos_ipc::{
    ChildExit, Config, Embedder, Errno, Exit, Id, Identity, Metadata, MetadataReply, Node, Pid,
    Signal, SignalReply, Target, Vmid, Wait,
};
// The thread sanitizer understands this mutex, but not that of the standard library.
use spin::Mutex;
use tempfile::TempDir;

/// Longer than any wait that succeeds.
pub(crate) const LONG: Duration = Duration::from_secs(10);
pub(crate) const WAIT: Wait<'static> = Wait::at_most(LONG);
/// A wait that ends at once.
pub(crate) const NOW: Wait<'static> = Wait::at_most(Duration::ZERO);

/// The recorded calls of the node.
#[derive(Default)]
pub(crate) struct RecordedCalls {
    pub(crate) signals: Vec<Signal>,
    pub(crate) ended: Vec<ChildExit>,
    pub(crate) joined: Vec<Vmid>,
    pub(crate) left: Vec<Vmid>,
    /// The parents that it got, each after the end of one.
    pub(crate) parents: Vec<Option<Pid>>,
    /// Answers that are deferred.
    pub(crate) deferred: Vec<SignalReply>,
}

/// A library OS with one process, its threads, and a policy.
#[derive(Clone, Default)]
pub(crate) struct Os {
    pub(crate) recorded: Arc<Mutex<RecordedCalls>>,
    pub(crate) pid: Arc<Mutex<Option<Pid>>>,
    pub(crate) threads: Arc<Mutex<Vec<Id>>>,
    /// The answer to every signal, if it is not success.
    pub(crate) refuses: Arc<Mutex<Option<Errno>>>,
    /// The library OS answers signals later.
    pub(crate) defers_replies: Arc<Mutex<bool>>,
    /// The answer to a request for a path.
    pub(crate) path: Arc<Mutex<Option<CString>>>,
}

impl Embedder<Host> for Os {
    fn signal(&self, node: &Node<'_, Host>, signal: &Signal, reply: SignalReply) {
        let is_here = match signal.target {
            Target::Process(pid) => Some(pid) == *self.pid.lock(),
            Target::Thread { tid, .. } => self.threads.lock().contains(&tid),
            Target::Group(_) => false,
            Target::All => true,
        };
        if !is_here {
            let _ = reply.send(node, Err(Errno::ESRCH));
            return;
        }
        if let Some(errno) = *self.refuses.lock() {
            let _ = reply.send(node, Err(errno));
            return;
        }
        if signal.signal != 0 {
            self.recorded.lock().signals.push(*signal);
        }
        if *self.defers_replies.lock() {
            self.recorded.lock().deferred.push(reply);
        } else {
            let _ = reply.send(node, Ok(()));
        }
    }

    fn metadata(&self, node: &Node<'_, Host>, pid: Pid, what: MetaCode, reply: MetadataReply) {
        let path = self.path.lock();
        let answer = match (what, &*path) {
            _ if Some(pid) != *self.pid.lock() => Err(Errno::ESRCH),
            (MetaCode::Credentials, _) => Ok(Metadata::Credentials {
                uid: 1000 + pid.get(),
                gid: 100,
            }),
            (_, Some(path)) => Ok(Metadata::Path(path)),
            (_, None) => Err(Errno::ENOENT),
        };
        let _ = reply.send(node, answer);
    }

    fn child_ended(&self, _: &Node<'_, Host>, exit: &ChildExit) {
        self.recorded.lock().ended.push(*exit);
    }

    fn parent_ended(&self, _: &Node<'_, Host>, parent: Option<Pid>) {
        self.recorded.lock().parents.push(parent);
    }

    fn member_joined(&self, _: &Node<'_, Host>, vmid: Vmid) {
        self.recorded.lock().joined.push(vmid);
    }

    fn member_left(&self, _: &Node<'_, Host>, vmid: Vmid) {
        self.recorded.lock().left.push(vmid);
    }
}

/// A process.
pub(crate) struct Process {
    pub(crate) node: HostNode,
    pub(crate) os: Os,
    pub(crate) pid: Pid,
}

impl Process {
    fn start(base: &std::path::Path, identity: Identity, config: Config, os: Os) -> Process {
        // A signal may arrive as soon as the process has joined.
        *os.pid.lock() = identity.pid;
        let node = HostNode::start_with(base, identity, config, Box::new(os.clone())).unwrap();
        let pid = node.join(WAIT).unwrap();
        *os.pid.lock() = Some(pid);
        Process { node, os, pid }
    }

    pub(crate) fn vmid(&self) -> Vmid {
        self.node.identity().vmid
    }

    /// Returns the delivered signals, in their order.
    pub(crate) fn signals(&self) -> Vec<i32> {
        let recorded = self.os.recorded.lock();
        recorded
            .signals
            .iter()
            .map(|signal| signal.signal)
            .collect()
    }

    /// Returns the reported ends of children: pid, exit code and signal.
    pub(crate) fn ended(&self) -> Vec<(Pid, u32, u32)> {
        let recorded = self.os.recorded.lock();
        let exits = recorded.ended.iter();
        exits
            .map(|exit| (exit.pid, exit.code, exit.signal))
            .collect()
    }

    /// Returns the parents that it got, each after the end of one.
    pub(crate) fn parents(&self) -> Vec<Option<Pid>> {
        self.os.recorded.lock().parents.clone()
    }

    /// Ends with this code.
    pub(crate) fn exit(self, code: u32) {
        let exit = Exit {
            uid: 7,
            code,
            signal: 0,
        };
        self.node.exit(exit, WAIT).unwrap();
        self.node.release_idle_ranges(WAIT).unwrap();
        assert!(self.node.shut_down(LONG));
    }

    /// Ends without an exit report.
    pub(crate) fn die(self) {
        self.node.shut_down(Duration::ZERO);
    }
}

/// A family and its first process.
pub(crate) struct Family {
    _directory: TempDir,
    pub(crate) base: PathBuf,
    pub(crate) first: Process,
}

impl Family {
    pub(crate) fn new() -> Family {
        Family::led_with(Config::DEFAULT)
    }

    /// Makes a family whose first process has this configuration.
    pub(crate) fn led_with(config: Config) -> Family {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("f");
        let first = Process::start(&base, Identity::LEADER, config, Os::default());
        Family {
            _directory: directory,
            base,
            first,
        }
    }

    /// Starts a child of that process.
    pub(crate) fn child_of(&self, parent: &Process) -> Process {
        self.start(parent.node.start_child(WAIT).unwrap())
    }

    /// Starts the process with that identity.
    pub(crate) fn start(&self, identity: Identity) -> Process {
        self.start_with_os(identity, Os::default())
    }

    /// Starts the process with that identity and library OS.
    pub(crate) fn start_with_os(&self, identity: Identity, os: Os) -> Process {
        Process::start(&self.base, identity, Config::DEFAULT, os)
    }

    /// Starts the process with that identity and configuration.
    pub(crate) fn start_with_config(&self, identity: Identity, config: Config) -> Process {
        Process::start(&self.base, identity, config, Os::default())
    }

    /// Starts a child of the first process.
    pub(crate) fn child(&self) -> Process {
        self.child_of(&self.first)
    }

    /// Calls `then` while the leader's worker is busy with a request of `other`, so that no request is answered.
    pub(crate) fn while_the_leader_is_busy<T>(
        &self,
        other: &Process,
        then: impl FnOnce() -> T,
    ) -> T {
        std::thread::scope(|scope| {
            // The callback for metadata waits until this lock is free.
            let busy = self.first.os.path.lock();
            let last = self.first.node.events().last();
            let last = last.map_or(0, |event| event.number);
            let asking = scope.spawn(|| other.node.credentials(self.first.pid, WAIT));
            until("the leader handles the request", || {
                let mut events = self.first.node.events();
                events.any(|event| {
                    event.number > last
                        && matches!(event.kind, EventKind::FrameIn(frame) if frame.code == codes::PID_GETMETA)
                })
            });
            let outcome = then();
            drop(busy);
            assert!(asking.join().unwrap().is_ok());
            outcome
        })
    }
}

/// Waits for a condition that another thread makes true.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "never: {what}");
        std::thread::yield_now();
    }
}
