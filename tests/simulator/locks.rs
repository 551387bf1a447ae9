//! File locks in the world of processes: what two have for certain is never in each other's way.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use fastrand::Rng;
use libos_ipc::pal::Pal;
use libos_ipc::wire::{FileLock, LockFamily, LockKind};
use libos_ipc::{Error, Id, Node, Wait};

use crate::processes::Ledger;

const BYTES: usize = 6;
const FILES: [&[u8]; 2] = [b"/a", b"/b"];
const EAGAIN: i32 = 11;
const EDEADLK: i32 = 35;
const WAIT: Wait<'static> = Wait::at_most(Duration::from_hours(1));
const NOW: Wait<'static> = Wait::at_most(Duration::ZERO);

/// By file and process: which bytes it has, and whether to write.
#[derive(Default)]
pub(crate) struct Locked(BTreeMap<(usize, Id), [Option<bool>; BYTES]>);

impl Locked {
    /// From when the lock was given.
    fn note(&mut self, file: usize, pid: Id, bytes: std::ops::Range<usize>, write: bool) {
        for ((_, other), theirs) in self.0.range((file, 0)..(file + 1, 0)) {
            let is_in_the_way = theirs[bytes.clone()]
                .iter()
                .flatten()
                .any(|theirs| *theirs || write);
            assert!(
                *other == pid || !is_in_the_way,
                "{pid} was given {bytes:?} of {file}, which {other} has"
            );
        }
        let own = self.0.entry((file, pid)).or_default();
        own[bytes].fill(Some(write));
    }

    /// From before it is given back.
    fn clear(&mut self, file: usize, pid: Id, bytes: std::ops::Range<usize>) {
        self.0.entry((file, pid)).or_default()[bytes].fill(None);
    }

    pub(crate) fn forget(&mut self, pid: Id) {
        self.0.retain(|(_, of), _| *of != pid);
    }
}

/// Does something with a lock.
pub(crate) fn act<P: Pal>(ledger: &Mutex<Ledger>, node: &Node<'_, P>, pid: Id, rng: &mut Rng) {
    let file = rng.usize(..FILES.len());
    let start = rng.usize(..BYTES);
    let bytes = start..rng.usize(start..BYTES) + 1;
    let kind = LockKind::ALL[rng.usize(..3)];
    let write = kind == LockKind::Write;
    // Some wait, some don't, and some give up just when they have asked.
    let (wait, limit) = match rng.u8(..3) {
        0 => (false, WAIT),
        1 => (true, WAIT),
        _ => (true, NOW),
    };
    let lock = FileLock {
        family: LockFamily::Posix,
        kind,
        start: bytes.start as u64,
        end: bytes.end as u64 - 1,
        pid,
        handle: 0,
        wait: wait && kind != LockKind::Unlock,
        path: FILES[file],
    };
    let limit = if kind == LockKind::Unlock {
        WAIT
    } else {
        limit
    };
    if kind != LockKind::Write {
        // It may have had more of it before.
        ledger
            .lock()
            .unwrap()
            .locked
            .clear(file, pid, bytes.clone());
    }
    match node.set_lock(&lock, limit) {
        Ok(()) if kind == LockKind::Unlock => {}
        Ok(()) => ledger.lock().unwrap().locked.note(file, pid, bytes, write),
        Err(Error::Refused(EDEADLK)) => let_go(ledger, node, pid),
        Err(Error::Refused(EAGAIN)) => assert!(!wait),
        Err(Error::TimedOut) => {}
        Err(error) => panic!("{lock:?}: {error}"),
    }
}

/// Lets go of all.
pub(crate) fn let_go<P: Pal>(ledger: &Mutex<Ledger>, node: &Node<'_, P>, pid: Id) {
    ledger.lock().unwrap().locked.forget(pid);
    node.clear_locks(pid, WAIT).unwrap();
}
