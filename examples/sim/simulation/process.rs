//! A process: it joins, does its steps, and ends one way or another.

use std::cell::RefCell;
use std::sync::Mutex;
use std::time::Duration;

use fastrand::Rng;
use libos_ipc::pal::Time;
use libos_ipc::{
    Config, Driving, Error, Exit, Id, Identity, Interrupt, Node, SyncHandle, Wait, Which,
};

use super::checks::{Call, HANDLES, LONG, State, bounds, left_over};
use super::faults::Fault;
use super::os::Os;
use super::pal::SimPal;
use super::program::Program;
use super::tasks::run_threads;
use super::world::{pause, with};

/// The most threads of a process.
pub(crate) const THREADS: usize = 2;
/// How long it takes until all that is under way has come, where nothing is held up for longer.
const SETTLED: Duration = Duration::from_secs(1);
const SETTLED_AT_LAST: Duration = Duration::from_mins(2);

/// A process that is to begin.
#[derive(Clone, Copy)]
pub(crate) struct Birth {
    pub(crate) identity: Identity,
    /// In the order of birth: its steps go by it.
    pub(crate) number: usize,
}

/// What the threads of a process share.
#[derive(Default)]
pub(crate) struct Shared {
    /// IDs in use.
    pub(crate) ids: Vec<Id>,
    /// Which threads' calls were interrupted.
    pub(crate) interrupted: [bool; THREADS],
    /// A thread does something with this file's locks.
    pub(crate) busy_files: [bool; 4],
    pub(crate) syncs: [Option<SyncHandle>; HANDLES],
    /// It ends before it has done all its steps.
    pub(crate) is_crashing: bool,
    /// The leader is gone for it.
    pub(crate) is_cut_off: bool,
}

/// A process, as its threads see it.
pub(crate) struct Own {
    pub(crate) number: usize,
    pub(crate) vmid: u32,
    pub(crate) pid: Id,
    pub(crate) place: usize,
    pub(crate) is_leader: bool,
    pub(crate) has_threads: bool,
    pub(crate) interrupts: [Interrupt; THREADS],
    shared: Mutex<Shared>,
}

impl Own {
    pub(crate) fn shared<T>(&self, change: impl FnOnce(&mut Shared) -> T) -> T {
        let shared = self.shared.lock();
        change(&mut shared.unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Whether it is to do nothing more.
    pub(crate) fn is_over(&self) -> bool {
        self.shared(|shared| shared.is_crashing || shared.is_cut_off)
    }
}

pub(crate) type SimNode<'m, const READS: bool> = Node<'m, SimPal<READS>>;

thread_local! {
    /// Memory of nodes that are gone: it is used again.
    static MEMORY: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A process, from its beginning to its end.
pub(crate) fn live(birth: &Birth, place: usize, has_threads: bool) {
    let mut memory = MEMORY.with_borrow_mut(Vec::pop).unwrap_or_default();
    if has_threads {
        live_in::<true>(birth, place, &mut memory);
    } else {
        live_in::<false>(birth, place, &mut memory);
    }
    MEMORY.with_borrow_mut(|all| all.push(memory));
    with(|world| {
        world.network.leave(place);
        world.tell(format_args!("v{} is gone", birth.identity.vmid));
    });
}

fn live_in<const READS: bool>(birth: &Birth, place: usize, memory: &mut Vec<u8>) {
    let identity = birth.identity;
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
        *memory = vec![0; size];
    }
    let os = Os {
        vmid: identity.vmid.get(),
    };
    let node = Node::new(SimPal::<READS>(place), identity, config, memory);
    let node = match node {
        Ok(node) => node.with_embedder(&os),
        Err(error) => {
            let what = Err(format!("a node can't be made: {error}"));
            return with(|world| world.check("calls", what));
        }
    };
    let mut own = Own {
        number: birth.number,
        vmid: identity.vmid.get(),
        pid: identity.pid,
        place,
        is_leader: identity.is_leader(),
        has_threads: READS,
        interrupts: [const { Interrupt::new() }; THREADS],
        shared: Mutex::default(),
    };
    // Whatever it does may wait, and then others of its threads move the bytes.
    let mut joined = None;
    in_threads(&node, &own, |node, own| joined = join(node, own));
    if let Some(pid) = joined {
        own.pid = pid;
        let (node, own) = (&node, &own);
        let thread = |thread| {
            Box::new(move || Program { node, own, thread }.run()) as Box<dyn FnOnce() + Send + '_>
        };
        if READS {
            let mut threads = vec![thread(0), thread(1)];
            serve_while(node, own, &mut threads);
        } else {
            thread(0)();
        }
        in_threads(node, own, end);
    } else {
        in_threads(&node, &own, fail);
    }
}

/// Runs threads, and a worker for as long as they run.
fn serve_while<'t, const READS: bool>(
    node: &'t SimNode<'_, READS>,
    own: &'t Own,
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
            if !node.turn(None) {
                pause(None);
            }
        }
    }));
    run_threads(own.place, all);
}

