//! The leader's table of ID ranges, compared with the standard library's `BTreeMap` for the same
//! work.
//!
//! `cargo bench --bench ids`. The two run alternately; figures are medians, so the ratios hold on a
//! noisy machine.

#[path = "common/bar.rs"]
mod bar;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use libos_ipc::leader::{Alloc, Ranges};
use libos_ipc::store::Arena;
use libos_ipc::wire::IdRange;
use libos_ipc::{Id, Vmid};

use bar::{Bar, verdict};

/// The number of measurements of which the median counts.
const REPETITIONS: usize = 15;
/// The number of IDs in a range.
const LENGTH: u32 = 32;

fn main() -> ExitCode {
    println!("medians of {REPETITIONS}; ns for one operation, and ours beside BTreeMap's");
    println!(
        "{:>8} {:<39} {:>9} {:>9} {:>6}",
        "ranges", "operation", "BTreeMap", "ours", "ratio"
    );
    for count in [10, 10_000, 100_000] {
        let capacity = usize::try_from(count).expect("small") + 2;
        let mut memory = Box::new_uninit_slice(Ranges::bytes(capacity));
        let mut sides = Sides::filled(&mut memory, capacity, count);
        sides.compare(count);
        let bytes = Ranges::bytes(100_000).div_ceil(100_000);
        if count == 100_000 {
            let figure = f64::from(u32::try_from(bytes).expect("few"));
            println!(
                "{bytes} bytes a range  {}",
                verdict(figure, Bar::AtMost(64.0))
            );
        }
    }
    bar::finish()
}

/// The same ranges on both sides. A few owners share them.
struct Sides<'m> {
    ours: Ranges<'m>,
    theirs: BTreeMap<Id, (Id, u32)>,
}

impl<'m> Sides<'m> {
    /// Fills both sides with `count` ranges.
    fn filled(memory: &'m mut [MaybeUninit<u8>], capacity: usize, count: u32) -> Sides<'m> {
        let mut ours = Ranges::new(&mut Arena::new(memory), capacity, true).expect("enough");
        let mut theirs = BTreeMap::new();
        for number in 0..count {
            let Alloc::Range(range) = ours.alloc(owner(number)) else {
                panic!("room for {count}")
            };
            theirs.insert(range.start, (range.end, owner(number).get()));
        }
        Sides { ours, theirs }
    }

    // A method in place of a closure would be of one lifetime.
    #[allow(clippy::redundant_closure_for_method_calls)]
    /// Compares all kinds of work. The tables have `count` ranges.
    fn compare(&mut self, count: u32) {
        let held = random_ids(count * LENGTH);
        let last = IdRange {
            start: count * LENGTH + 1,
            end: count * LENGTH + LENGTH,
        };
        self.row(count, "look-up, random", Some(Bar::AtMost(1.5)), |side| {
            side.look_up(&held)
        });
        self.row(count, "alloc + release", None, |side| {
            side.alloc_and_release(last)
        });
        self.row(
            count,
            "alloc, change owner, release both parts",
            None,
            |side| side.change_and_release(),
        );
        // Every other range is split into three.
        let split_at: Vec<Id> = (0..count)
            .step_by(2)
            .map(|number| number * LENGTH + 17)
            .collect();
        let capacity = usize::try_from(count).expect("small") * 2 + 2;
        let mut memory = Box::new_uninit_slice(Ranges::bytes(capacity));
        let mut sides = Sides::filled(&mut memory, capacity, count);
        for id in split_at {
            let from = sides.ours.owner_of(id).expect("owned");
            sides.ours.change_owner(from, id, owner(id)).expect("room");
            let (end, from) = sides
                .theirs
                .insert(id - 16, (id - 1, from.get()))
                .expect("owned");
            sides.theirs.insert(id, (id, owner(id).get()));
            sides.theirs.insert(id + 1, (end, from));
        }
        sides.row(
            count,
            "look-up, every other range in 3 parts",
            None,
            |side| side.look_up(&held),
        );
        for number in (0..count).step_by(4) {
            let start = number * LENGTH + 1;
            for (start, end) in [
                (start, start + 15),
                (start + 16, start + 16),
                (start + 17, start + 31),
            ] {
                let owner = sides.ours.owner_of(start).expect("owned");
                sides
                    .ours
                    .release(owner, IdRange { start, end })
                    .expect("as it is");
                sides.theirs.remove(&start).expect("as it is");
            }
        }
        sides.row(
            count,
            "look-up, every fourth range released",
            None,
            |side| side.look_up(&held),
        );
    }

    /// Measures the work on both sides in turn, and prints a row.
    fn row(
        &mut self,
        count: u32,
        what: &str,
        bar: Option<Bar>,
        work: impl Fn(&mut Side<'_, '_>) -> u32,
    ) {
        let mut times = [const { Vec::new() }; 2];
        for _ in 0..REPETITIONS {
            times[0].push(time(&mut Side::Theirs(&mut self.theirs), &work));
            times[1].push(time(&mut Side::Ours(&mut self.ours), &work));
        }
        let [theirs, ours] = times.map(|mut times| {
            times.sort_unstable();
            times[times.len() / 2].as_secs_f64() * 1e9
        });
        let ratio = ours / theirs;
        let verdict = bar.map(|bar| verdict(ratio, bar)).unwrap_or_default();
        let line =
            format!("{count:>8} {what:<39} {theirs:>9.1} {ours:>9.1} {ratio:>6.2}  {verdict}");
        println!("{}", line.trim_end());
    }
}

/// Returns the time of one operation of the work, which returns the number of operations.
fn time(side: &mut Side<'_, '_>, work: &impl Fn(&mut Side<'_, '_>) -> u32) -> Duration {
    let start = Instant::now();
    let count = work(side);
    start.elapsed() / count
}

/// One of the two tables that are compared.
enum Side<'a, 'm> {
    Ours(&'a mut Ranges<'m>),
    Theirs(&'a mut BTreeMap<Id, (Id, u32)>),
}

impl Side<'_, '_> {
    /// Looks up the owners of the IDs. Returns how many these are.
    fn look_up(&mut self, ids: &[Id]) -> u32 {
        match self {
            Side::Ours(ranges) => {
                for id in ids {
                    black_box(ranges.owner_of(*id));
                }
            }
            Side::Theirs(map) => {
                for id in ids {
                    let found = map.range(..=*id).next_back();
                    black_box(
                        found
                            .filter(|(_, (end, _))| id <= end)
                            .map(|(_, (_, owner))| *owner),
                    );
                }
            }
        }
        u32::try_from(ids.len()).expect("not that many")
    }

