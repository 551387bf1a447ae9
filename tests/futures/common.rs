//! A family in memory, in one thread, and an executor that polls a task only after a wake.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use libos_ipc::testing::loopback::{Loopback, Network};
use libos_ipc::{Config, Driving, Identity, Node, Vmid, Wait};

/// Longer than any wait that succeeds.
pub(crate) const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(100));

const NODES: usize = 4;
const PIPES: usize = 24;
const BYTES: usize = 512;
type Net = Network<NODES, PIPES, BYTES>;
type Pal = Loopback<'static, NODES, PIPES, BYTES>;
pub(crate) type Member = Node<'static, Pal>;

pub(crate) fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

/// A leader and its members, which run only when the test polls them.
pub(crate) struct Family {
    pub(crate) net: &'static Net,
    pub(crate) nodes: Vec<Member>,
}

impl Family {
    /// Makes a family with processes 1, the leader, to `count`, which have joined.
    pub(crate) fn new(count: u32) -> Family {
        let family = Family::unjoined(count, Config::DEFAULT);
        for node in &family.nodes {
            family.run(node.join_async(WAIT)).unwrap();
        }
        family
    }

    /// Like [`Family::new`], before the processes join.
    pub(crate) fn unjoined(count: u32, config: Config) -> Family {
        let net: &'static Net = Box::leak(Box::new(Net::new()));
        let config = Config {
            driving: Driving::Caller,
            ..config
        };
        let node = |number| {
            let identity = if number == 1 {
                Identity::LEADER
            } else {
                Identity::child(vmid(number), Vmid::LEADER)
            };
            let bytes = Member::memory(&identity, &config).total();
            let memory = Box::leak(Box::new_uninit_slice(bytes));
            let pal = net.join(vmid(number)).unwrap();
            Node::new(pal, identity, config, memory).unwrap()
        };
        Family {
            net,
            nodes: (1..=count).map(node).collect(),
        }
    }

    pub(crate) fn leader(&self) -> &Member {
        &self.nodes[0]
    }

    /// Returns the member with that VMID.
    pub(crate) fn member(&self, number: usize) -> &Member {
        &self.nodes[number - 1]
    }

    /// Polls each process 20 times, so that all bytes have moved.
    pub(crate) fn poll_all(&self) {
        for _ in 0..20 {
            for node in &self.nodes {
                node.poll_once();
            }
        }
    }

    /// Runs a future to its end, and polls it only when its task was woken.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut task = Task::new(future);
        for _ in 0..200 {
            if let Some(result) = task.poll_if_woken() {
                return result;
            }
            self.poll_all();
            self.net.advance(Duration::from_micros(100));
        }
        panic!("the future does not end: {:?}", self.pending());
    }

    /// Returns the calls that wait, of all processes.
    fn pending(&self) -> Vec<String> {
        let calls = |node: &Member| -> Vec<String> {
            node.pending_calls().map(|call| call.to_string()).collect()
        };
        self.nodes.iter().flat_map(calls).collect()
    }

    /// Checks that nothing is left of any call, in any process.
    pub(crate) fn assert_idle(&self) {
        self.poll_all();
        for node in &self.nodes {
            let pools = node.statistics().pools;
            assert_eq!(pools.waiters.now, 0, "{:?}", self.pending());
            assert!(node.check_invariants());
        }
    }
}

/// Counts the wakes of a task.
#[derive(Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A future with its task.
pub(crate) struct Task<F> {
    future: Pin<Box<F>>,
    wakes: Arc<Wakes>,
    /// The number of wakes at the last poll.
    wakes_at_poll: Option<usize>,
}

impl<F: Future> Task<F> {
    pub(crate) fn new(future: F) -> Task<F> {
        Task {
            future: Box::pin(future),
            wakes: Arc::default(),
            wakes_at_poll: None,
        }
    }

    /// Returns a task that was polled once, and waits.
    pub(crate) fn waiting(future: F) -> Task<F> {
        let mut task = Task::new(future);
        assert!(task.poll().is_none(), "it does not wait");
        task
    }

    /// Returns the future itself, for another task.
    pub(crate) fn future(&mut self) -> Pin<&mut F> {
        self.future.as_mut()
    }

    /// Returns how often the task was woken.
    pub(crate) fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::SeqCst)
    }

    /// Polls the future. None if it is not ready.
    pub(crate) fn poll(&mut self) -> Option<F::Output> {
        self.wakes_at_poll = Some(self.wakes());
        let waker = Waker::from(Arc::clone(&self.wakes));
        match self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    /// Polls the future if the task was woken since the last poll.
    pub(crate) fn poll_if_woken(&mut self) -> Option<F::Output> {
        if self.wakes_at_poll == Some(self.wakes()) {
            return None;
        }
        self.poll()
    }
}
