//! A guest of one thread: three activities in one node are tasks of `embassy-executor`, which is `no_std` and has no
//! thread and no allocator of its own. The calls of the node are futures, and the loop between two rounds of the executor
//! moves the node's bytes.
//!
//! The leader of the family is another node in the same thread, with an activity of its own. The guest of the example
//! `unikernel` does the same without an operating system.
//!
//! ```sh
//! cargo run --release --example async_guest
//! ```

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use embassy_executor::raw::Executor;
use embassy_executor::{Spawner, task};
use libos_ipc::host::Host;
use libos_ipc::pal::{Deadline, Pal};
use libos_ipc::{
    Config, Driving, Error, Exit, FileLock, Identity, LockFamily, LockKind, Node, Pid, Vmid, Wait,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(20));
const ROUNDS: u64 = 200;
const VALUE: u64 = 1;

/// The executor has a task to poll.
static IS_PENDING: AtomicBool = AtomicBool::new(true);

/// The executor calls this when a task was woken.
#[allow(unsafe_code, reason = "the name by which the executor finds it")]
// SAFETY: no other function of the program has that name.
#[unsafe(export_name = "__pender")]
fn pend(_: *mut ()) {
    IS_PENDING.store(true, Ordering::SeqCst);
}

/// The results of the tasks.
#[derive(Default)]
struct Done {
    tasks: Cell<usize>,
    failure: RefCell<Option<anyhow::Error>>,
}

impl Done {
    /// Records the end of a task.
    fn record(&self, outcome: Result<()>) {
        self.tasks.set(self.tasks.get() + 1);
        if let Err(error) = outcome {
            self.failure.replace(Some(error));
        }
    }
}

/// The nodes of this thread, and its executor. They live as long as the program, as the tasks ask for.
#[derive(Clone, Copy)]
struct Guest {
    leader: &'static Node<'static, Host>,
    member: &'static Node<'static, Host>,
    executor: &'static Executor,
    done: &'static Done,
}

impl Guest {
    fn new(base: &Path) -> Result<Guest> {
        let identity = Identity::child(Vmid::new(2).context("it is not 0")?, Vmid::LEADER);
        Ok(Guest {
            leader: node(base, Identity::LEADER)?,
            member: node(base, identity)?,
            executor: Box::leak(Box::new(Executor::new(std::ptr::null_mut()))),
            done: Box::leak(Box::default()),
        })
    }

    /// Runs until that number of tasks is done. If none is ready, it moves the bytes of the nodes, and sleeps until
    /// one of them has something to do.
    fn run_until(self, tasks: usize) -> Result<()> {
        while self.done.tasks.get() < tasks {
            IS_PENDING.store(false, Ordering::SeqCst);
            // SAFETY: this is the only thread, and no task calls this function.
            #[allow(unsafe_code, reason = "the executor asks for it")]
            unsafe {
                self.executor.poll();
            }
            if let Some(error) = self.done.failure.take() {
                return Err(error);
            }
            let mut until = Deadline::Never;
            for node in [self.leader, self.member] {
                // A node that is shut down has nothing more to do.
                until = until.min(node.poll_once().unwrap_or(Deadline::Never));
            }
            if self.done.tasks.get() < tasks && !IS_PENDING.load(Ordering::SeqCst) {
                self.sleep(until)?;
            }
        }
        Ok(())
    }

