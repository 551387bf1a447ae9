//! Three activities in one node, and two nodes, in one thread: the calls are futures, and one task of each node moves
//! its bytes. The executor below is all that is needed; any other does as well.
//!
//! ```sh
//! cargo run --release --example async_guest
//! ```

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libos_ipc::host::Host;
use libos_ipc::pal::{Deadline, Pal};
use libos_ipc::{
    Config, Driving, Error, FileLock, Identity, LockFamily, LockKind, Node, Pid, Vmid, Wait,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(20));
const ROUNDS: u64 = 200;

/// A task is polled again after this was set.
#[derive(Default)]
struct Ready(AtomicBool);

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs the tasks until all are done. If none is ready, it moves the bytes of the nodes, and sleeps until one
/// of them has something to do.
fn run(
    nodes: &[&Node<'_, Host>],
    tasks: &mut [Pin<&mut dyn Future<Output = Result<()>>>],
) -> Result<()> {
    let ready: Vec<Arc<Ready>> = tasks
        .iter()
        .map(|_| Arc::new(Ready(AtomicBool::new(true))))
        .collect();
    let mut left = tasks.len();
    while left > 0 {
        let mut is_idle = true;
        for (task, ready) in tasks.iter_mut().zip(&ready) {
            if ready.0.swap(false, Ordering::SeqCst) {
                is_idle = false;
                let waker = Waker::from(Arc::clone(ready));
                if let Poll::Ready(outcome) = task.as_mut().poll(&mut Context::from_waker(&waker)) {
                    outcome?;
                    left -= 1;
                }
            }
        }
        let mut until = Deadline::Never;
        for node in nodes {
            until = until.min(node.poll_once().context("the node is closed")?);
        }
        let is_woken = || ready.iter().any(|ready| ready.0.load(Ordering::SeqCst));
        if is_idle && left > 0 && !is_woken() {
            sleep(nodes, until)?;
        }
    }
    Ok(())
}

/// Waits until a node has something to do, or until that time.
fn sleep(nodes: &[&Node<'_, Host>], until: Deadline) -> Result<()> {
    let now = nodes[0].pal().now();
    let time = until.left(|| now).map(Timespec::try_from).transpose()?;
    let mut descriptors: Vec<PollFd<'_>> = nodes
        .iter()
        .map(|node| PollFd::new(node.pal(), PollFlags::IN))
        .collect();
    poll(&mut descriptors, time.as_ref())?;
    Ok(())
}

fn node<'m>(
    base: &std::path::Path,
    identity: Identity,
    memory: &'m mut Vec<std::mem::MaybeUninit<u8>>,
) -> Result<Node<'m, Host>> {
    let config = Config {
        driving: Driving::Caller,
        ..Config::DEFAULT
    };
    let bytes = Node::<Host>::memory(&identity, &config).total();
    memory.resize(bytes, std::mem::MaybeUninit::uninit());
    let host = Host::listen(base, identity.vmid)?;
    Ok(Node::new(host, identity, config, memory)?)
}

fn lock(kind: LockKind, pid: u32) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Posix,
        kind,
        start: 0,
        end: 9,
        pid,
        handle: 0,
        wait: true,
        path: b"file",
    }
}

#[allow(clippy::too_many_lines, reason = "one activity after the other")]
fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let leader = node(&base, Identity::LEADER, &mut first)?;
    let identity = Identity::child(Vmid::new(2).context("it is not 0")?, Vmid::LEADER);
    let member = node(&base, identity, &mut second)?;
    let nodes = [&leader, &member];

    let mut join_leader = pin!(async {
        leader
            .join_async(WAIT)
            .await
            .map(|_| ())
            .map_err(Into::into)
    });
    run(&nodes, &mut [join_leader.as_mut()])?;
    let mut join_member = pin!(async {
        member
            .join_async(WAIT)
            .await
            .map(|_| ())
            .map_err(Into::into)
    });
    run(&nodes, &mut [join_member.as_mut()])?;

    let counter = member.share::<u64>(Some(1))?;
    let mirror = leader.share::<u64>(Some(1))?;
    let (looked_up, locked) = (Cell::new(0), Cell::new(0));
    // Three activities of the member, and one of the leader, which wants the same value and the same lock.
    let mut look_up = pin!(async {
        for _ in 0..ROUNDS {
            let id = member.take_id_async(WAIT).await?;
            ensure!(member.owner_of_async(id, WAIT).await? == Some(identity.vmid));
            member.release_id_async(id, WAIT).await?;
            looked_up.set(looked_up.get() + 1);
        }
        Ok(())
    });
    let mut count = pin!(async {
        for _ in 0..ROUNDS {
            *counter.write_async(WAIT).await? += 1;
        }
        Ok(())
    });
    let pid = member.pid().map_or(0, Pid::get);
    let mut lock_member = pin!(async {
        for _ in 0..ROUNDS {
            member
                .set_lock_async(&lock(LockKind::Write, pid), WAIT)
                .await?;
            locked.set(locked.get() + 1);
            yield_now().await;
            member
                .set_lock_async(&lock(LockKind::Unlock, pid), WAIT)
                .await?;
        }
        Ok(())
    });
    let leader_pid = leader.pid().map_or(0, Pid::get);
    let mut other = pin!(async {
        for _ in 0..ROUNDS {
            *mirror.write_async(WAIT).await? += 1;
            leader
                .set_lock_async(&lock(LockKind::Write, leader_pid), WAIT)
                .await?;
            yield_now().await;
            leader
                .set_lock_async(&lock(LockKind::Unlock, leader_pid), WAIT)
                .await?;
        }
        drop(
            mirror
                .wait_for_async(WAIT, |value| *value == 2 * ROUNDS)
                .await?,
        );
        Ok(())
    });
    run(
        &nodes,
        &mut [
            look_up.as_mut(),
            count.as_mut(),
            lock_member.as_mut(),
            other.as_mut(),
        ],
    )?;
    ensure!((looked_up.get(), locked.get()) == (ROUNDS, ROUNDS));

    // A time limit ends a future, and a dropped one holds no lock.
    let mut limits = pin!(async {
        leader
            .set_lock_async(&lock(LockKind::Write, leader_pid), WAIT)
            .await?;
        let soon = Wait::at_most(Duration::from_millis(20));
        let ended = member
            .set_lock_async(&lock(LockKind::Write, pid), soon)
            .await;
        ensure!(ended == Err(Error::TimedOut));
        {
            let wanted = lock(LockKind::Write, pid);
            let mut dropped = pin!(member.set_lock_async(&wanted, WAIT));
            poll_fn(|context| Poll::Ready(dropped.as_mut().poll(context).is_pending())).await;
        }
        leader
            .set_lock_async(&lock(LockKind::Unlock, leader_pid), WAIT)
            .await?;
        let free = leader
            .find_lock_async(&lock(LockKind::Write, leader_pid), WAIT)
            .await?;
        ensure!(free.is_none());
        Ok(())
    });
    run(&nodes, &mut [limits.as_mut()])?;
    println!(
        "two nodes in one thread: {ROUNDS} look-ups, {} changes of a value, {} locks",
        2 * ROUNDS,
        2 * ROUNDS
    );
    println!("async: ok");
    Ok(())
}

/// Lets the other tasks run once.
async fn yield_now() {
    let mut is_first = true;
    poll_fn(|context| {
        if std::mem::take(&mut is_first) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}
