//! A process: it joins and does its steps.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::Mutex;
use std::time::Duration;

use libos_ipc::pal::{Deadline, Time};
use libos_ipc::{Config, Driving, Error, Id, Identity, Interrupt, Node, Pid, SyncHandle, Wait};

use super::checks::{HANDLES, LONG, Mirror, MirrorMemory, TableObserver};
use super::end::{end, fail};
use super::faults::Fault;
use super::os::Os;
use super::pal::SimPal;
use super::plan::{START_LIMIT, SUCCESSION_LIMIT};
use super::program::Program;
use super::tasks::run_threads;
use super::world::{pause, with};

/// The greatest number of threads of a process.
pub(crate) const THREADS: usize = 2;

/// A process that is to be started.
#[derive(Clone, Copy)]
pub(crate) struct NewProcess {
    pub(crate) identity: Identity,
    /// The number of the process, in the order of starts; its steps have this number.
    pub(crate) number: usize,
    /// The time at which its identity was made, with what its parent knew of the family.
    pub(crate) made_at: u64,
    /// The time at which it was started, in nanoseconds as all simulated time.
    pub(crate) started_at: u64,
}

/// The state that the threads of a process share.
#[derive(Default)]
pub(crate) struct Shared {
    /// IDs in use.
    pub(crate) ids: Vec<Id>,
    /// Whether the call of each thread was interrupted.
    pub(crate) interrupted: [bool; THREADS],
    /// Whether the last call of each thread was a future that the thread has dropped.
    pub(crate) dropped: [bool; THREADS],
    /// Whether a thread works on the locks of each file.
    pub(crate) busy_files: [bool; 4],
    /// The open handle of each shared value.
    pub(crate) syncs: [Option<SyncHandle>; HANDLES],
    /// The process ends before it has done all its steps.
    pub(crate) is_crashing: bool,
    /// The process has lost the leader.
    pub(crate) is_cut_off: bool,
}

/// A process, as its threads see it.
pub(crate) struct OwnProcess {
    pub(crate) number: usize,
    pub(crate) vmid: u32,
    pub(crate) pid: Id,
    pub(crate) place: usize,
    pub(crate) made_at: u64,
    pub(crate) started_at: u64,
    /// The process is the first one, which leads at the start.
    pub(crate) is_first: bool,
    pub(crate) has_threads: bool,
    pub(crate) interrupts: [Interrupt; THREADS],
    shared: Mutex<Shared>,
}

impl OwnProcess {
    /// Returns the process before it joins.
    fn new(new_process: &NewProcess, place: usize, has_threads: bool) -> OwnProcess {
        let identity = &new_process.identity;
        OwnProcess {
            number: new_process.number,
            vmid: identity.vmid.get(),
            pid: identity.pid.map_or(0, Pid::get),
            place,
            made_at: new_process.made_at,
            started_at: new_process.started_at,
            is_first: identity.is_leader(),
            has_threads,
            interrupts: [const { Interrupt::new() }; THREADS],
            shared: Mutex::default(),
        }
    }

