//! The end of a process: it has done all its steps, dies without an exit report, or has failed to
//! start.

use std::time::Duration;

use fastrand::Rng;
use libos_ipc::{ChildSelector, Exit, Wait};

use super::checks::{Call, LONG, State, bounds, left_over};
use super::faults::Fault;
use super::process::{Own, SimNode, fair, idle, nanoseconds, now, sound};
use super::program::Program;
use super::world::{World, with};

/// The time in which all messages arrive, if no fault delays them longer.
const SETTLED: Duration = Duration::from_secs(1);
/// How long a leader at most waits for all others to end before it leaves.
const PATIENCE: Duration = Duration::from_millis(500);
const SETTLED_AT_LAST: Duration = Duration::from_mins(2);

/// Ends a process that could not join, or was cut off at once.
pub(super) fn fail<const READS: bool>(node: &SimNode<'_, READS>, own: &Own) {
    with(|world| {
        if world.plan.follows() && world.checks.family.is_starting(own.vmid) {
            world.checks.family.failed(own.vmid);
        }
    });
    shut_down(node, own, Duration::ZERO);
    if own.is_dead() {
        return;
    }
    // The parent is notified of that.
    with(|world| {
        world.checks.heartbeats.ends(own.vmid);
        if world
            .checks
            .family
            .get(own.vmid)
            .is_some_and(|process| process.state == State::Starting)
        {
            world.checks.family.failed(own.vmid);
            let now = world.checks.tick();
            world.checks.files.forget(own.vmid, now);
        }
    });
}

fn shut_down<const READS: bool>(node: &SimNode<'_, READS>, own: &Own, limit: Duration) -> bool {
    with(|world| world.network.may_end(own.place));
    let flushed = node.shut_down(limit);
    let statistics = node.statistics();
    let waiters = statistics.pools.waiters.now;
    with(|world| {
        // In a debug build the first one panics.
        if statistics.broken_invariants > 0 {
            let what = Err("the library has counted a broken invariant".to_owned());
            world.check("invariants", what);
        }
        // The call of another thread may not have returned yet.
        if waiters > 0 && !own.has_threads {
            let what = Err(format!("{waiters} waiters of v{} are left", own.vmid));
            world.check("left-over", what);
        }
    });
    flushed
}

/// Ends the process, as a thread of it has decided or since it has done all its steps.
pub(super) fn end<const READS: bool>(node: &SimNode<'_, READS>, own: &Own) {
    let seed = with(|world| world.plan.seed_of(own.number, 7));
    let mut rng = Rng::with_seed(seed);
    let program = Program {
        node,
        own,
        thread: 0,
    };
    let follows = with(|world| world.plan.follows());
    if own.is_dead() {
        shut_down(node, own, Duration::ZERO);
        return;
    }
    if own.is_leader && !follows {
        return end_of_all(node, own, &program);
    }
    if own.shared(|shared| shared.is_crashing) {
        // The process has died already, in the middle of a step.
        return;
    }
    let crashes = with(|world| world.has(Fault::Crash)) && rng.u8(..3) == 0;
    let is_word = !own.is_over() && !crashes;
    if is_word {
        // Some processes wait for a while.
        idle(node, Duration::from_micros(rng.u64(..20_000)));
        await_kept_signals(node, own);
    }
    if is_word && program.release_all() && stay_a_while(&program, &mut rng) {
        let code = rng.u32(..256);
        let leads = follows && program.leads();
        if leads {
            program.give_all_ranges();
        }
        with(|world| {
            begin_end(world, own, (code, 0));
            world.forget(own.vmid, true);
        });
        let exit = Exit {
            uid: 0,
            code,
            signal: 0,
        };
        let long = Wait::at_most(LONG);
        let exited = node.exit(exit, long);
        if exited.is_ok() && !own.is_dead() && !with(|world| world.faults().may_overrun()) {
            with(|world| world.checks.family.has_exited(own.vmid));
        }
        let exited = exited.and_then(|()| node.release_idle_ranges(long));
        let has_led = follows && program.leads();
        if has_led {
            leave(node, own, leads);
        }
        let flushed = shut_down(node, own, LONG);
        with(|world| {
            world.log(format_args!(
                "v{} exits with {code}: {exited:?}, {flushed}",
                own.vmid
            ));
            let is_marked_dead = world.checks.family.is_marked_dead(own.vmid);
            let is_leader_gone = world.checks.succession.may_be_gone(&world.checks.family);
            // The heir sends what a leader that has left had not sent yet.
            let is_sent = flushed || has_led;
            if !(is_marked_dead || is_leader_gone || exited.is_ok() && is_sent) {
                let what = Err(format!("v{} can't report its exit: {exited:?}", own.vmid));
                world.check("calls", what);
            }
        });
        return;
    }
    if crashes {
        crash(node, own);
    } else {
        die(node, own);
    }
}

