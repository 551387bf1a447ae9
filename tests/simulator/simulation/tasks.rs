//! The scheduler. A process is a coroutine that runs until it would wait; its threads are
//! coroutines inside of it. The seed chooses among the runnable coroutines, and the time jumps if
//! none is runnable.

use std::cell::RefCell;

use generator::{Generator, Gn};

use super::hostile;
use super::network::Network;
use super::process::{self, NewProcess};
use super::world::{paused_until, with};

/// The stack of a coroutine, in words of 8 bytes.
const STACK: usize = 0x8000;
/// The greatest number of resumptions of coroutines in a run. A resumed coroutine runs until it would wait.
const MAX_RESUMPTIONS: usize = 200_000;
/// The longest simulated time of a resumption, in nanoseconds.
const LONGEST_RESUMPTION: u64 = 4_000;

type Coroutine<'a> = Generator<'a, (), ()>;

thread_local! {
    /// Coroutines that have ended, whose stacks are reused.
    static DONE: RefCell<Vec<Coroutine<'static>>> = const { RefCell::new(Vec::new()) };
}

fn coroutine(body: impl FnOnce() + Send + 'static) -> Coroutine<'static> {
    match DONE.with_borrow_mut(Vec::pop) {
        Some(mut coroutine) => {
            coroutine.init_code(body);
            coroutine
        }
        None => Gn::<()>::new_opt(STACK, body),
    }
}

struct Task {
    coroutine: Coroutine<'static>,
    place: usize,
    /// The coroutine passes the events on to its threads itself.
    has_threads: bool,
    /// The time in nanoseconds until which it waits at most.
    until: u64,
    resumptions: usize,
}

impl Task {
    fn new(place: usize, has_threads: bool, body: impl FnOnce() + Send + 'static) -> Task {
        Task {
            coroutine: coroutine(body),
            place,
            has_threads,
            until: 0,
            resumptions: 0,
        }
    }

    fn of(new_process: NewProcess) -> Task {
        let (vmid, number) = (new_process.identity.vmid.get(), new_process.number);
        let (place, has_threads) = with(|world| {
            let place = world.network.join(vmid, true);
            (place, world.plan.has_threads(number))
        });
        Task::new(place, has_threads, move || {
            process::run(&new_process, place, has_threads);
        })
    }
}

/// Runs all processes to their end, or until a check fails.
pub(crate) fn run_all(first: NewProcess, has_hostile: bool) {
    let mut tasks = vec![Task::of(first)];
    if has_hostile {
        let place = with(|world| world.network.join(hostile::VMID, false));
        tasks.push(Task::new(place, false, move || hostile::run(place)));
    }
    for resumption in 0.. {
        let Some(at) = next(&tasks, resumption) else {
            break;
        };
        let task = &mut tasks[at];
        task.resumptions += 1;
        with(|world| world.running = task.place);
        task.coroutine.resume();
        with(|world| world.running = usize::MAX);
        task.until = paused_until();
        if task.coroutine.is_done() {
            let done = tasks.swap_remove(at);
            DONE.with_borrow_mut(|all| all.push(done.coroutine));
        }
        let new_processes = with(|world| std::mem::take(&mut world.new_processes));
        tasks.extend(new_processes.into_iter().map(Task::of));
    }
    // After a violation no process can be ended properly: its memory is lost.
    for task in tasks {
        std::mem::forget(task);
    }
}

/// Returns the coroutine that runs next. None at the end.
fn next(tasks: &[Task], resumption: usize) -> Option<usize> {
    with(|world| {
        if tasks.is_empty() || world.violation.is_some() {
            return None;
        }
        // Each resumption takes some time, so that a coroutine that only polls reaches its time limit, too.
        let spent = world.network.rng.u64(..LONGEST_RESUMPTION);
        let now = world.network.now + spent;
        world.network.advance(now);
        world.handle_lapses();
        loop {
            let network = &mut world.network;
            let can_go_on = |network: &Network, task: &Task| {
                let is_due = task.until <= network.now || network.is_changed(task.place);
                is_due && network.stopped(task.place).is_none()
            };
            let able = tasks.iter().filter(|task| can_go_on(network, task));
            let count = able.count();
            if count > 0 && resumption < MAX_RESUMPTIONS {
                let choice = network.rng.usize(..count);
                let mut able = (0..tasks.len()).filter(|at| can_go_on(network, &tasks[*at]));
                let at = able.nth(choice)?;
                if !tasks[at].has_threads {
                    world.network.take_changed(tasks[at].place);
                }
                world.trace.record(at as u64);
                return Some(at);
            }
            let until = |task: &Task| {
                let stopped = world.network.stopped(task.place);
                stopped.unwrap_or(task.until)
            };
            let next = tasks.iter().map(until).min();
            let next = next.into_iter().chain(world.network.next_arrival()).min();
            match next {
                Some(next) if next < u64::MAX && resumption < MAX_RESUMPTIONS => {
                    world.network.advance(next);
                    world.handle_lapses();
                }
                _ => {
                    let how = if resumption < MAX_RESUMPTIONS {
                        "wait"
                    } else {
                        "run"
                    };
                    let busiest = tasks.iter().max_by_key(|task| task.resumptions);
                    let busiest = busiest.map_or(0, |task| world.network.vmid_of(task.place));
                    let count = tasks.len();
                    let outcome = Err(format!("{count} {how} for ever, v{busiest} most of all"));
                    world.check("calls", outcome);
                    return None;
                }
            }
        }
    })
}

/// Runs a process's threads until all are done. To be called within the process's own coroutine.
pub(crate) fn run_threads(place: usize, bodies: Vec<Box<dyn FnOnce() + Send + '_>>) {
    struct Thread<'a> {
        coroutine: Coroutine<'a>,
        until: u64,
        /// The state of the process has changed since the thread last ran.
        is_changed: bool,
    }
    let thread = |body| Thread {
        coroutine: Gn::<()>::new_opt(STACK, body),
        until: 0,
        is_changed: true,
    };
    let mut threads: Vec<_> = bodies.into_iter().map(thread).collect();
    loop {
        while let Some(until) = with(|world| world.network.stopped(place)) {
            super::world::pause(Some(until));
        }
        let (able, until) = with(|world| {
            let is_changed = world.network.take_changed(place);
            for thread in &mut threads {
                thread.is_changed |= is_changed;
            }
            let now = world.network.now;
            let able = |thread: &Thread<'_>| thread.is_changed || thread.until <= now;
            let count = threads.iter().filter(|thread| able(thread)).count();
            let until = threads.iter().map(|thread| thread.until).min();
            if count == 0 {
                return (None, until);
            }
            let choice = world.network.rng.usize(..count);
            let mut all = (0..threads.len()).filter(|at| able(&threads[*at]));
            (all.nth(choice), until)
        });
        let Some(at) = able else {
            match until {
                None => return,
                Some(until) => super::world::pause(Some(until)),
            }
            continue;
        };
        let thread = &mut threads[at];
        thread.is_changed = false;
        thread.coroutine.resume();
        thread.until = paused_until();
        if thread.coroutine.is_done() {
            threads.swap_remove(at);
        } else if with(|world| world.network.rng.bool()) {
            // Other processes may run in between.
            super::world::pause(Some(0));
        }
    }
}
