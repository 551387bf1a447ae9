//! Finds out from the reports of all processes whether a change, a signal or an exit was lost, or two processes had a
//! resource at the same time.

use std::collections::BTreeMap;

use crate::common::{HumanCount, SIGPWR};
use crate::intervals::{Intervals, Resource};
use crate::processes::{End, Process};
use crate::record::Event;

/// Checks all that the processes have reported, prints how much that was, and returns the faults. A run that
/// was not completed is only checked for what must never happen.
pub(crate) fn check(processes: &[Process], is_complete: bool) -> Vec<String> {
    let mut faults = exclusive_use(processes);
    let (changes, value_faults) = value(processes, is_complete);
    faults.extend(value_faults);
    let (signals, signal_faults) = signals(processes, is_complete);
    faults.extend(signal_faults);
    let (ends, end_faults) = ends(processes, is_complete);
    faults.extend(end_faults);
    println!(
        "{} changes of the value, {} signals, {} ends of children",
        HumanCount(changes),
        HumanCount(signals),
        HumanCount(ends)
    );
    faults
}

fn number(count: usize) -> HumanCount {
    HumanCount(count as u64)
}

/// Checks that no two processes had a resource at the same time.
fn exclusive_use(processes: &[Process]) -> Vec<String> {
    let mut intervals = Intervals::default();
    for process in processes {
        let number = process.number;
        for entry in &process.entries {
            let time = entry.time;
            match entry.event {
                Event::Joined { pid, .. } => intervals.begin(Resource::Id(pid), number, time),
                Event::Took { id } => intervals.begin(Resource::Id(id), number, time),
                Event::ReleasesId { id } => intervals.end(Resource::Id(id), number, time),
                Event::Locked { file } => intervals.begin(Resource::File(file), number, time),
                Event::Unlocks { file } => intervals.end(Resource::File(file), number, time),
                Event::Acquired {} => intervals.begin(Resource::Value, number, time),
                Event::ReleasesValue {} => intervals.end(Resource::Value, number, time),
                Event::Ends { .. } => intervals.end_all(number, time),
                _ => {}
            }
        }
        let last = process.entries.last().map_or(0, |entry| entry.time);
        let end = match process.end {
            Some(End::Killed { at }) => at,
            _ => last,
        };
        intervals.end_all(number, end);
    }
    let [ids, locks, _] = intervals.counts();
    print!("{} IDs, {} locks, ", number(ids), number(locks));
    intervals.faults()
}

/// Checks that the shared value has every change once. Returns the number of changes.
fn value(processes: &[Process], is_complete: bool) -> (u64, Vec<String>) {
    let mut faults = Vec::new();
    let values: Vec<&Vec<u64>> = processes
        .iter()
        .flat_map(|process| &process.entries)
        .filter_map(|entry| match &entry.event {
            Event::Value(changes) => Some(changes),
            _ => None,
        })
        .collect();
    let Some(last) = values.last().filter(|_| is_complete) else {
        return (0, faults);
    };
    if values.iter().any(|value| value != last) {
        faults.push("the processes have read different values at the end".to_owned());
    }
    for process in processes {
        let Some(slot) = process.slot() else {
            continue;
        };
        let changed = process
            .entries
            .iter()
            .rev()
            .find_map(|entry| match entry.event {
                Event::Changed { count, seen } => Some((count, seen)),
                _ => None,
            });
        let (count, seen) = changed.unwrap_or_default();
        let found = last.get(slot).copied().unwrap_or_default();
        let is_right = match process.end {
            // A process that dies loses the changes that no other process has had, and cannot report its last one.
            Some(End::Killed { .. }) => (seen..=count + 1).contains(&found),
            _ => found == count,
        };
        if !is_right {
            let Process { number, end, .. } = process;
            faults.push(format!(
                "process {number} has changed the value {count} times, and others had {seen} of them, \
                 but the value has {found} ({end:?})"
            ));
        }
    }
    (last.iter().sum(), faults)
}

/// The signals of one process to another.
#[derive(Debug, Default)]
struct Signals {
    /// The signals that the sender tried to send.
    tried: u64,
    /// The signals that were accepted.
    accepted: u64,
    /// The signals that were delivered.
    delivered: u64,
}

/// The sender and the receiver of signals by their pids, and whether the signals were for all.
type Route = (u64, u64, bool);

/// A process that has joined the family.
struct Joined<'a> {
    pid: u64,
    process: &'a Process,
    /// In nanoseconds, as `now` returns it.
    time: u64,
}

impl Joined<'_> {
    fn of(process: &Process) -> Option<Joined<'_>> {
        process.entries.iter().find_map(|entry| match entry.event {
            Event::Joined { pid, .. } => Some(Joined {
                pid,
                process,
                time: entry.time,
            }),
            _ => None,
        })
    }
}

