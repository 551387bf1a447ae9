//! Threads of which one runs at a time: whoever has the baton. It is passed on wherever a node
//! would wait, to whom the seed says, so that a run can be repeated exactly though its programs
//! are written as if they blocked.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use fastrand::Rng;
use libos_ipc::Vmid;
use libos_ipc::pal::faulty::Faulty;
use libos_ipc::pal::loopback::{Loopback, Network};
use libos_ipc::pal::{
    AcceptError, ConnectError, Interest, OutOfResources, Pal, ReadyList, Time, Token, Woken,
};

pub(crate) type World = Network<24, 200, 200>;
pub(crate) type Platform<'w> = Faulty<Loopback<'w, 24, 200, 200>>;

struct State {
    rng: Rng,
    has: usize,
    runs: Vec<bool>,
    threads: Vec<Option<Thread>>,
    /// A program failed: the others end, too.
    failed: bool,
}

pub(crate) struct Baton<'w> {
    network: &'w World,
    state: Mutex<State>,
}

impl<'w> Baton<'w> {
    /// Program 0 has it first.
    pub(crate) fn new(network: &'w World, seed: u64) -> Self {
        let state = State {
            rng: Rng::with_seed(seed),
            has: 0,
            runs: vec![true],
            threads: vec![None],
            failed: false,
        };
        Baton {
            network,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more program, which waits for its first turn in [`Baton::begin`].
    pub(crate) fn add(&self) -> usize {
        let mut state = self.state();
        state.runs.push(true);
        state.threads.push(None);
        state.runs.len() - 1
    }

    pub(crate) fn begin(&self, who: usize) {
        let mut state = self.state();
        state.threads[who] = Some(thread::current());
        self.wait(state, who);
    }

    fn wait<'s>(&'s self, mut state: MutexGuard<'s, State>, who: usize) {
        while state.has != who && !state.failed {
            drop(state);
            thread::park();
            state = self.state();
        }
        assert!(
            !state.failed || std::thread::panicking(),
            "another program failed"
        );
    }

    fn choose(&self, state: &mut State) {
        let running: Vec<_> = (0..state.runs.len()).filter(|at| state.runs[*at]).collect();
        if !running.is_empty() {
            state.has = running[state.rng.usize(..running.len())];
        }
        self.network.advance(Duration::from_micros(300));
        let woken = |at: usize| state.failed || at == state.has;
        for (_, thread) in state
            .threads
            .iter()
            .enumerate()
            .filter(|(at, _)| woken(*at))
        {
            thread.iter().for_each(Thread::unpark);
        }
    }

    /// Somebody else's turn, or this one's again.
    pub(crate) fn pass(&self, who: usize) {
        let mut state = self.state();
        self.choose(&mut state);
        self.wait(state, who);
    }

    /// The program ends.
    pub(crate) fn end(&self, who: usize) {
        let mut state = self.state();
        state.runs[who] = false;
        state.failed |= std::thread::panicking();
        self.choose(&mut state);
    }

    /// A choice that the seed makes.
    pub(crate) fn choice(&self, below: usize) -> usize {
        self.state().rng.usize(..below)
    }
}

/// A platform that passes the baton on where it would wait.
pub(crate) struct Passing<'p, 'w> {
    pub(crate) inner: &'p Platform<'w>,
    pub(crate) baton: &'p Baton<'w>,
    pub(crate) who: usize,
}

type Inner<'p, 'w> = &'p Platform<'w>;

impl<'p, 'w> Pal for Passing<'p, 'w> {
    type Stream = <Inner<'p, 'w> as Pal>::Stream;
    type Event = <Inner<'p, 'w> as Pal>::Event;
    const CALLER_READS: bool = false;

    fn event(&self) -> Result<Self::Event, OutOfResources> {
        self.inner.event()
    }

    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        self.inner.connect(peer)
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        self.inner.accept()
    }

    fn watch_listener(&self, on: bool) {
        self.inner.watch_listener(on);
    }

    fn watch(
        &self,
        stream: &Self::Stream,
        token: Token,
        interest: Interest,
    ) -> Result<(), OutOfResources> {
        self.inner.watch(stream, token, interest)
    }

    fn rewatch(&self, stream: &Self::Stream, token: Token, interest: Interest) {
        self.inner.rewatch(stream, token, interest);
    }

    fn unwatch(&self, stream: &Self::Stream) {
        self.inner.unwatch(stream);
    }

    fn wait(&self, ready: &mut ReadyList, _: Option<Time>) {
        self.baton.pass(self.who);
        self.inner.wait(ready, Some(Time(0)));
    }

    fn wake(&self) {
        self.inner.wake();
    }

    fn wait_event(&self, _: &Self::Event, _: Option<Time>) {
        self.baton.pass(self.who);
    }

    fn wait_readable(&self, _: &Self::Stream, _: &Self::Event, _: Option<Time>) -> Woken {
        self.baton.pass(self.who);
        Woken::Readable
    }

    fn now(&self) -> Time {
        self.inner.now()
    }
}
