//! The cost of an heir while nothing fails.

use std::io::Result;
use std::time::{Duration, Instant};

use libos_ipc::host::HostNode;
use libos_ipc::{FileLock, Heirs, LockFamily, LockKind};

use crate::common::{Bar, REPETITIONS, WAIT, judged_row, median, row};
use crate::family::{ASKER, Family, await_heir};

/// How much more a request that changes something may take with an heir.
const CHANGE: Bar = Bar::AtMost(1.10);

/// The same of what needs no change at the leader: what the measurement can tell from 1.
const NO_CHANGE: Bar = Bar::AtMost(1.02);

/// A kind of measurement.
struct Kind {
    name: &'static str,
    bar: Bar,
    run: fn(&HostNode, u32) -> Duration,
    /// How many times the count of a request at the leader.
    times: u32,
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "a lock request",
        bar: CHANGE,
        run: |node, count| locks(node, "a file that is not delegated", count),
        times: 1,
    },
    Kind {
        name: "allocate or release an ID range",
        bar: CHANGE,
        run: ranges,
        times: 1,
    },
    Kind {
        name: "a look-up",
        bar: NO_CHANGE,
        run: look_ups,
        times: 1,
    },
    Kind {
        name: "a lock in a delegated file",
        bar: NO_CHANGE,
        run: |node, count| locks(node, "a file that is delegated", count),
        times: 20,
    },
    Kind {
        name: "a change of a value whose lease is kept",
        bar: NO_CHANGE,
        run: values,
        times: 50,
    },
];

/// A family, and its members in this process: one without delegations, and one that may have some.
struct Pair {
    plain: HostNode,
    delegated: HostNode,
    // The members are dropped first.
    _family: Family,
}

impl Pair {
    /// Starts a family in which heirs may lead, and one that may if `has_heir`.
    fn start(heirs: Heirs, has_heir: bool) -> Result<Pair> {
        let mut family = Family::start(16, heirs)?;
        let plain = family.member(ASKER, 0)?;
        let delegated = family.member(ASKER + 1, 8)?;
        if has_heir {
            family.add_leader(plain.leader())?;
            assert!(await_heir(&plain), "no heir");
        }
        Ok(Pair {
            plain,
            delegated,
            _family: family,
        })
    }

    fn run(&self, kind: &Kind, count: u32) -> Duration {
        let is_plain = kind.name == KINDS[0].name;
        let node = if is_plain {
            &self.plain
        } else {
            &self.delegated
        };
        (kind.run)(node, count * kind.times)
    }
}

/// Measures each kind of call in a family without heirs, in one that may have heirs but has none at present,
/// and in one with an heir.
pub(crate) fn measure(pinned: bool) -> Result<()> {
    let count = if pinned { 4_000 } else { 1_000 };
    let families = [
        Pair::start(Heirs::None, false)?,
        Pair::start(Heirs::Any, false)?,
        Pair::start(Heirs::Any, true)?,
    ];
    for kind in &KINDS {
        let mut rows = [const { Vec::new() }; 3];
        for _ in 0..=2 * REPETITIONS {
            for (row, family) in rows.iter_mut().zip(&families) {
                row.push(family.run(kind, count));
            }
        }
        let [never, none, with] = rows.map(median);
        row(&format!("{}: no heirs", kind.name), never, None);
        judged_row("  none at present", none, never, Some(kind.bar));
        judged_row("  with an heir", with, never, Some(kind.bar));
    }
    Ok(())
}

fn locks(node: &HostNode, path: &str, count: u32) -> Duration {
    let lock = |kind| FileLock {
        family: LockFamily::Posix,
        kind,
        start: 0,
        end: 9,
        pid: node.pid().expect("it has joined").get(),
        handle: 0,
        wait: false,
        path: path.as_bytes(),
    };
    let start = Instant::now();
    for _ in 0..count / 2 {
        for kind in [LockKind::Write, LockKind::Unlock] {
            node.set_lock(&lock(kind), WAIT).expect("it is free");
        }
    }
    start.elapsed() / count
}

fn ranges(node: &HostNode, count: u32) -> Duration {
    let start = Instant::now();
    for _ in 0..count / 2 {
        let range = node.alloc_range(WAIT).expect("there is one");
        node.release_range(range, WAIT).expect("it is its own");
    }
    start.elapsed() / count
}

fn look_ups(node: &HostNode, count: u32) -> Duration {
    let start = Instant::now();
    for _ in 0..count {
        node.owner_of(1, WAIT).expect("the leader answers");
    }
    start.elapsed() / count
}

fn values(node: &HostNode, count: u32) -> Duration {
    let value = node.share::<u64>(Some(1)).expect("there is room");
    // The first change gets the lease.
    *value.write(WAIT).expect("nobody else uses it") += 1;
    let start = Instant::now();
    for _ in 0..count {
        *value.write(WAIT).expect("nobody else uses it") += 1;
    }
    start.elapsed() / count
}
