//! Families in memory, in one thread: a process runs only when the test polls it, so a leader can end at a certain moment.

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libos_ipc::pal::{AcceptError, ConnectError, Pal, Stream, StreamError};
use libos_ipc::testing::loopback::{Loopback, Network};
use libos_ipc::{Config, Identity, Node, Vmid, forward_pal};

use crate::family::{CONFIG, long, vmid};

/// The capacities of the network in memory: processes, streams, and the bytes of a stream.
const NODES: usize = 4;
const PIPES: usize = 24;
const BYTES: usize = 4 << 10;
type Net = Network<NODES, PIPES, BYTES>;
type Inner = Loopback<'static, NODES, PIPES, BYTES>;
pub(crate) type Process = Node<'static, LatePal>;

thread_local! {
    /// The process for which bytes are under way, and arrive later.
    static DELAYED: Cell<Option<Vmid>> = const { Cell::new(None) };
    /// The action of a test during a call of the platform.
    static ACTION: RefCell<Option<(PalCall, Vmid, Action)>> = const { RefCell::new(None) };
    /// The action of a test when this thread waits for another one.
    static WAIT_ACTION: RefCell<Option<Action>> = const { RefCell::new(None) };
}

type Action = Box<dyn FnOnce()>;

/// A call of the platform during which a test can act.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PalCall {
    Read,
    CloseStream,
    RevokeLog,
}

/// During the next such call of that process `action` is called, as if another thread ran at that moment.
pub(crate) fn during(call: PalCall, process: Vmid, action: impl FnOnce() + 'static) {
    ACTION.set(Some((call, process, Box::new(action))));
}

/// When this thread next waits until another one has unlocked something, `action` is called.
pub(crate) fn when_this_thread_waits(action: impl FnOnce() + 'static) {
    WAIT_ACTION.set(Some(Box::new(action)));
}

/// Does the action of the test for that call of that process, if there is one.
fn act(call: PalCall, process: Vmid) {
    let is_due = |next: &mut (PalCall, Vmid, Action)| (next.0, next.1) == (call, process);
    if let Some((.., action)) = ACTION.with_borrow_mut(|next| next.take_if(is_due)) {
        action();
    }
}

/// A platform on which bytes arrive late, if the test says so.
pub(crate) struct LatePal {
    inner: Inner,
    own: Vmid,
}

pub(crate) struct LateStream {
    inner: <Inner as Pal>::Stream,
    own: Vmid,
}

impl Stream for LateStream {
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        if DELAYED.get() == Some(self.own) {
            return Err(StreamError::WouldBlock);
        }
        act(PalCall::Read, self.own);
        self.inner.read(buffer)
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        self.inner.write(parts)
    }

    fn revoke_log(&self) {
        act(PalCall::RevokeLog, self.own);
    }
}

impl Drop for LateStream {
    fn drop(&mut self) {
        act(PalCall::CloseStream, self.own);
    }
}

impl LatePal {
    fn stream(&self, inner: <Inner as Pal>::Stream) -> LateStream {
        let own = self.own;
        LateStream { inner, own }
    }
}

impl Pal for LatePal {
    type Stream = LateStream;
    type Event = <Inner as Pal>::Event;
    const SUPPORTS_CALLER_READ: bool = false;
    const MAY_BE_SECURE: bool = false;

    fn contended(attempts: u32) {
        if let Some(action) = WAIT_ACTION.take() {
            action();
        }
        // A leader tries ten thousand times to write its log while the clock stands still. Few tests have another
        // thread to yield to, and a busy machine may take milliseconds for each time.
        if attempts.is_multiple_of(1_000) {
            Inner::contended(attempts);
        }
    }

    forward_pal!(inner: event, watch_listener, wait, wake, wait_event, now);
    forward_pal!(inner, stream.inner: watch, rewatch, unwatch, wait_readable);

    fn connect(&self, peer: Vmid) -> Result<LateStream, ConnectError> {
        let stream = self.inner.connect(peer)?;
        Ok(self.stream(stream))
    }

    fn accept(&self) -> Result<LateStream, AcceptError> {
        let stream = self.inner.accept()?;
        Ok(self.stream(stream))
    }
}