/// Does something that may wait, with a worker where the process has one.
fn in_threads<const READS: bool>(
    node: &SimNode<'_, READS>,
    own: &Own,
    body: impl FnOnce(&SimNode<'_, READS>, &Own) + Send,
) {
    if READS {
        serve_while(node, own, &mut vec![Box::new(move || body(node, own))]);
    } else {
        body(node, own);
    }
}

/// Lets time pass, with an eye on the streams.
pub(crate) fn idle<const READS: bool>(node: &SimNode<'_, READS>, span: Duration) {
    let until = now() + u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    while now() < until {
        if READS || !node.turn(Some(Time(until))) {
            pause(Some(until));
        }
    }
}

pub(crate) fn now() -> u64 {
    with(|world| world.network.now)
}

/// Becomes a process of the family. None if that fails.
fn join<const READS: bool>(node: &SimNode<'_, READS>, own: &Own) -> Option<Id> {
    let joined = node.join(Wait::at_most(LONG));
    let parent = node.identity().parent.map_or(0, libos_ipc::Vmid::get);
    with(|world| {
        let number = own.number;
        world.tell(format_args!(
            "v{} (process {number}) joins: {joined:?}",
            own.vmid
        ));
        match joined {
            Ok(pid) => {
                if own.is_leader {
                    world.checks.family.born(own.vmid, pid, 0, pid);
                }
                world.checks.family.joined(own.vmid, pid);
                let is_certain = world.checks.family.is_certain(own.vmid);
                is_certain.then_some(pid)
            }
            Err(error) => {
                let family = &world.checks.family;
                // Without its parent it is not started any more.
                let has_parent = own.is_leader || family.is_certain(parent);
                let may_fail = !has_parent || family.is_doomed(own.vmid);
                if !may_fail && !world.has(Fault::Capacity) {
                    let what = Err(format!("v{} can't join: {error}", own.vmid));
                    world.check("calls", what);
                }
                None
            }
        }
    })
}

/// It could not join, or was cut off at once.
fn fail<const READS: bool>(node: &SimNode<'_, READS>, own: &Own) {
    shut_down(node, own, Duration::ZERO);
    // Whoever started it hears of that.
    with(|world| {
        if world
            .checks
            .family
            .get(own.vmid)
            .is_some_and(|kin| kin.state == State::Starting)
        {
            world.checks.family.failed(own.vmid);
        }
    });
}

fn shut_down<const READS: bool>(node: &SimNode<'_, READS>, own: &Own, limit: Duration) -> bool {
    with(|world| world.network.may_end(own.place));
    let flushed = node.shut_down(limit);
    let waiters = node.statistics().pools.waiters.now;
    with(|world| {
        // Another thread's call may not have come back yet.
        if waiters > 0 && !own.has_threads {
            let what = Err(format!("{waiters} waiters of v{} are left", own.vmid));
            world.check("left-over", what);
        }
    });
    flushed
}

/// The process ends, as a thread of it has decided or having done all its steps.
fn end<const READS: bool>(node: &SimNode<'_, READS>, own: &Own) {
    let seed = with(|world| world.plan.seed_of(own.number, 7));
    let mut rng = Rng::with_seed(seed);
    let program = Program {
        node,
        own,
        thread: 0,
    };
    if own.is_leader {
        return end_of_all(node, own, &program);
    }
    if own.shared(|shared| shared.is_crashing) {
        // It has died already, in the middle of a step.
        return;
    }
    let crashes = with(|world| world.has(Fault::Crash)) && rng.u8(..3) == 0;
    let is_word = !own.is_over() && !crashes;
    if is_word {
        // Some stay for a while.
        idle(node, Duration::from_micros(rng.u64(..20_000)));
        await_kept_signals(node, own);
    }
    if is_word && program.put_all_down() {
        let code = rng.u32(..256);
        with(|world| {
            begin_end(world, own, (code, 0));
            world.checks.forget(own.vmid, own.pid, true);
        });
        let exit = Exit {
            uid: 0,
            code,
            signal: 0,
        };
        let long = Wait::at_most(LONG);
        let said = node
            .exit(exit, long)
            .and_then(|()| node.give_back_ids(long));
        let flushed = shut_down(node, own, LONG);
        with(|world| {
            world.tell(format_args!(
                "v{} exits with {code}: {said:?}, {flushed}",
                own.vmid
            ));
            let is_doomed = world.checks.family.is_doomed(own.vmid);
            if !(is_doomed || said.is_ok() && flushed) {
                let what = Err(format!("v{} can't say how it ends: {said:?}", own.vmid));
                world.check("calls", what);
            }
        });
        return;
    }
    die(node, own);
}

/// It dies without a word.
pub(crate) fn die<const READS: bool>(node: &SimNode<'_, READS>, own: &Own) {
    with(|world| {
        world.tell(format_args!("v{} dies", own.vmid));
        begin_end(world, own, (0, libos_ipc::leader::SIGPWR));
        world.checks.forget(own.vmid, own.pid, false);
    });
    shut_down(node, own, Duration::ZERO);
}

fn begin_end(world: &mut super::world::World, own: &Own, how: (u32, u32)) {
    if world.checks.family.is_certain(own.vmid) {
        // What the leader passed on some time ago must have come.
        let grace = if world.faults().are_late() {
            SETTLED_AT_LAST
        } else {
            SETTLED
        };
        let grace = u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX);
        let until = world.network.now.saturating_sub(grace);
        let checks = &world.checks;
        let outcome = checks.signals.has_got_all(&checks.family, own.vmid, until);
        world.check("broadcasts", outcome);
    }
    world.checks.family.ends(own.vmid, how);
    if world.faults().hold_up() {
        // Its last words may come too late.
        let without_word = (0, libos_ipc::leader::SIGPWR);
        world.checks.family.ends(own.vmid, without_word);
    }
}