/// Counts the signals that processes have sent and got.
fn count_signals(members: &[Joined<'_>]) -> BTreeMap<Route, Signals> {
    let mut signals: BTreeMap<Route, Signals> = BTreeMap::new();
    for Joined { pid, process, .. } in members {
        for entry in &process.entries {
            match entry.event {
                Event::Signals { to: 0 } => {
                    for receiver in members {
                        let route = (*pid, receiver.pid, true);
                        signals.entry(route).or_default().tried += 1;
                    }
                }
                Event::Signals { to } => signals.entry((*pid, to, false)).or_default().tried += 1,
                Event::Signalled { to: 0, begin } => {
                    for receiver in members {
                        if receiver.time < begin && receiver.pid != *pid {
                            let route = (*pid, receiver.pid, true);
                            signals.entry(route).or_default().accepted += 1;
                        }
                    }
                }
                Event::Signalled { to, .. } => {
                    signals.entry((*pid, to, false)).or_default().accepted += 1;
                }
                Event::GotSignal { from, to_all } => {
                    let route = (from, *pid, to_all != 0);
                    signals.entry(route).or_default().delivered += 1;
                }
                _ => {}
            }
        }
    }
    signals
}

/// Checks that every signal that was accepted was delivered, once. Returns their number.
fn signals(processes: &[Process], is_complete: bool) -> (u64, Vec<String>) {
    let members: Vec<_> = processes.iter().filter_map(Joined::of).collect();
    let mut faults = Vec::new();
    let mut count = 0;
    for ((from, to, to_all), signals) in count_signals(&members) {
        count += signals.delivered;
        // A process that ends need not get the signals to it.
        let receiver = members.iter().find(|member| member.pid == to);
        let must_get_all = is_complete
            && receiver.is_some_and(|receiver| {
                let process = receiver.process;
                process.has_reported(|event| *event == Event::Stopped {})
            });
        let least = if must_get_all { signals.accepted } else { 0 };
        if !(least..=signals.tried).contains(&signals.delivered) {
            let target = if to_all { "all" } else { "it alone" };
            faults.push(format!(
                "signals of process {from} to {target}, {to}: {signals:?}"
            ));
        }
    }
    (count, faults)
}

/// Checks that every end was reported to the parent once, and reaped once, as it was. Returns their number.
fn ends(processes: &[Process], is_complete: bool) -> (u64, Vec<String>) {
    let mut faults = Vec::new();
    let mut count = 0;
    for process in processes {
        let Some(pid) = process.pid() else { continue };
        let mut notices = 0;
        // The exit code and the signal that each reaper got.
        let mut reaped = Vec::new();
        for entry in processes.iter().flat_map(|other| &other.entries) {
            match entry.event {
                Event::Notified { pid: child } if child == pid => notices += 1,
                Event::Reaped {
                    pid: child,
                    code,
                    signal,
                } if child == pid => reaped.push((code, signal)),
                _ => {}
            }
        }
        count += reaped.len() as u64;
        // A pid of a dead process may be another's later, but not in so short a time.
        let Some(end) = process.end else { continue };
        let is_right = |(code, signal): &(u64, u64)| match end {
            End::Code(expected) => (*code, *signal) == (expected.into(), 0),
            End::Killed { .. } => *signal == u64::from(SIGPWR),
        };
        let parent = processes
            .iter()
            .find(|parent| Some(parent.identity.vmid) == process.identity.parent);
        let must_be_reaped = is_complete
            && parent
                .is_some_and(|parent| parent.has_reported(|event| *event == Event::Stopped {}));
        let is_once = if must_be_reaped {
            reaped.len() == 1 && notices == 1
        } else {
            reaped.len() <= 1 && notices <= 1
        };
        if !is_once || !reaped.iter().all(is_right) {
            let Process { number, kind, .. } = process;
            faults.push(format!(
                "process {number} with the pid {pid} ({kind:?}) ended with {end:?}; its parent had {notices} notices, and \
                 reaped it {} times: {reaped:?}",
                reaped.len()
            ));
        }
    }
    if is_complete {
        faults.extend(host_statuses(processes));
    }
    (count, faults)
}

/// Checks that every process has joined, and that the host reports its end as expected.
fn host_statuses(processes: &[Process]) -> Vec<String> {
    let mut faults = Vec::new();
    for process in processes {
        let Process {
            number,
            end,
            status,
            kind,
            ..
        } = process;
        let is_right = match (end, status) {
            (Some(End::Code(code)), Some(status)) => status.code() == Some((*code).into()),
            (Some(End::Killed { .. }), Some(status)) => status.code().is_none(),
            _ => false,
        };
        if !is_right {
            faults.push(format!(
                "process {number} ({kind:?}) should end with {end:?}, and ended with {status:?}"
            ));
        }
        let has_joined = process.has_reported(|event| matches!(event, Event::Joined { .. }));
        if process.slot().is_some() && !has_joined {
            faults.push(format!("process {number} never joined"));
        }
    }
    faults
}
