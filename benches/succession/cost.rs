//! The cost of an heir while nothing fails.

use std::io::Result;
use std::time::{Duration, Instant};

use libos_ipc::host::HostNode;
use libos_ipc::{FileLock, Heirs, LockFamily, LockKind};

use crate::common::{Bar, REPETITIONS, WAIT, judged_row, median, row};
use crate::family::{Family, OBSERVER, await_heir};

/// The bar for the time of a request that changes the leader's tables, with an heir beside without.
const CHANGE: Bar = Bar::AtMost(1.10);

/// The bar for the time of a call that changes nothing at the leader: as near to 1 as the measurement can tell.
const NO_CHANGE: Bar = Bar::AtMost(1.02);

/// A kind of measurement.
struct Kind {
    name: &'static str,
    bar: Bar,
    /// Whether the calls are those of the member without delegations.
    is_plain: bool,
    /// Makes so many calls, and returns the time of one.
    run: fn(&HostNode, u32) -> Duration,
    /// The factor of the number of calls: one that needs no request is quicker.
    count_factor: u32,
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "a lock request",
        bar: CHANGE,
        is_plain: true,
        run: |node, count| locks(node, "a file that is not delegated", count),
        count_factor: 1,
    },
    Kind {
        name: "allocate or release an ID range",
        bar: CHANGE,
        is_plain: false,
        run: ranges,
        count_factor: 1,
    },
    Kind {
        name: "a look-up",
        bar: NO_CHANGE,
        is_plain: false,
        run: look_ups,
        count_factor: 1,
    },
    Kind {
        name: "a lock in a delegated file",
        bar: NO_CHANGE,
        is_plain: false,
        run: |node, count| locks(node, "a file that is delegated", count),
        count_factor: 20,
    },
    Kind {
        name: "a change of a value whose lease is kept",
        bar: NO_CHANGE,
        is_plain: false,
        run: values,
        count_factor: 50,
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
    /// Starts a family with this setting for heirs, and an heir if `has_heir`.
    fn start(heirs: Heirs, has_heir: bool) -> Result<Pair> {
        let mut family = Family::start(16, heirs)?;
        let plain = family.member(OBSERVER, 0)?;
        let delegated = family.member(OBSERVER + 1, 8)?;
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
        let node = if kind.is_plain {
            &self.plain
        } else {
            &self.delegated
        };
        (kind.run)(node, count * kind.count_factor)
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