/// Lets the process die in the middle of something. Peers cannot tell that from a cut, if the streams are secure.
pub(crate) fn crash<const READS: bool>(node: &SimNode<'_, READS>, own: &Own) {
    with(|world| {
        if world.plan.is_secure() {
            world.network.cut_short(own.place);
        }
    });
    die(node, own);
}

/// Stays for a while in a family that may outlive its leader: some processes wait for their children, and some leaders
/// for all others. Returns true if the process is to leave then.
fn stay_a_while<const READS: bool>(program: &Program<'_, '_, READS>, rng: &mut Rng) -> bool {
    if !with(|world| world.plan.follows()) {
        return true;
    }
    let own = program.own;
    if rng.bool() {
        while program.wait_child(ChildSelector::Any, LONG).is_some() {}
    }
    if rng.bool() {
        await_all(program.node, own);
    }
    program.release_all_ids();
    !own.is_over() && with(|world| world.checks.family.is_certain(own.vmid))
}

/// As the leader of a family that may outlive it: serves the others until they have ended, for a while: one of them
/// may wait for this process.
fn await_all<const READS: bool>(node: &SimNode<'_, READS>, own: &Own) {
    let is_leader = || with(|world| world.leader == own.vmid && !world.network.is_alone(own.place));
    let until = now() + nanoseconds(PATIENCE);
    while is_leader() && !own.is_over() && now() < until {
        idle(node, Duration::from_millis(5));
    }
}

/// Lets the process leave the family, which it may lead: another process leads then.
fn leave<const READS: bool>(node: &SimNode<'_, READS>, own: &Own, led: bool) {
    if own.is_dead() {
        return;
    }
    let is_last = with(|world| {
        world.log(format_args!("v{} leaves, the leader", own.vmid));
        let now = world.network.now;
        world.checks.succession.leaves(own.vmid, now);
        let checks = &mut world.checks;
        checks.calls.leader_ends(now, &checks.family);
        world.network.may_end(own.place);
        led && world.network.is_alone(own.place) && !world.network.may_hand_over()
    });
    let began = now();
    let left = node.leave(Wait::at_most(LONG));
    let pools = node.statistics().pools;
    with(|world| {
        world.log(format_args!("v{} has left: {left:?}", own.vmid));
        let now = world.network.now;
        world.checks.succession.leaves(own.vmid, now);
        let call = Call {
            name: "leave",
            who: own.vmid,
            began,
            limit: LONG,
            was_interrupted: false,
        };
        let family = &world.checks.family;
        let ended = world.checks.calls.ended(&call, left.err(), now, family);
        world.check("calls", ended);
        // Another may have joined meanwhile, and lead now.
        if is_last && world.network.is_alone(own.place) {
            let outcome = left_over(&pools, &["children"]);
            world.check("left-over", outcome);
            let delivered = world.checks.signals.all_delivered(&world.checks.family);
            world.check("signals", delivered);
        } else if world.leader == own.vmid && !world.network.is_dead(own.place) {
            world.leader_ends(own.vmid);
        }
    });
}

/// Lets the process die without an exit report.
fn die<const READS: bool>(node: &SimNode<'_, READS>, own: &Own) {
    if with(|world| world.leader == own.vmid && world.plan.follows()) {
        with(|world| world.kill(own.place));
        shut_down(node, own, Duration::ZERO);
        return;
    }
    with(|world| {
        world.log(format_args!("v{} dies", own.vmid));
        begin_end(world, own, (0, libos_ipc::leader::SIGPWR));
        world.forget(own.vmid, false);
    });
    shut_down(node, own, Duration::ZERO);
}