    /// Changes what the threads of the process share.
    pub(crate) fn shared<T>(&self, change: impl FnOnce(&mut Shared) -> T) -> T {
        let shared = self.shared.lock();
        change(&mut shared.unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Returns true if the process must do nothing more.
    pub(crate) fn is_over(&self) -> bool {
        self.shared(|shared| shared.is_crashing || shared.is_cut_off) || self.is_dead()
    }

    /// Returns true if the process was killed.
    pub(crate) fn is_dead(&self) -> bool {
        with(|world| world.network.is_dead(self.place))
    }

    /// Returns true if the process keeps the values that all share: the first process does, or all of a family that may
    /// outlive it.
    pub(crate) fn keeps_values(&self) -> bool {
        self.is_first || with(|world| world.plan.has_heirs())
    }
}

pub(crate) type SimNode<'m, const READS: bool> = Node<'m, SimPal<READS>>;

thread_local! {
    /// The memory of nodes that have ended, for reuse.
    static MEMORY: RefCell<Vec<Box<[MaybeUninit<u8>]>>> = const { RefCell::new(Vec::new()) };
}

/// Runs a process from its start to its end.
pub(crate) fn run(new_process: &NewProcess, place: usize, has_threads: bool) {
    let mut memory = MEMORY.with_borrow_mut(Vec::pop).unwrap_or_default();
    if has_threads {
        run_in::<true>(new_process, place, &mut memory);
    } else {
        run_in::<false>(new_process, place, &mut memory);
    }
    MEMORY.with_borrow_mut(|all| all.push(memory));
    with(|world| {
        world.network.leave(place);
        world.log(format_args!("v{} is gone", new_process.identity.vmid));
    });
}

/// Runs a process in this memory, which is enlarged if it is too small.
fn run_in<const READS: bool>(
    new_process: &NewProcess,
    place: usize,
    memory: &mut Box<[MaybeUninit<u8>]>,
) {
    let identity = new_process.identity;
    let driving = if READS {
        Driving::Worker
    } else {
        Driving::Caller
    };
    let config = Config {
        driving,
        ..with(|world| world.plan.config)
    };
    let size = Node::<SimPal<READS>>::memory(&identity, &config).total();
    if memory.len() < size {
        *memory = Box::new_uninit_slice(size);
    }
    let os = Os {
        vmid: identity.vmid.get(),
    };
    let has_heirs = with(|world| world.plan.has_heirs());
    if has_heirs && identity.is_leader() {
        with(|world| {
            let rng = fastrand::Rng::with_seed(world.plan.seed_of(new_process.number, 9));
            let faults = world.faults();
            world.network.schedule_deaths(faults, rng, place);
        });
    }
    let table_observer = TableObserver {
        vmid: identity.vmid.get(),
        place,
    };
    let mut mirror_memory = identity.is_leader().then(|| MirrorMemory::new(&config));
    let mirror = mirror_memory
        .as_mut()
        .map(|memory| Mirror::new(memory, &config, table_observer));
    let node = Node::new(SimPal::<READS>(place), identity, config, memory);
    let node = match node {
        Ok(node) => match &mirror {
            Some(mirror) => node.with_embedder(&os).with_op_observer(mirror),
            None if has_heirs => node.with_embedder(&os).with_op_observer(&table_observer),
            None => node.with_embedder(&os),
        },
        Err(error) => {
            let what = Err(format!("a node can't be made: {error}"));
            return with(|world| world.check("calls", what));
        }
    };
    join_and_run(&node, OwnProcess::new(new_process, place, READS));
}

/// Lets a process join, do its steps and end.
fn join_and_run<const READS: bool>(node: &SimNode<'_, READS>, mut own: OwnProcess) {
    // Each call may wait, and then other threads of the process move the bytes.
    let mut joined = None;
    with_worker(node, &own, |node, own| joined = join(node, own));
    let Some(pid) = joined else {
        return with_worker(node, &own, fail);
    };
    own.pid = pid;
    let own = &own;
    let thread = |thread| {
        Box::new(move || Program { node, own, thread }.run()) as Box<dyn FnOnce() + Send + '_>
    };
    if READS {
        let mut threads = vec![thread(0), thread(1)];
        serve_while(node, own, &mut threads);
    } else {
        thread(0)();
    }
    with_worker(node, own, end);
}

/// Runs threads, and a worker as long as they run.
fn serve_while<'t, const READS: bool>(
    node: &'t SimNode<'_, READS>,
    own: &'t OwnProcess,
    bodies: &mut Vec<Box<dyn FnOnce() + Send + 't>>,
) {
    let running = std::sync::atomic::AtomicUsize::new(bodies.len());
    let running = &running;
    let count = |body: Box<dyn FnOnce() + Send + 't>| {
        Box::new(move || {
            body();
            running.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            with(|world| world.network.wake(own.place));
        }) as Box<dyn FnOnce() + Send + '_>
    };
    let mut all: Vec<Box<dyn FnOnce() + Send + '_>> = bodies.drain(..).map(count).collect();
    all.push(Box::new(move || {
        while running.load(std::sync::atomic::Ordering::Relaxed) > 0 {
            if !node.poll(Deadline::Never) {
                pause(None);
            }
        }
    }));
    run_threads(own.place, all);
}

