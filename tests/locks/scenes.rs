//! Short scenes of locking that run on the table and on the host's kernel: each step has the same
//! outcome on both.

use libos_ipc::file_locks::LockTable;
use libos_ipc::store::Arena;

use crate::kernel::{Operation, Order};
use crate::program::{Kernel, LIMITS};
use crate::table::Table;

const READ: u8 = 0;
const WRITE: u8 = 1;
const UNLOCK: u8 = 2;

const EAGAIN: i32 = 11;
const NO_PROCESS: [usize; 0] = [];

/// Record locks of processes, locks of open files, locks on whole files.
const FAMILIES: [Operation; 3] = [Operation::Posix, Operation::Ofd, Operation::Flock];

/// The table and the kernel.
struct TableAndKernel<'m> {
    table: Table<'m>,
    kernel: Kernel,
}

/// Runs a scene on the table and on the kernel.
fn on_both(scene: impl FnOnce(&mut TableAndKernel<'_>)) {
    let mut memory = Box::new_uninit_slice(LockTable::bytes(&LIMITS));
    let locks = LockTable::new(&mut Arena::new(&mut memory), &LIMITS).unwrap();
    scene(&mut TableAndKernel {
        table: Table::new(locks),
        kernel: Kernel::new(),
    });
}

impl TableAndKernel<'_> {
    /// Makes a request of a process through its open file of that number. Returns the error number, 0 for success, or
    /// `None` if it waits.
    fn request(&mut self, process: usize, handle: u8, lock: Order) -> Option<i32> {
        let order = Order { handle, ..lock };
        let ours = self.table.execute(process, &order);
        self.kernel.processes[process].order(order);
        let theirs = self.kernel.processes[process].outcome();
        if theirs.is_none() {
            self.kernel.waiting.insert(process);
        }
        assert_eq!(ours, theirs, "{process}: {order:?}");
        ours.map(|outcome| outcome.errno)
    }

    /// Makes a request of the process, which gets the lock at once, though the request may wait.
    fn lock_at_once(&mut self, process: usize, handle: u8, lock: Order) {
        assert_eq!(
            self.request(process, handle, lock),
            Some(0),
            "{process}: {lock:?}"
        );
    }

    /// Makes a request of the process, which waits.
    fn wait_for(&mut self, process: usize, handle: u8, lock: Order) {
        assert_eq!(
            self.request(process, handle, lock),
            None,
            "{process}: {lock:?}"
        );
    }

    /// Returns the processes whose wait has ended since, all of them with their locks.
    fn served(&mut self) -> Vec<usize> {
        let ours = self.table.served();
        assert_eq!(ours, self.kernel.served());
        assert!(ours.values().all(|errno| *errno == 0), "{ours:?}");
        ours.into_keys().collect()
    }
}

/// Returns a request for the first ten bytes, which waits if it has to.
fn lock(what: Operation, kind: u8) -> Order {
    Order {
        what,
        file: 0,
        handle: 0,
        kind,
        wait: kind != UNLOCK,
        start: 0,
        length: 10,
    }
}

#[test]
fn read_lock_does_not_wait_for_a_waiting_write_lock() {
    for what in FAMILIES {
        on_both(|both| {
            both.lock_at_once(0, 0, lock(what, READ));
            both.wait_for(1, 0, lock(what, WRITE));
            for _ in 0..200 {
                both.lock_at_once(2, 0, lock(what, READ));
                both.lock_at_once(2, 0, lock(what, UNLOCK));
            }
            // The holder's second open file, or for processes another process.
            let second = if what == Operation::Posix {
                (3, 0)
            } else {
                (0, 1)
            };
            both.lock_at_once(second.0, second.1, lock(what, READ));
            both.lock_at_once(0, 0, lock(what, UNLOCK));
            assert_eq!(both.served(), NO_PROCESS);
            both.lock_at_once(second.0, second.1, lock(what, UNLOCK));
            assert_eq!(both.served(), [1]);
        });
    }
}

#[test]
fn downgrade_grants_read_locks_queued_behind_a_write_lock() {
    for what in FAMILIES {
        on_both(|both| {
            both.lock_at_once(0, 0, lock(what, WRITE));
            both.wait_for(1, 0, lock(what, WRITE));
            both.wait_for(2, 0, lock(what, READ));
            both.wait_for(3, 0, lock(what, READ));
            both.lock_at_once(0, 0, lock(what, READ));
            assert_eq!(both.served(), [2, 3]);
            for process in [0, 2, 3] {
                both.lock_at_once(process, 0, lock(what, UNLOCK));
            }
            assert_eq!(both.served(), [1]);
        });
    }
}

#[test]
fn death_or_close_grants_read_locks_queued_behind_a_write_lock() {
    for what in FAMILIES {
        for dies in [true, false] {
            on_both(|both| {
                both.lock_at_once(0, 0, lock(what, WRITE));
                both.wait_for(2, 0, lock(what, READ));
                both.wait_for(3, 0, lock(what, READ));
                if dies {
                    both.table.die(0);
                    both.kernel.die(0);
                } else {
                    both.lock_at_once(0, 0, lock(Operation::Close, READ));
                }
                assert_eq!(both.served(), [2, 3]);
            });
        }
    }
}