fn begin_end(world: &mut World, own: &Own, how: (u32, u32)) {
    if world.checks.family.is_certain(own.vmid) {
        // A signal that the leader forwarded some time ago must have been delivered.
        let grace = if world.faults().are_late() {
            SETTLED_AT_LAST
        } else {
            SETTLED
        };
        let until = world.network.now.saturating_sub(nanoseconds(grace));
        let checks = &world.checks;
        // A leader without an heir may have died between two members.
        let is_leader_gone = checks.succession.may_be_gone(&checks.family);
        let outcome = checks.signals.has_got_all(&checks.family, own.vmid, until);
        let outcome = if is_leader_gone { Ok(()) } else { outcome };
        world.check("broadcasts", outcome);
    }
    world.checks.family.ends(own.vmid, how);
    world.checks.heartbeats.ends(own.vmid);
    if world.faults().may_overrun() {
        // Its exit report may arrive too late.
        let without_word = (0, libos_ipc::leader::SIGPWR);
        world.checks.family.ends(own.vmid, without_word);
    }
}

/// Returns the fault that is left at the end of the time for all messages to arrive.
fn missing_at_last<T, const READS: bool>(
    node: &SimNode<'_, READS>,
    missing: impl Fn() -> Option<T>,
) -> Option<T> {
    let patience = now() + nanoseconds(SETTLED_AT_LAST);
    while missing().is_some() && now() < patience {
        idle(node, Duration::from_millis(20));
    }
    missing()
}

/// Waits for the signals that were sent to the process before it joined.
fn await_kept_signals<const READS: bool>(node: &SimNode<'_, READS>, own: &Own) {
    let not_come = || {
        with(|world| {
            let signal = world.checks.signals.not_come(own.vmid)?;
            world.checks.family.is_certain(own.vmid).then_some(signal)
        })
    };
    if let Some(signal) = missing_at_last(node, not_come) {
        let what = format!(
            "v{} never gets {signal}, which was sent before it joined",
            own.vmid
        );
        with(|world| world.check("signals", Err(what)));
    }
}

/// Waits, as the first process, for all that become its children, and checks that nothing is left.
fn end_of_all<const READS: bool>(
    node: &SimNode<'_, READS>,
    own: &Own,
    program: &Program<'_, '_, READS>,
) {
    // Other processes may wait for its resources, and it is going to wait for those processes.
    program.release_all();
    program.signal_all(LONG);
    with(|world| world.finish = true);
    let until = now();
    let missing = || with(|world| world.checks.signals.missing(&world.checks.family, until));
    if let Some((vmid, signal)) = missing_at_last(node, missing) {
        let what = Err(format!("v{vmid} never gets the signal {signal} for all"));
        with(|world| world.check("broadcasts", what));
    }
    while program.wait_child(ChildSelector::Any, LONG).is_some() {}
    program.end_primitives();
    program.release_all_ids();
    let ended = with(|world| {
        world.checks.family.ends(own.vmid, (0, 0));
        world.network.now
    });
    let left = node.leave(Wait::at_most(LONG));
    let given_back = node.release_idle_ranges(Wait::at_most(LONG));
    let call = Call {
        name: "leave",
        who: own.vmid,
        began: ended,
        limit: LONG,
        was_interrupted: false,
    };
    let mut outcome = Ok(());
    for _ in 0..200 {
        outcome = left_over(&node.statistics().pools, &[]);
        if outcome.is_ok() {
            break;
        }
        idle(node, Duration::from_millis(5));
    }
    let pools = node.statistics().pools;
    let shares = node.check_shares();
    let check_invariants = !shares || node.check_invariants();
    with(|world| {
        world.log(format_args!("the leader leaves: {left:?}, {given_back:?}"));
        let error = left.and(given_back).err();
        let now = world.network.now;
        let ended = world
            .checks
            .calls
            .ended(&call, error, now, &world.checks.family);
        world.check("calls", ended);
        world.check("left-over", outcome);
        world.check("bounds", bounds(&pools));
        world.check("shares", fair(shares));
        world.check("soundness", sound(check_invariants));
        let checks = &world.checks;
        let reaped = checks.exits.all_reaped(&checks.family);
        let delivered = checks.signals.all_delivered(&checks.family);
        world.check("reaping", reaped);
        world.check("signals", delivered);
    });
    shut_down(node, own, Duration::from_secs(1));
}
