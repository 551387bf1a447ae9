//! Sync handles in the world of processes: who has one sees the last change, and nobody else's.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use fastrand::Rng;
use libos_ipc::pal::Pal;
use libos_ipc::wire::SyncState;
use libos_ipc::{Error, Id, Node, SyncHandle, Wait};

use crate::processes::Ledger;

const HANDLES: usize = 2;
const EDEADLK: i32 = 35;
const WAIT: Wait<'static> = Wait::at_most(Duration::from_hours(1));
/// Who has a handle may wait for other things: so nobody waits for a handle for long.
const SHORT: Duration = Duration::from_millis(20);

/// What is known of a handle.
#[derive(Default)]
struct Value {
    /// The last that was given back.
    version: u64,
    /// The last that another than its writer has seen: it can't be lost.
    seen: u64,
    last_writer: Id,
    /// The last writer died.
    in_doubt: bool,
    readers: BTreeSet<Id>,
    writer: Option<Id>,
}

#[derive(Default)]
pub(crate) struct Values([Value; HANDLES]);

impl Values {
    fn taken(&mut self, at: usize, pid: Id, write: bool, version: u64, may_be_gone: bool) {
        let value = &mut self.0[at];
        assert!(
            value.writer.is_none() && (!write || value.readers.is_empty()),
            "{pid} was given handle {at} that others have"
        );
        if may_be_gone && version == 0 {
            (value.version, value.seen, value.in_doubt) = (0, 0, false);
        }
        if value.in_doubt {
            assert!((value.seen..=value.version).contains(&version));
            if write {
                (value.version, value.in_doubt) = (version, false);
            }
        } else {
            assert_eq!(version, value.version, "{pid} reads handle {at}");
        }
        if value.last_writer != pid {
            value.seen = version;
        }
        if write {
            value.writer = Some(pid);
        } else {
            value.readers.insert(pid);
        }
    }

    fn given(&mut self, at: usize, pid: Id, changed: bool) -> u64 {
        let value = &mut self.0[at];
        value.readers.remove(&pid);
        if value.writer == Some(pid) {
            value.writer = None;
            if changed {
                value.version += 1;
                value.last_writer = pid;
            }
        }
        value.version
    }

    pub(crate) fn died(&mut self, pid: Id) {
        for value in &mut self.0 {
            value.readers.remove(&pid);
            if value.writer == Some(pid) {
                value.writer = None;
            }
            value.in_doubt |= value.last_writer == pid && value.seen < value.version;
        }
    }
}

/// A process's handles, and which it has.
pub(crate) struct Syncs {
    handles: [SyncHandle; HANDLES],
    held: Option<(usize, SyncState)>,
}

impl Syncs {
    pub(crate) fn open<P: Pal>(node: &Node<'_, P>) -> Syncs {
        let handles = [7, 8].map(|id| node.open_sync(Some(id)).unwrap());
        if node.identity().is_leader() {
            // So that the values live on.
            for handle in handles {
                node.lock_sync(handle, SyncState::Shared, &mut [], WAIT)
                    .unwrap();
                node.unlock_sync(handle, SyncState::Shared, None).unwrap();
            }
        }
        Syncs {
            handles,
            held: None,
        }
    }

    /// Takes a handle, or goes on with the one that it has.
    pub(crate) fn act<P: Pal>(
        &mut self,
        ledger: &Mutex<Ledger>,
        node: &Node<'_, P>,
        pid: Id,
        rng: &mut Rng,
    ) {
        let limit = Wait::at_most(if rng.bool() { SHORT } else { Duration::ZERO });
        match self.held {
            None => {
                let at = rng.usize(..HANDLES);
                let state = if rng.bool() {
                    SyncState::Shared
                } else {
                    SyncState::Exclusive
                };
                let mut data = [0; 8];
                match node.lock_sync(self.handles[at], state, &mut data, limit) {
                    Ok(_) => {
                        let mut ledger = ledger.lock().unwrap();
                        let gone = ledger.finish;
                        let write = state == SyncState::Exclusive;
                        let version = u64::from_le_bytes(data);
                        ledger.values.taken(at, pid, write, version, gone);
                        self.held = Some((at, state));
                    }
                    Err(Error::TimedOut) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            Some((at, SyncState::Shared)) if rng.bool() => {
                match node.upgrade_sync(self.handles[at], limit) {
                    Ok(()) => {
                        let mut ledger = ledger.lock().unwrap();
                        let version = ledger.values.given(at, pid, false);
                        if ledger.values.0[at].in_doubt {
                            ledger.values.0[at].writer = Some(pid);
                        } else {
                            ledger.values.taken(at, pid, true, version, false);
                        }
                        self.held = Some((at, SyncState::Exclusive));
                    }
                    Err(Error::TimedOut | Error::Refused(EDEADLK)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            Some(_) => self.give(ledger, node, pid, rng.bool()),
        }
    }

    pub(crate) fn give<P: Pal>(
        &mut self,
        ledger: &Mutex<Ledger>,
        node: &Node<'_, P>,
        pid: Id,
        change: bool,
    ) {
        let Some((at, state)) = self.held.take() else {
            return;
        };
        let change = change && state == SyncState::Exclusive;
        let version = ledger.lock().unwrap().values.given(at, pid, change);
        let data = version.to_le_bytes();
        let data = change.then_some(&data[..]);
        node.unlock_sync(self.handles[at], state, data).unwrap();
    }
}