    /// Waits until a node has something to do, or until that time.
    fn sleep(self, until: Deadline) -> Result<()> {
        let now = self.leader.pal().now();
        let time = until.left(|| now).map(Timespec::try_from).transpose()?;
        let mut descriptors =
            [self.leader, self.member].map(|node| PollFd::new(node.pal(), PollFlags::IN));
        match poll(&mut descriptors, time.as_ref()) {
            // After a signal the nodes are looked at once more, for nothing.
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn node(base: &Path, identity: Identity) -> Result<&'static Node<'static, Host>> {
    let config = Config {
        driving: Driving::Caller,
        ..Config::DEFAULT
    };
    let bytes = Node::<Host>::memory(&identity, &config).total();
    let memory: &mut [MaybeUninit<u8>] = Box::leak(Box::new_uninit_slice(bytes));
    let host = Host::listen(base, identity.vmid)?;
    Ok(Box::leak(Box::new(Node::new(
        host, identity, config, memory,
    )?)))
}

#[task(pool_size = 2)]
async fn join(guest: Guest, node: &'static Node<'static, Host>) {
    let joined = node.join_async(WAIT).await;
    guest.done.record(joined.map(drop).map_err(Into::into));
}

/// Runs the first activity of the member: IDs.
#[task]
async fn look_up(guest: Guest) {
    let work = async {
        let node = guest.member;
        for _ in 0..ROUNDS {
            let id = node.take_id_async(WAIT).await?;
            ensure!(node.owner_of_async(id, WAIT).await? == Some(node.identity().vmid));
            node.release_id_async(id, WAIT).await?;
        }
        Ok(())
    };
    guest.done.record(work.await);
}

/// Runs the second activity of the member, and one of the leader: both count in the same shared value.
#[task(pool_size = 2)]
async fn count(guest: Guest, node: &'static Node<'static, Host>) {
    let work = async {
        let counter = node.share::<u64>(Some(VALUE))?;
        for _ in 0..ROUNDS {
            *counter.write_async(WAIT).await? += 1;
        }
        let all = |value: &u64| *value == 2 * ROUNDS;
        drop(counter.wait_for_async(WAIT, all).await?);
        Ok(())
    };
    guest.done.record(work.await);
}

/// Runs the third activity of the member, and one of the leader: both lock the same bytes of a file.
#[task(pool_size = 2)]
async fn lock_file(guest: Guest, node: &'static Node<'static, Host>) {
    let work = async {
        for _ in 0..ROUNDS {
            node.set_lock_async(&lock(node, LockKind::Write), WAIT)
                .await?;
            yield_now().await;
            node.set_lock_async(&lock(node, LockKind::Unlock), WAIT)
                .await?;
        }
        Ok(())
    };
    guest.done.record(work.await);
}

/// Checks that a time limit ends a future, and that a dropped one holds no lock.
#[task]
async fn give_up(guest: Guest) {
    let work = async {
        let Guest { leader, member, .. } = guest;
        leader
            .set_lock_async(&lock(leader, LockKind::Write), WAIT)
            .await?;
        let soon = Wait::at_most(Duration::from_millis(20));
        let wanted = lock(member, LockKind::Write);
        ensure!(member.set_lock_async(&wanted, soon).await == Err(Error::TimedOut));
        {
            let mut dropped = pin!(member.set_lock_async(&wanted, WAIT));
            poll_fn(|context| Poll::Ready(dropped.as_mut().poll(context).is_pending())).await;
        }
        leader
            .set_lock_async(&lock(leader, LockKind::Unlock), WAIT)
            .await?;
        // If the dropped request was granted meanwhile, the node of the member gives the lock back.
        leader
            .set_lock_async(&lock(leader, LockKind::Write), WAIT)
            .await?;
        Ok(())
    };
    guest.done.record(work.await);
}

/// Ends the member, and then the family.
#[task]
async fn end(guest: Guest) {
    let work = async {
        for node in [guest.member, guest.leader] {
            node.exit_async(Exit::default(), WAIT).await?;
            ensure!(
                node.shut_down_async(Duration::from_secs(5)).await,
                "something was not sent"
            );
        }
        Ok(())
    };
    guest.done.record(work.await);
}

fn lock(node: &Node<'_, Host>, kind: LockKind) -> FileLock<'static> {
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

pub(crate) fn run() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let guest = Guest::new(&directory.path().join("f"))?;
    let Guest { leader, member, .. } = guest;
    let spawner: Spawner = guest.executor.spawner();
    spawner.spawn(join(guest, leader)?);
    guest.run_until(1)?;
    spawner.spawn(join(guest, member)?);
    guest.run_until(2)?;

    spawner.spawn(look_up(guest)?);
    for node in [member, leader] {
        spawner.spawn(count(guest, node)?);
        spawner.spawn(lock_file(guest, node)?);
    }
    guest.run_until(7)?;
    spawner.spawn(give_up(guest)?);
    guest.run_until(8)?;
    ensure!(leader.check_invariants() && member.check_invariants());
    println!(
        "one thread, two nodes, three activities in one of them: {ROUNDS} IDs, {} changes of a value, {} locks",
        2 * ROUNDS,
        2 * ROUNDS
    );
    spawner.spawn(end(guest)?);
    guest.run_until(9)
}

fn main() -> Result<()> {
    run()?;
    println!("async: ok");
    Ok(())
}
