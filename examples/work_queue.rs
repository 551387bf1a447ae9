//! A work queue between processes: the first puts jobs into it, three workers take them out and put
//! their results into another one. At most two work at a time, and all begin together.
//!
//! `cargo run --example work_queue` ends with `work queue: ok`.

use std::env::{args, current_exe};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::{ChildSelector, Config, Exit, Identity, Wait};

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));
const WORKERS: u32 = 3;
const JOBS: u32 = 30;
/// In place of a job: there is no more work.
const END: u32 = 0;

// The numbers of the shared values: all processes of the family know them.
const QUEUE: u64 = 1;
const RESULTS: u64 = 2;
const BEGIN: u64 = 3;
const SLOTS: u64 = 4;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn first() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("family");
    let node = HostNode::start(&base, Identity::LEADER, Config::DEFAULT)?;
    node.join(WAIT)?;
    for _ in 0..WORKERS {
        let child = node.start_child(WAIT)?;
        Command::new(current_exe()?)
            .arg(&base)
            .arg(child.to_string())
            .spawn()?;
    }
    let queue = node.open_queue::<u32>(Some(QUEUE), 8)?;
    let results = node.open_queue::<[u32; 2]>(Some(RESULTS), JOBS)?;
    node.open_barrier(Some(BEGIN), WORKERS + 1)?.wait(WAIT)?;
    // The queue has room for 8 jobs: the rest waits for the workers.
    for job in 1..=JOBS {
        queue.push(&job, WAIT)?;
    }
    for _ in 0..WORKERS {
        queue.push(&END, WAIT)?;
    }
    let mut sum = 0;
    for _ in 0..JOBS {
        let [job, square] = results.pop(WAIT)?;
        assert_eq!(square, job * job);
        sum += square;
    }
    for _ in 0..WORKERS {
        let exit = node.wait_child(ChildSelector::Any, WAIT)?;
        println!("worker {} has done {} jobs", exit.pid, exit.code);
    }
    node.leave(WAIT)?;
    println!("the sum of {JOBS} squares is {sum}");
    assert_eq!(sum, JOBS * (JOBS + 1) * (2 * JOBS + 1) / 6);
    println!("work queue: ok");
    Ok(())
}

fn worker(base: &Path, identity: Identity) -> Result<()> {
    let node = HostNode::start(base, identity, Config::DEFAULT)?;
    node.join(WAIT)?;
    let queue = node.open_queue::<u32>(Some(QUEUE), 8)?;
    let results = node.open_queue::<[u32; 2]>(Some(RESULTS), JOBS)?;
    let slots = node.open_semaphore(Some(SLOTS), 2)?;
    node.open_barrier(Some(BEGIN), WORKERS + 1)?.wait(WAIT)?;
    let mut done = 0;
    loop {
        let job = queue.pop(WAIT)?;
        if job == END {
            break;
        }
        slots.acquire(WAIT)?;
        let square = job * job;
        slots.release(WAIT)?;
        results.push(&[job, square], WAIT)?;
        done += 1;
    }
    // An orderly end returns the leases of the shared values, with the last changes.
    let exit = Exit {
        code: done,
        ..Exit::default()
    };
    node.exit(exit, WAIT)?;
    Ok(())
}

fn main() -> Result<()> {
    match &args().collect::<Vec<_>>()[1..] {
        [base, identity] => worker(base.as_ref(), identity.parse()?),
        _ => first(),
    }
}