/// Runs a function that may wait, with a worker if the process has one.
fn with_worker<const READS: bool>(
    node: &SimNode<'_, READS>,
    own: &OwnProcess,
    body: impl FnOnce(&SimNode<'_, READS>, &OwnProcess) + Send,
) {
    if READS {
        serve_while(node, own, &mut vec![Box::new(move || body(node, own))]);
    } else {
        body(node, own);
    }
}

/// Lets time pass, and serves the streams meanwhile.
pub(crate) fn idle<const READS: bool>(node: &SimNode<'_, READS>, span: Duration) {
    let until = now() + nanoseconds(span);
    while now() < until {
        if READS || !node.poll(Deadline::At(Time(until))) {
            pause(Some(until));
        }
    }
}

/// Returns the simulated time in nanoseconds.
pub(crate) fn now() -> u64 {
    with(|world| world.network.now)
}

/// Converts a duration to simulated time, which is counted in nanoseconds.
pub(crate) fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Joins the family, and returns the pid. None if that fails.
fn join<const READS: bool>(node: &SimNode<'_, READS>, own: &OwnProcess) -> Option<Id> {
    let joined = node.join(Wait::at_most(LONG));
    let parent = node.identity().parent.map_or(0, libos_ipc::Vmid::get);
    with(|world| {
        let number = own.number;
        world.log(format_args!(
            "v{} (process {number}) joins: {joined:?}",
            own.vmid
        ));
        match joined {
            _ if world.network.is_dead(own.place) => None,
            Ok(pid) => {
                let pid = pid.get();
                if own.is_first {
                    world.checks.family.record_start(own.vmid, pid, 0, pid);
                }
                world.checks.family.record_join(own.vmid, pid);
                let is_certain = world.checks.family.is_certain(own.vmid);
                is_certain.then_some(pid)
            }
            Err(error) => {
                let family = &world.checks.family;
                // Without its parent its time is limited.
                let is_late = world.network.now - own.started_at > nanoseconds(START_LIMIT);
                let has_parent = own.is_first || family.is_certain(parent);
                let is_cut_off = error == Error::CutOff && world.faults().may_overrun();
                // The process has no heir to turn to before it has joined.
                let succession = &world.checks.succession;
                // A leader that is leaving gives up a process whose stream stands still.
                let has_waited = world.network.now - own.started_at > nanoseconds(SUCCESSION_LIMIT);
                let is_late_leader = has_waited && world.faults().may_overrun();
                let is_leader_gone = error == Error::LeaderGone
                    && (succession.has_ended_since(own.made_at)
                        || succession.may_be_gone(family)
                        || is_late_leader && world.plan.has_heirs());
                let may_fail = !has_parent && is_late
                    || is_cut_off
                    || is_leader_gone
                    || family.is_marked_dead(own.vmid);
                if !may_fail && !world.has(Fault::Capacity) {
                    let what = Err(format!("v{} can't join: {error}", own.vmid));
                    world.check("calls", what);
                }
                if is_cut_off {
                    // The leader gives it up when its streams end.
                    world.record_leader_loss(own.vmid);
                }
                None
            }
        }
    })
}

/// Checks that the leader's tables are shared as their quotas demand.
pub(crate) fn check_shares(shares_fit: bool) -> Result<(), String> {
    if shares_fit {
        Ok(())
    } else {
        Err("the charges of the members do not fit the tables".into())
    }
}

/// Checks the invariants of the leader's tables.
pub(crate) fn check_invariants(invariants_hold: bool) -> Result<(), String> {
    if invariants_hold {
        return Ok(());
    }
    Err("the leader's tables don't hold together".to_owned())
}

/// Returns true for the errors that any call of a process may return that is cut off from the
/// leader.
pub(crate) fn is_cut_off(error: Error) -> bool {
    matches!(
        error,
        Error::LeaderGone | Error::CutOff | Error::ShuttingDown
    )
}
