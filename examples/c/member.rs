//! A member in Rust of a family with a leader in C. It does the same as `follower.c`.

use std::env::args;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use libos_ipc::host::{Host, HostNode};
use libos_ipc::{
    Config, Embedder, Errno, Exit, FileLock, Identity, LockFamily, LockKind, MetaCode, Metadata,
    MetadataReply, Node, Pid, Signal, SignalReply, SyncState, Target, Wait,
};

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(60));
/// As in `family.h`.
const COUNTER: u64 = 0x5eed;
const ROUNDS: u32 = 500;
const LOCKED_FILE: &[u8] = b"/data/accounts";

/// The library OS of this process.
struct Os(Sender<i32>);

impl Embedder<Host> for Os {
    fn signal(&self, node: &Node<'_, Host>, signal: &Signal, reply: SignalReply) {
        let is_for_us = match signal.target {
            Target::Process(pid) => node.pid() == Some(pid),
            Target::All => true,
            _ => false,
        };
        if is_for_us && signal.signal != 0 {
            let _ = self.0.send(signal.signal);
        }
        let _ = reply.send(node, if is_for_us { Ok(()) } else { Err(Errno::ESRCH) });
    }

    fn metadata(&self, node: &Node<'_, Host>, _: Pid, what: MetaCode, reply: MetadataReply) {
        let metadata = match what {
            MetaCode::Executable => Ok(Metadata::Path(c"a member in Rust")),
            _ => Err(Errno::ENOENT),
        };
        let _ = reply.send(node, metadata);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = args().skip(1).collect();
    let [base, numbers @ ..] = &arguments[..] else {
        return Err("started by `leader`: BASE VMID PARENT LEADER PID PARENT-PID".into());
    };
    let numbers: Vec<u32> = numbers
        .iter()
        .map(|number| number.parse())
        .collect::<Result<_, _>>()?;
    let identity = numbers.try_into().ok().and_then(Identity::from_numbers);
    let identity = identity.ok_or("these numbers are no identity")?;
    let (sender, signals) = channel();
    let os = Box::new(Os(sender));
    let node = HostNode::start_with(Path::new(base), identity, Config::DEFAULT, os)?;
    let pid = node.join(WAIT)?.get();

    let counter = node.open_sync(Some(COUNTER))?;
    let mut bytes = [0; 8];
    for _ in 0..ROUNDS {
        node.lock_sync(counter, SyncState::Exclusive, &mut bytes, WAIT)?;
        let count = u64::from_ne_bytes(bytes) + 1;
        bytes = count.to_ne_bytes();
        node.unlock_sync(counter, SyncState::Exclusive, Some(&bytes))?;
    }
    let mut lock = FileLock {
        family: LockFamily::Posix,
        kind: LockKind::Write,
        start: 0,
        end: 0,
        pid,
        handle: 0,
        wait: true,
        path: LOCKED_FILE,
    };
    node.set_lock(&lock, WAIT)?;
    lock.kind = LockKind::Unlock;
    node.set_lock(&lock, WAIT)?;
    println!("process {pid}: has counted, in Rust, and waits for a signal");
    signals.recv_timeout(Duration::from_secs(60))?;
    node.close_sync(counter, WAIT)?;
    let exit = Exit {
        code: pid % 100,
        ..Exit::default()
    };
    node.exit(exit, WAIT)?;
    node.shut_down(Duration::from_secs(1));
    Ok(())
}
