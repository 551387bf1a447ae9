//! A family of real nodes over the platform, with faults that a node must tolerate.

use core::time::Duration;
use std::boxed::Box;
use std::format;
use std::string::String;
use std::sync::mpsc::channel;
use std::thread;
use std::vec::Vec;

use super::rules::Rule;
use super::setup::CheckSetup;
use super::violation::{Checked, broken};
use crate::pal::{Deadline, Pal};
use crate::testing::fault_injector::{FaultInjector, Faults};
use crate::{
    Capacities, ChildSelector, Config, Driving, Exit, FileLock, Identity, LockFamily, LockKind,
    Node, Vmid, Wait,
};

const CHILDREN: usize = 2;
const ROUNDS: usize = 30;
/// The number of the shared value.
const VALUE: u64 = 77;

type Result<T> = core::result::Result<T, String>;
type OverFaults<'p, P> = &'p FaultInjector<P>;
/// The calls that a process makes on its node.
type Act<'a, P> = &'a dyn for<'n, 'm, 'p> Fn(&'n Node<'m, OverFaults<'p, P>>) -> Result<()>;

/// Returns a function that makes the text of an error in the call `what`.
fn at<E: core::fmt::Display>(what: &'static str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}

/// Checks that a family works over the platform, without faults and then with harmless ones.
pub(super) fn family<P: Pal + 'static>(setup: &CheckSetup<'static, P>) -> Checked {
    // A platform that stays when it is dropped cannot be made twice.
    let kinds = [(Faults::NONE, "no"), (Faults::HARMLESS, "harmless")];
    for (faults, kind) in kinds.into_iter().skip(usize::from(!setup.drop_ends)) {
        let (sender, receiver) = channel();
        let make = setup.make;
        let driving = if setup.has_threads {
            Driving::Worker
        } else {
            Driving::Caller
        };
        let limit = setup.patience * 4;
        thread::spawn(move || sender.send(run(make, faults, driving, limit)));
        let done = receiver.recv_timeout(setup.patience * 10);
        let seen = match done {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(_) => String::from("it does not end"),
        };
        return Err(broken(
            Rule::Family,
            "a leader and two members that take IDs, lock a file, share a value and end",
            format_args!("with {kind} faults: {seen}"),
        ));
    }
    Ok(())
}

fn run<P: Pal + 'static>(
    make: &'static (dyn Fn(Vmid) -> P + Sync),
    faults: Faults,
    driving: Driving,
    limit: Duration,
) -> Result<()> {
    let wait = Wait::at_most(limit);
    let with_node = move |identity, act: Act<'_, P>| member(make, faults, driving, identity, act);
    with_node(Identity::LEADER, &|leader| {
        leader.join(wait).map_err(at("join of the leader"))?;
        let children: Vec<_> = (0..CHILDREN)
            .map(|_| leader.start_child(wait).map_err(at("start_child")))
            .collect::<Result<_>>()?;
        let (sender, ends) = channel();
        for child in children {
            let sender = sender.clone();
            thread::spawn(move || {
                let done = with_node(child, &|node| work(node, wait));
                let _ = sender.send(done);
            });
        }
        drop(sender);
        let mut statuses = Vec::new();
        for _ in 0..CHILDREN {
            let exit = leader.wait_child(ChildSelector::Any, wait);
            statuses.push(exit.map(|exit| exit.code));
        }
        // A child states the cause of its failure, and its exit status follows from the cause, so the causes are read first.
        while !statuses.is_empty() {
            leader.poll(Deadline::Now);
            match ends.recv_timeout(Duration::from_millis(1)) {
                Ok(done) => done?,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        for status in statuses {
            let code = status.map_err(at("wait_child"))?;
            if code != 5 {
                return Err(format!("a child ended with {code} instead of 5"));
            }
        }
        let value = leader.share::<[u8; 8]>(Some(VALUE)).map_err(at("share"))?;
        drop(value);
        leader.leave(wait).map_err(at("leave"))
    })
}

/// Makes a node, and runs its worker if there is a thread for it.
fn member<P: Pal + 'static>(
    make: &'static (dyn Fn(Vmid) -> P + Sync),
    faults: Faults,
    driving: Driving,
    identity: Identity,
    act: Act<'_, P>,
) -> Result<()> {
    let config = Config {
        driving,
        capacities: Capacities {
            peers: 8,
            ..Capacities::DEFAULT
        },
        ..Config::DEFAULT
    };
    let seed = identity.vmid.get().into();
    let pal = FaultInjector::new(make(identity.vmid), faults, seed);
    let bytes = Node::<OverFaults<'_, P>>::memory(&identity, &config).total();
    let mut memory = Box::new_uninit_slice(bytes);
    let node = Node::new(&pal, identity, config, &mut memory).map_err(at("Node::new"))?;
    thread::scope(|scope| {
        if driving == Driving::Worker {
            scope.spawn(|| node.work());
        }
        let done = act(&node);
        node.shut_down(Duration::from_secs(1));
        done
    })
}

/// The work of a child.
fn work<P: Pal>(node: &Node<'_, P>, wait: Wait<'_>) -> Result<()> {
    let pid = node.join(wait).map_err(at("join of a member"))?;
    let value = node.share::<[u8; 8]>(Some(VALUE)).map_err(at("share"))?;
    for _ in 0..ROUNDS {
        let id = node.take_id(wait).map_err(at("take_id"))?;
        node.release_id(id, wait).map_err(at("release_id"))?;
        for kind in [LockKind::Write, LockKind::Unlock] {
            let lock = FileLock {
                family: LockFamily::Posix,
                kind,
                start: 0,
                end: 9,
                pid: pid.into(),
                handle: 0,
                wait: true,
                path: b"/conformance",
            };
            node.set_lock(&lock, wait).map_err(at("set_lock"))?;
        }
        let mut writer = value
            .write(wait)
            .map_err(at("a change of the shared value"))?;
        let count = u64::from_le_bytes(*writer);
        *writer = count.wrapping_add(1).to_le_bytes();
    }
    // Each child waits until both have made their changes. A node without a worker moves bytes in calls that
    // wait, and in `poll`.
    let mut count = 0;
    for _ in 0..20_000 {
        node.poll(Deadline::Now);
        let reader = value.read(wait).map_err(at("a read of the shared value"))?;
        count = u64::from_le_bytes(*reader);
        drop(reader);
        if count == (CHILDREN * ROUNDS) as u64 {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    if count != (CHILDREN * ROUNDS) as u64 {
        return Err(format!(
            "the shared value is {count}, not {}",
            CHILDREN * ROUNDS
        ));
    }
    drop(value);
    let exit = Exit {
        code: 5,
        ..Exit::default()
    };
    node.exit(exit, wait).map_err(at("exit"))
}