/// Processes that one thread polls.
pub(crate) struct Family {
    pub(crate) network: &'static Net,
    pub(crate) nodes: Vec<Rc<Process>>,
}

/// Makes the node of a process.
fn start(net: &'static Net, identity: Identity, config: Config) -> Process {
    let config = Config {
        spin: Duration::ZERO,
        // Here no heir is late unless the test says so.
        heir_patience: Config::DEFAULT.heir_patience,
        ..config
    };
    let bytes = Process::memory(&identity, &config).total();
    let memory = Box::leak(Box::new_uninit_slice(bytes));
    let own = identity.vmid;
    let inner = net.join(own).unwrap();
    Node::new(LatePal { inner, own }, identity, config, memory).unwrap()
}

/// Polls a future once. None if it is not ready.
pub(crate) fn poll<T>(future: &mut Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Option<T> {
    let mut context = Context::from_waker(Waker::noop());
    match future.as_mut().poll(&mut context) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

impl Family {
    /// Makes a family with a leader, which has joined.
    pub(crate) fn new() -> Family {
        Family::with(CONFIG)
    }

    pub(crate) fn with(config: Config) -> Family {
        let net: &'static Net = Box::leak(Box::new(Net::new()));
        let nodes = vec![Rc::new(start(net, Identity::LEADER, config))];
        let family = Family {
            network: net,
            nodes,
        };
        let leader = family.node(1);
        family.run(leader.join_async(long())).unwrap();
        family
    }

    /// Returns the process with that VMID.
    pub(crate) fn node(&self, number: u32) -> Rc<Process> {
        let mut nodes = self.nodes.iter();
        let node = nodes.find(|node| node.identity().vmid == vmid(number));
        Rc::clone(node.unwrap())
    }

    /// Starts a child of that process, which has not joined.
    pub(crate) fn start_child(&mut self, parent: &Process, config: Config) -> Rc<Process> {
        let identity = self.run(parent.start_child_async(long())).unwrap();
        let child = Rc::new(start(self.network, identity, config));
        self.nodes.push(Rc::clone(&child));
        child
    }

    /// Starts a child of that process, which has joined.
    pub(crate) fn child(&mut self, parent: &Process, config: Config) -> Rc<Process> {
        let child = self.start_child(parent, config);
        self.run(child.join_async(long())).unwrap();
        child
    }

    /// Polls each process once, and advances the time by 100 µs.
    pub(crate) fn poll_all(&self) {
        for node in &self.nodes {
            node.poll_once();
        }
        self.network.advance(Duration::from_micros(100));
    }

    /// Polls the future and the processes until the future is ready.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        for _ in 0..20_000 {
            if let Some(result) = poll(&mut future) {
                return result;
            }
            self.poll_all();
        }
        let waits = |node: &Rc<Process>| {
            let calls = node.pending_calls().map(|call| call.to_string());
            (node.identity().vmid, node.leader(), calls.collect())
        };
        let waits: Vec<(Vmid, Vmid, Vec<String>)> = self.nodes.iter().map(waits).collect();
        panic!("the call does not end: {waits:?}");
    }

    /// Bytes that are written to that process from now on arrive only when this is called with none.
    pub(crate) fn delay(process: Option<&Process>) {
        DELAYED.set(process.map(|process| process.identity().vmid));
    }

    /// Polls the processes until that time has passed.
    pub(crate) fn advance(&self, span: Duration) {
        let until = self.network.now() + span;
        while self.network.now() < until {
            self.poll_all();
        }
    }

    /// Runs the family until the first leader has named `heir` as its heir.
    pub(crate) fn await_heir(&self, heir: &Process) {
        self.await_heir_of(&self.node(1), heir);
    }

    /// Runs the family until `leader` has named `heir` as its heir, and the members know it.
    pub(crate) fn await_heir_of(&self, leader: &Process, heir: &Process) {
        let expected = Some(heir.identity().vmid);
        for _ in 0..20_000 {
            if leader.named_heir() == expected {
                // The heir learns of that, and so do the members.
                return (0..100).for_each(|_| self.poll_all());
            }
            self.poll_all();
        }
        panic!("{expected:?} is not the heir");
    }

    /// Ends the first of the processes, the leader, which sends nothing more.
    pub(crate) fn end_leader(&mut self) {
        drop(self.nodes.remove(0));
    }
}
