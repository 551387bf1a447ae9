//! The end of a process: it has done all its steps, dies without an exit report, or has failed to
//! start.

use std::time::Duration;

use fastrand::Rng;
use libos_ipc::{ChildSelector, Exit, Wait};

use super::checks::{Call, LONG, SIGPWR, State, check_bounds, check_left_over};
use super::faults::Fault;
use super::process::{OwnProcess, SimNode, check_invariants, check_shares, idle, nanoseconds, now};
use super::program::Program;
use super::world::{World, with};

/// The time in which all messages arrive, if no fault delays them longer.
const SETTLED: Duration = Duration::from_secs(1);
/// How long a leader in a family with heirs waits, at most, for all others to end before it leaves.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);
/// The time in which all messages arrive, whatever faults delay them.
const SETTLED_WITH_DELAYS: Duration = Duration::from_mins(2);

/// Ends a process that could not join, or was cut off at once.
pub(super) fn fail<const READS: bool>(node: &SimNode<'_, READS>, own: &OwnProcess) {
    with(|world| {
        if world.plan.has_heirs() && world.checks.family.is_starting(own.vmid) {
            world.checks.family.record_failure(own.vmid);
        }
    });
    shut_down(node, own, Duration::ZERO);
    if own.is_dead() {
        return;
    }
    // The parent is notified of that.
    with(|world| {
        world.checks.heartbeats.record_end(own.vmid);
        if world
            .checks
            .family
            .get(own.vmid)
            .is_some_and(|process| process.state == State::Starting)
        {
            world.checks.family.record_failure(own.vmid);
            let now = world.checks.tick();
            world.checks.files.forget(own.vmid, now);
        }
    });
}

