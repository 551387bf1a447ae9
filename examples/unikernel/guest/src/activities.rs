//! Three activities at once in one thread: tasks of `embassy-executor`. The calls of the node are futures; when no task
//! is ready, the node is polled, and the processor sleeps until something arrives for it.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use embassy_executor::raw::Executor;
use embassy_executor::task;
use libos_ipc::pal::Deadline;
use libos_ipc::{Error, LockKind, Pid};
use libos_ipc_guest::print_line;
use static_cell::StaticCell;

use crate::shared::{FIRST_BYTES, INCREMENTS, STATE_ID, SharedState, ledger_lock};
use crate::{Context, Failure, Member, WAIT};

/// The number of IDs that are taken: more than one range has.
const IDS: usize = 40;
/// The number of times that the first bytes of the ledger are locked.
const LOCKS: usize = 20;

static EXECUTOR: StaticCell<Executor> = StaticCell::new();
/// The number of activities that have ended, and of those that have failed.
static ENDED: AtomicUsize = AtomicUsize::new(0);
static FAILED: AtomicUsize = AtomicUsize::new(0);
/// Whether the executor has a task to poll.
static IS_PENDING: AtomicBool = AtomicBool::new(false);

/// The executor calls this when a task was woken.
// SAFETY: no other function of the program has that name.
#[unsafe(export_name = "__pender")]
fn pend(_: *mut ()) {
    IS_PENDING.store(true, Ordering::Relaxed);
}

/// Runs the activities of this guest until all have ended.
pub(crate) fn run(node: &'static Member, pid: Pid) -> Result<(), Failure> {
    let executor: &'static Executor = EXECUTOR.init(Executor::new(core::ptr::null_mut()));
    let spawner = executor.spawner();
    let is_spawned = |_| Failure::new("a task is spawned twice");
    spawner.spawn(take_ids(node).map_err(is_spawned)?);
    spawner.spawn(count(node).map_err(is_spawned)?);
    spawner.spawn(lock_bytes(node, pid).map_err(is_spawned)?);
    while ENDED.load(Ordering::Relaxed) < 3 {
        if IS_PENDING.swap(false, Ordering::Relaxed) {
            // SAFETY: there is one thread, and no task calls this function.
            unsafe { executor.poll() };
        }
        let until = node.poll_once().unwrap_or(Deadline::Now);
        if !IS_PENDING.load(Ordering::Relaxed) {
            // Sleeps until a frame arrives, or until that time.
            node.poll(until);
        }
    }
    if FAILED.load(Ordering::Relaxed) > 0 {
        return Err(Failure::new("an activity has failed"));
    }
    Ok(())
}

/// Records the end of an activity.
fn end(outcome: Result<(), Failure>) {
    if let Err(failed) = outcome {
        print_line!("{failed}");
        FAILED.fetch_add(1, Ordering::Relaxed);
    }
    ENDED.fetch_add(1, Ordering::Relaxed);
}

#[task]
async fn take_ids(node: &'static Member) {
    let work = async {
        let mut ids = [0; IDS];
        for id in &mut ids {
            *id = node.take_id_async(WAIT).await.context("taking an ID")?;
        }
        let own_vmid = Some(node.identity().vmid);
        for id in ids {
            let owner = node.owner_of_async(id, WAIT).await;
            if owner.context("looking up an ID")? != own_vmid {
                return Err(Failure::new("an ID of this guest has another owner"));
            }
            let released = node.release_id_async(id, WAIT).await;
            released.context("releasing an ID")?;
        }
        print_line!(
            "took {IDS} IDs, from {} to {}, and gave them back",
            ids[0],
            ids[IDS - 1]
        );
        Ok(())
    };
    end(work.await);
}

#[task]
async fn count(node: &'static Member) {
    let work = async {
        let state = node
            .share::<SharedState>(Some(STATE_ID))
            .context("opening the shared state")?;
        for _ in 0..INCREMENTS {
            state.write_async(WAIT).await.context("counting")?.counter += 1;
        }
        print_line!("counted {INCREMENTS} times in the shared state");
        Ok(())
    };
    end(work.await);
}

#[task]
async fn lock_bytes(node: &'static Member, pid: Pid) {
    let set = async |kind| -> Result<(), Error> {
        let lock = ledger_lock(pid.get(), kind, FIRST_BYTES, true);
        node.set_lock_async(&lock, WAIT).await
    };
    let work = async {
        for _ in 0..LOCKS {
            set(LockKind::Write).await.context("locking")?;
            set(LockKind::Unlock).await.context("unlocking")?;
        }
        print_line!("locked the ledger {LOCKS} times");
        Ok(())
    };
    end(work.await);
}