    /// Allocates and releases ranges again and again, and returns how often. The free IDs are above the held ranges
    /// on both sides.
    fn alloc_and_release(&mut self, free: IdRange) -> u32 {
        const TIMES: u32 = 10_000;
        for _ in 0..TIMES {
            match self {
                Side::Ours(ranges) => {
                    let range = alloc(ranges);
                    ranges.release(owner(1), range).expect("just allocated");
                }
                Side::Theirs(map) => {
                    let next = map.last_key_value().map_or(1, |(_, (end, _))| end + 1);
                    map.insert(next, (free.end, 1));
                    black_box(map.remove(&next));
                }
            }
        }
        TIMES
    }

    /// Allocates a range, changes the owner of its first ID, and releases both parts, again and again. Returns how often.
    fn change_and_release(&mut self) -> u32 {
        const TIMES: u32 = 10_000;
        for _ in 0..TIMES {
            match self {
                // A range of one ID, so that no range is split and the work can be repeated without
                // end.
                Side::Ours(ranges) => {
                    let range = alloc(ranges);
                    ranges
                        .change_owner(owner(1), range.start, owner(2))
                        .expect("room for two");
                    let rest = IdRange {
                        start: range.start + 1,
                        ..range
                    };
                    ranges.release(owner(1), rest).expect("the rest");
                    let one = IdRange {
                        end: range.start,
                        ..range
                    };
                    ranges.release(owner(2), one).expect("the one");
                }
                Side::Theirs(map) => {
                    let next = map.last_key_value().map_or(1, |(_, (end, _))| end + 1);
                    map.insert(next, (next + 31, 1));
                    let (end, from) = map.insert(next, (next, 2)).expect("inserted");
                    map.insert(next + 1, (end, from));
                    black_box(map.remove(&(next + 1)));
                    black_box(map.remove(&next));
                }
            }
        }
        TIMES
    }
}

/// Allocates a range above all held ranges; the search wraps round now and then.
fn alloc(ranges: &mut Ranges<'_>) -> IdRange {
    match ranges.alloc(owner(1)) {
        Alloc::Range(range) => range,
        full => panic!("{full:?}"),
    }
}

/// Returns one of 64 owners.
fn owner(number: u32) -> Vmid {
    Vmid::new(number % 64 + 2).expect("not 0")
}

/// Returns a hundred thousand random IDs from 1 to `highest`.
fn random_ids(highest: Id) -> Vec<Id> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..100_000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u32::try_from(state % u64::from(highest)).expect("below") + 1
        })
        .collect()
}