/// Shuts the node down, and checks that it is left in order. Returns true if it has sent all its frames.
fn shut_down<const READS: bool>(
    node: &SimNode<'_, READS>,
    own: &OwnProcess,
    limit: Duration,
) -> bool {
    with(|world| world.network.allow_end(own.place));
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
pub(super) fn end<const READS: bool>(node: &SimNode<'_, READS>, own: &OwnProcess) {
    let seed = with(|world| world.plan.seed_of(own.number, 7));
    let mut rng = Rng::with_seed(seed);
    let program = Program {
        node,
        own,
        thread: 0,
    };
    let has_heirs = with(|world| world.plan.has_heirs());
    if own.is_dead() {
        shut_down(node, own, Duration::ZERO);
        return;
    }
    if own.is_first && !has_heirs {
        return end_first_process(node, own, &program);
    }
    if own.shared(|shared| shared.is_crashing) {
        // The process has died already, in the middle of a step.
        return;
    }
    let crashes = with(|world| world.has(Fault::Crash)) && rng.u8(..3) == 0;
    let sends_report = !own.is_over() && !crashes;
    if sends_report {
        // Some processes wait for a while.
        idle(node, Duration::from_micros(rng.u64(..20_000)));
        await_kept_signals(node, own);
    }
    if sends_report && program.release_all() && stay_a_while(&program, &mut rng) {
        exit(&program, rng.u32(..256));
    } else if crashes {
        crash(node, own);
    } else {
        die(node, own);
    }
}

/// Ends the process with an exit report. If it leads a family with heirs, it leaves that to its heir.
fn exit<const READS: bool>(program: &Program<'_, '_, READS>, code: u32) {
    let (node, own) = (program.node, program.own);
    let has_heirs = with(|world| world.plan.has_heirs());
    let leads = has_heirs && program.leads();
    if leads {
        program.release_all_ranges();
    }
    with(|world| {
        begin_end(world, own, (code, 0));
        world.forget(own.vmid, true);
    });
    let report = Exit {
        uid: 0,
        code,
        signal: 0,
    };
    let long = Wait::at_most(LONG);
    let exited = node.exit(report, long);
    if exited.is_ok() && !own.is_dead() && !with(|world| world.faults().may_overrun()) {
        with(|world| world.checks.family.record_exit(own.vmid));
    }
    let exited = exited.and_then(|()| node.release_idle_ranges(long));
    let has_led = has_heirs && program.leads();
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
}

/// Lets the process die in the middle of something. Peers cannot tell that from a cut, if the streams are secure.
pub(crate) fn crash<const READS: bool>(node: &SimNode<'_, READS>, own: &OwnProcess) {
    with(|world| {
        if world.plan.is_secure() {
            world.network.omit_last_records(own.place);
        }
    });
    die(node, own);
}

/// Stays for a while in a family that may outlive its leader: some processes wait for their children, and some leaders
/// for all others. Returns true if the process is to leave then.
fn stay_a_while<const READS: bool>(program: &Program<'_, '_, READS>, rng: &mut Rng) -> bool {
    if !with(|world| world.plan.has_heirs()) {
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
fn await_all<const READS: bool>(node: &SimNode<'_, READS>, own: &OwnProcess) {
    let is_leader = || with(|world| world.leader == own.vmid && !world.network.is_alone(own.place));
    let until = now() + nanoseconds(LEAVE_LIMIT);
    while is_leader() && !own.is_over() && now() < until {
        idle(node, Duration::from_millis(5));
    }
}

/// Lets the process leave the family, which it may lead: another process leads then.
fn leave<const READS: bool>(node: &SimNode<'_, READS>, own: &OwnProcess, led: bool) {
    if own.is_dead() {
        return;
    }
    let is_last = with(|world| {
        world.log(format_args!("v{} leaves, the leader", own.vmid));
        let now = world.network.now;
        world.checks.succession.record_leaving(own.vmid, now);
        let checks = &mut world.checks;
        checks.calls.record_leader_end(now, &checks.family);
        world.network.allow_end(own.place);
        led && world.network.is_alone(own.place) && !world.network.may_hand_over()
    });
    let began = now();
    let left = node.leave(Wait::at_most(LONG));
    let pools = node.statistics().pools;
    with(|world| {
        world.log(format_args!("v{} has left: {left:?}", own.vmid));
        let now = world.network.now;
        world.checks.succession.record_leaving(own.vmid, now);
        let call = Call {
            name: "leave",
            vmid: own.vmid,
            began,
            limit: LONG,
            was_interrupted: false,
        };
        let family = &world.checks.family;
        let ended = world.checks.calls.check_end(&call, left.err(), now, family);
        world.check("calls", ended);
        // Another may have joined meanwhile, and lead now.
        if is_last && world.network.is_alone(own.place) {
            let outcome = check_left_over(&pools, &["children"]);
            world.check("left-over", outcome);
            let delivered = world
                .checks
                .signals
                .check_all_delivered(&world.checks.family);
            world.check("signals", delivered);
        } else if world.leader == own.vmid && !world.network.is_dead(own.place) {
            world.record_leader_end(own.vmid);
        }
    });
}

/// Lets the process die without an exit report.
fn die<const READS: bool>(node: &SimNode<'_, READS>, own: &OwnProcess) {
    if with(|world| world.leader == own.vmid && world.plan.has_heirs()) {
        with(|world| world.kill(own.place));
        shut_down(node, own, Duration::ZERO);
        return;
    }
    with(|world| {
        world.log(format_args!("v{} dies", own.vmid));
        begin_end(world, own, (0, SIGPWR));
        world.forget(own.vmid, false);
    });
    shut_down(node, own, Duration::ZERO);
}

/// Records that the process begins to end, with that code and signal.
fn begin_end(world: &mut World, own: &OwnProcess, how: (u32, u32)) {
    if world.checks.family.is_certain(own.vmid) {
        // A signal that the leader forwarded some time ago must have been delivered.
        let grace = if world.faults().are_late() {
            SETTLED_WITH_DELAYS
        } else {
            SETTLED
        };
        let until = world.network.now.saturating_sub(nanoseconds(grace));
        let checks = &world.checks;
        // A leader without an heir may have died between two members.
        let is_leader_gone = checks.succession.may_be_gone(&checks.family);
        let outcome = checks
            .signals
            .check_broadcasts(&checks.family, own.vmid, until);
        let outcome = if is_leader_gone { Ok(()) } else { outcome };
        world.check("broadcasts", outcome);
    }
    world.checks.family.record_end(own.vmid, how);
    world.checks.heartbeats.record_end(own.vmid);
    if world.faults().may_overrun() {
        // Its exit report may arrive too late.
        let without_report = (0, SIGPWR);
        world.checks.family.record_end(own.vmid, without_report);
    }
}

/// Returns the fault that is left at the end of the time for all messages to arrive.
fn missing_after_settling<T, const READS: bool>(
    node: &SimNode<'_, READS>,
    missing: impl Fn() -> Option<T>,
) -> Option<T> {
    let until = now() + nanoseconds(SETTLED_WITH_DELAYS);
    while missing().is_some() && now() < until {
        idle(node, Duration::from_millis(20));
    }
    missing()
}

/// Waits for the signals that were sent to the process before it joined.
fn await_kept_signals<const READS: bool>(node: &SimNode<'_, READS>, own: &OwnProcess) {
    let not_come = || {
        with(|world| {
            let signal = world.checks.signals.missing_signal(own.vmid)?;
            world.checks.family.is_certain(own.vmid).then_some(signal)
        })
    };
    if let Some(signal) = missing_after_settling(node, not_come) {
        let what = format!(
            "v{} never gets {signal}, which was sent before it joined",
            own.vmid
        );
        with(|world| world.check("signals", Err(what)));
    }
}

/// Waits, as the first process, for all that become its children, and checks that nothing is left.
fn end_first_process<const READS: bool>(
    node: &SimNode<'_, READS>,
    own: &OwnProcess,
    program: &Program<'_, '_, READS>,
) {
    // Other processes may wait for its resources, and it is going to wait for those processes.
    program.release_all();
    program.signal_all(LONG);
    with(|world| world.is_finishing = true);
    let until = now();
    let missing = || {
        with(|world| {
            world
                .checks
                .signals
                .missing_broadcast(&world.checks.family, until)
        })
    };
    if let Some((vmid, signal)) = missing_after_settling(node, missing) {
        let what = Err(format!("v{vmid} never gets the signal {signal} for all"));
        with(|world| world.check("broadcasts", what));
    }
    while program.wait_child(ChildSelector::Any, LONG).is_some() {}
    program.end_primitives();
    program.release_all_ids();
    let ended = with(|world| {
        world.checks.family.record_end(own.vmid, (0, 0));
        world.network.now
    });
    let left = node.leave(Wait::at_most(LONG));
    let given_back = node.release_idle_ranges(Wait::at_most(LONG));
    let call = Call {
        name: "leave",
        vmid: own.vmid,
        began: ended,
        limit: LONG,
        was_interrupted: false,
    };
    let mut outcome = Ok(());
    for _ in 0..200 {
        outcome = check_left_over(&node.statistics().pools, &[]);
        if outcome.is_ok() {
            break;
        }
        idle(node, Duration::from_millis(5));
    }
    let pools = node.statistics().pools;
    let shares_fit = node.check_shares();
    let invariants_hold = !shares_fit || node.check_invariants();
    with(|world| {
        world.log(format_args!("the leader leaves: {left:?}, {given_back:?}"));
        let error = left.and(given_back).err();
        let now = world.network.now;
        let ended = world
            .checks
            .calls
            .check_end(&call, error, now, &world.checks.family);
        world.check("calls", ended);
        world.check("left-over", outcome);
        world.check("bounds", check_bounds(&pools));
        world.check("shares", check_shares(shares_fit));
        world.check("soundness", check_invariants(invariants_hold));
        let checks = &world.checks;
        let reaped = checks.exits.check_all_reaped(&checks.family);
        let delivered = checks.signals.check_all_delivered(&checks.family);
        world.check("reaping", reaped);
        world.check("signals", delivered);
    });
    shut_down(node, own, Duration::from_secs(1));
}