/// What was sent to a process before it joined comes, sooner or later.
fn await_kept_signals<const READS: bool>(node: &SimNode<'_, READS>, own: &Own) {
    let not_come = || {
        with(|world| {
            let signal = world.checks.signals.not_come(own.vmid)?;
            world.checks.family.is_certain(own.vmid).then_some(signal)
        })
    };
    let patience = now() + u64::try_from(SETTLED_AT_LAST.as_nanos()).unwrap_or(u64::MAX);
    while not_come().is_some() && now() < patience {
        idle(node, Duration::from_millis(20));
    }
    if let Some(signal) = not_come() {
        let what = format!("v{} never gets {signal}, sent before it joined", own.vmid);
        with(|world| world.check("signals", Err(what)));
    }
}

/// The first process waits for all that become its children, and nothing is left.
fn end_of_all<const READS: bool>(
    node: &SimNode<'_, READS>,
    own: &Own,
    program: &Program<'_, '_, READS>,
) {
    // Others may wait for what it has, and it is going to wait for them.
    program.put_all_down();
    program.signal_all(LONG);
    with(|world| world.finish = true);
    let missing = |until| with(|world| world.checks.signals.missing(&world.checks.family, until));
    let until = now();
    let patience = until + u64::try_from(SETTLED_AT_LAST.as_nanos()).unwrap_or(u64::MAX);
    while missing(until).is_some() && now() < patience {
        idle(node, Duration::from_millis(20));
    }
    if let Some((vmid, signal)) = missing(until) {
        let what = Err(format!("v{vmid} never gets the signal {signal} for all"));
        with(|world| world.check("broadcasts", what));
    }
    while program.wait_child(Which::Any, LONG).is_some() {}
    program.release_all_ids();
    let ended = with(|world| {
        world.checks.family.ends(own.vmid, (0, 0));
        world.network.now
    });
    let left = node.leave(Wait::at_most(LONG));
    let given_back = node.give_back_ids(Wait::at_most(LONG));
    let call = Call {
        name: "leave",
        who: own.vmid,
        began: ended,
        limit: LONG,
        was_interrupted: false,
    };
    let mut outcome = Ok(());
    for _ in 0..200 {
        outcome = left_over(&node.statistics().pools);
        if outcome.is_ok() {
            break;
        }
        idle(node, Duration::from_millis(5));
    }
    let pools = node.statistics().pools;
    let is_sound = node.is_sound();
    with(|world| {
        world.tell(format_args!("the leader leaves: {left:?}, {given_back:?}"));
        let error = left.and(given_back).err();
        let now = world.network.now;
        let ended = world
            .checks
            .calls
            .ended(&call, error, now, &world.checks.family);
        world.check("calls", ended);
        world.check("left-over", outcome);
        world.check("bounds", bounds(&pools));
        world.check("soundness", sound(is_sound));
        let checks = &world.checks;
        // An orphan that finds no room with its new parent is reaped unseen.
        let is_tight = world.has(Fault::Capacity);
        let reaped = checks.exits.all_reaped(&checks.family);
        let delivered = checks.signals.all_delivered(&checks.family);
        world.check("reaping", if is_tight { Ok(()) } else { reaped });
        world.check("signals", delivered);
    });
    shut_down(node, own, Duration::from_secs(1));
}

/// The leader's tables hold together.
pub(crate) fn sound(is_sound: bool) -> Result<(), String> {
    if is_sound {
        return Ok(());
    }
    Err("the leader's tables don't hold together".to_owned())
}

/// What every call of a process may say that is cut off from the leader.
pub(crate) fn is_cut_off(error: Error) -> bool {
    matches!(error, Error::LeaderGone | Error::ShuttingDown)
}
