//! A library OS on the host whose threads belong to tokio: the calls of its node are futures, and one task moves the node's
//! bytes when the descriptor of its platform is readable (`AsyncFd`).
//!
//! ```sh
//! cargo run --release --example async_tokio
//! ```

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libos_ipc::host::Host;
use libos_ipc::pal::{Deadline, Pal};
use libos_ipc::{
    Config, Driving, Exit, FileLock, Identity, LockFamily, LockKind, Node, Pid, Vmid, Wait,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Builder;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(20));
const ROUNDS: u64 = 200;
const VALUE: u64 = 1;

type HostedNode = &'static Node<'static, Host>;

/// Makes a node, and starts the task that drives it. They live as long as the program, as spawned tasks ask for.
fn start(base: &Path, identity: Identity, tasks: &mut JoinSet<Result<()>>) -> Result<HostedNode> {
    let config = Config {
        driving: Driving::Caller,
        ..Config::DEFAULT
    };
    let bytes = Node::<Host>::memory(&identity, &config).total();
    let memory = Box::leak(Box::new_uninit_slice(bytes));
    let host = Host::listen(base, identity.vmid)?;
    let node: HostedNode = Box::leak(Box::new(Node::new(host, identity, config, memory)?));
    tasks.spawn(drive(node));
    Ok(node)
}

/// Moves the bytes of a node until it is closed.
async fn drive(node: HostedNode) -> Result<()> {
    let descriptor = node.pal().as_fd().try_clone_to_owned()?;
    // SAFETY: the descriptor is owned, so its number stays its own.
    #[allow(unsafe_code, reason = "tokio asks for it")]
    let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE)? };
    while let Some(until) = node.poll_once() {
        if until == Deadline::Now {
            yield_now().await;
            continue;
        }
        let left = until.left(|| node.pal().now());
        let readable = descriptor.readable();
        let ready = match left {
            Some(left) => timeout(left, readable).await.ok(),
            None => Some(readable.await),
        };
        // Forgotten before the node looks, so that what comes after that look ends the next wait.
        if let Some(ready) = ready {
            ready?.clear_ready();
        }
    }
    Ok(())
}

async fn look_up(node: HostedNode) -> Result<()> {
    for _ in 0..ROUNDS {
        let id = node.take_id_async(WAIT).await?;
        ensure!(node.owner_of_async(id, WAIT).await? == Some(node.identity().vmid));
        node.release_id_async(id, WAIT).await?;
    }
    Ok(())
}

async fn count(node: HostedNode) -> Result<()> {
    let counter = node.share::<u64>(Some(VALUE))?;
    for _ in 0..ROUNDS {
        *counter.write_async(WAIT).await? += 1;
    }
    let all = |value: &u64| *value == 2 * ROUNDS;
    drop(counter.wait_for_async(WAIT, all).await?);
    Ok(())
}

async fn lock_file(node: HostedNode) -> Result<()> {
    for _ in 0..ROUNDS {
        node.set_lock_async(&lock(node, LockKind::Write), WAIT)
            .await?;
        yield_now().await;
        node.set_lock_async(&lock(node, LockKind::Unlock), WAIT)
            .await?;
    }
    Ok(())
}

fn lock(node: HostedNode, kind: LockKind) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Posix,
        kind,
        start: 0,
        end: 9,
        pid: node.pid().map_or(0, Pid::get),
        handle: 0,
        wait: true,
        path: b"file",
    }
}

/// Checks that a timeout of tokio, which drops the future of a call, leaves no lock behind.
async fn give_up(leader: HostedNode, member: HostedNode) -> Result<()> {
    leader
        .set_lock_async(&lock(leader, LockKind::Write), WAIT)
        .await?;
    let wanted = lock(member, LockKind::Write);
    let soon = Duration::from_millis(20);
    ensure!(
        timeout(soon, member.set_lock_async(&wanted, WAIT))
            .await
            .is_err()
    );
    leader
        .set_lock_async(&lock(leader, LockKind::Unlock), WAIT)
        .await?;
    // If the dropped request was granted meanwhile, the node of the member gives the lock back.
    leader
        .set_lock_async(&lock(leader, LockKind::Write), WAIT)
        .await?;
    Ok(())
}

async fn family(base: &Path) -> Result<()> {
    let mut tasks = JoinSet::new();
    let leader = start(base, Identity::LEADER, &mut tasks)?;
    leader.join_async(WAIT).await?;
    let child = Identity::child(Vmid::new(2).context("it is not 0")?, Vmid::LEADER);
    let member = start(base, child, &mut tasks)?;
    member.join_async(WAIT).await?;

    let mut activities = JoinSet::new();
    for node in [leader, member] {
        activities.spawn(look_up(node));
        activities.spawn(count(node));
        activities.spawn(lock_file(node));
    }
    while let Some(ended) = activities.join_next().await {
        ended??;
    }
    give_up(leader, member).await?;
    ensure!(leader.check_invariants() && member.check_invariants());

    for node in [member, leader] {
        node.exit_async(Exit::default(), WAIT).await?;
        ensure!(
            node.shut_down_async(Duration::from_secs(5)).await,
            "something was not sent"
        );
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Runs the family in a runtime of one thread, and in one of two.
pub(crate) fn run() -> Result<()> {
    let runtimes = [
        Builder::new_current_thread().enable_all().build()?,
        Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?,
    ];
    for runtime in runtimes {
        let directory = tempfile::tempdir()?;
        runtime.block_on(family(&directory.path().join("f")))?;
    }
    Ok(())
}

fn main() -> Result<()> {
    run()?;
    println!(
        "two nodes with {ROUNDS} IDs, changes of a value and locks each, in one thread and in two"
    );
    println!("tokio: ok");
    Ok(())
}