#[test]
fn partial_unlock_grants_exactly_the_waiters_for_the_freed_bytes() {
    for what in [Operation::Posix, Operation::Ofd] {
        on_both(|both| {
            let bytes = |kind, start, length| Order {
                start,
                length,
                ..lock(what, kind)
            };
            both.lock_at_once(0, 0, bytes(WRITE, 0, 0));
            both.wait_for(1, 0, bytes(WRITE, 2, 2));
            both.wait_for(2, 0, bytes(WRITE, 8, 4));
            both.wait_for(3, 0, bytes(READ, 20, 0));
            both.lock_at_once(0, 0, bytes(UNLOCK, 4, 8));
            assert_eq!(both.served(), [2]);
            both.lock_at_once(0, 0, bytes(READ, 12, 0));
            assert_eq!(both.served(), [3]);
            both.lock_at_once(0, 0, bytes(UNLOCK, 3, 1));
            assert_eq!(both.served(), NO_PROCESS);
            both.lock_at_once(0, 0, bytes(UNLOCK, 0, 3));
            assert_eq!(both.served(), [1]);
        });
    }
}

#[test]
fn conflicting_flock_conversion_drops_the_old_lock_first() {
    on_both(|both| {
        let at_once = |kind| Order {
            wait: false,
            ..lock(Operation::Flock, kind)
        };
        both.lock_at_once(0, 0, lock(Operation::Flock, READ));
        both.lock_at_once(1, 0, lock(Operation::Flock, READ));
        both.wait_for(2, 0, lock(Operation::Flock, WRITE));
        assert_eq!(both.request(0, 0, at_once(WRITE)), Some(EAGAIN));
        // The process has lost its read lock: the last holder of a read lock may convert it, past
        // the waiter.
        both.lock_at_once(1, 0, lock(Operation::Flock, WRITE));
        assert_eq!(both.served(), NO_PROCESS);
        assert_eq!(both.request(0, 0, at_once(READ)), Some(EAGAIN));
        both.lock_at_once(1, 0, lock(Operation::Flock, UNLOCK));
        assert_eq!(both.served(), [2]);
    });
    // A process that waits for the conversion has released the old lock, too.
    on_both(|both| {
        both.lock_at_once(0, 0, lock(Operation::Flock, READ));
        both.lock_at_once(1, 0, lock(Operation::Flock, READ));
        both.wait_for(0, 0, lock(Operation::Flock, WRITE));
        both.lock_at_once(1, 0, lock(Operation::Flock, WRITE));
        both.lock_at_once(1, 0, lock(Operation::Flock, UNLOCK));
        assert_eq!(both.served(), [0]);
    });
}

#[test]
fn getlk_names_the_lowest_lock_of_an_owner_and_ofd_getlk_the_own_lock() {
    on_both(|both| {
        let bytes = |what, kind, start, length| Order {
            start,
            length,
            wait: false,
            ..lock(what, kind)
        };
        for start in [8, 0, 16, 12] {
            both.lock_at_once(0, 0, bytes(Operation::Posix, WRITE, start, 2));
        }
        both.lock_at_once(0, 0, bytes(Operation::Posix, READ, 4, 2));
        // The pid is not compared: it differs, and only one process can be meant.
        let mut ask = |what, kind, start, length| {
            let order = bytes(what, kind, start, length);
            let ours = both.table.execute(1, &order).unwrap();
            both.kernel.processes[1].order(order);
            let theirs = both.kernel.processes[1].outcome().unwrap();
            let range = |found: crate::kernel::Found| (found.kind, found.start, found.length);
            assert_eq!(ours.lock.map(range), theirs.lock.map(range), "{order:?}");
            assert_eq!(ours.errno, theirs.errno, "{order:?}");
            ours.lock.map(range)
        };
        assert_eq!(ask(Operation::PosixGet, WRITE, 0, 20), Some((WRITE, 0, 2)));
        assert_eq!(ask(Operation::OfdGet, WRITE, 2, 0), Some((READ, 4, 2)));
        assert_eq!(ask(Operation::PosixGet, READ, 2, 0), Some((WRITE, 8, 2)));
        assert_eq!(ask(Operation::PosixGet, UNLOCK, 0, 0), None);
        assert_eq!(ask(Operation::OfdGet, UNLOCK, 0, 0), None);
        both.lock_at_once(1, 0, bytes(Operation::Ofd, WRITE, 20, 2));
        both.lock_at_once(1, 0, bytes(Operation::Ofd, READ, 18, 2));
        let mut own = |start, length| {
            let order = bytes(Operation::OfdGet, UNLOCK, start, length);
            assert_eq!(both.request(1, 0, order), Some(0));
            both.table
                .execute(1, &order)
                .unwrap()
                .lock
                .map(|found| found.start)
        };
        assert_eq!(own(0, 0), Some(18));
        assert_eq!(own(20, 0), Some(20));
        assert_eq!(own(22, 1), None);
    });
}
