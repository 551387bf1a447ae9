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

/// Checks that the value has every change once. Returns the number of changes.
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
        let Some(place) = process.place() else {
            continue;
        };
        let changed = process
            .entries
            .iter()
            .rev()
            .find_map(|entry| match entry.event {
                Event::Changed { count, given } => Some((count, given)),
                _ => None,
            });
        let (count, given) = changed.unwrap_or_default();
        let found = last.get(place).copied().unwrap_or_default();
        let is_right = match process.end {
            // A process that dies loses the changes it had not given to others, and cannot report its last one.
            Some(End::Killed { .. }) => (given..=count + 1).contains(&found),
            _ => found == count,
        };
        if !is_right {
            let Process { number, end, .. } = process;
            faults.push(format!(
                "process {number} has changed the value {count} times, and others had {given} of them, \
                 but the value has {found} ({end:?})"
            ));
        }
    }
    (last.iter().sum(), faults)
}

/// Checks that every signal that was accepted was delivered, once. Returns their number.
fn signals(processes: &[Process], is_complete: bool) -> (u64, Vec<String>) {
    /// The signals of one process to another: those that it tried to send, those that were accepted, and those
    /// that came.
    #[derive(Debug, Default)]
    struct Sent {
        tried: u64,
        accepted: u64,
        came: u64,
    }
    // By sender, receiver, and whether they were for all.
    let mut sent: BTreeMap<(u64, u64, bool), Sent> = BTreeMap::new();
    let mut faults = Vec::new();
    let members: Vec<(u64, &Process, u64)> = processes
        .iter()
        .filter_map(|process| {
            let joined = process.entries.iter().find_map(|entry| match entry.event {
                Event::Joined { pid, .. } => Some((pid, entry.time)),
                _ => None,
            });
            joined.map(|(pid, time)| (pid, process, time))
        })
        .collect();
    for (pid, process, _) in &members {
        for entry in &process.entries {
            match entry.event {
                Event::Signals { to: 0 } => {
                    for (to, ..) in &members {
                        sent.entry((*pid, *to, true)).or_default().tried += 1;
                    }
                }
                Event::Signals { to } => sent.entry((*pid, to, false)).or_default().tried += 1,
                Event::Signalled { to: 0, begin } => {
                    for (to, _, joined) in &members {
                        if *joined < begin && to != pid {
                            sent.entry((*pid, *to, true)).or_default().accepted += 1;
                        }
                    }
                }
                Event::Signalled { to, .. } => {
                    sent.entry((*pid, to, false)).or_default().accepted += 1;
                }
                Event::GotSignal { from, to_all } => {
                    let to_all = to_all != 0;
                    sent.entry((from, *pid, to_all)).or_default().came += 1;
                }
                _ => {}
            }
        }
    }
    let mut count = 0;
    for ((from, to, to_all), sent) in &sent {
        count += sent.came;
        // A process that ends need not get what was sent to it.
        let receiver = members.iter().find(|(pid, ..)| pid == to);
        let lives = is_complete
            && receiver
                .is_some_and(|(_, process, _)| process.has(|event| *event == Event::Stopped {}));
        let least = if lives { sent.accepted } else { 0 };
        if !(least..=sent.tried).contains(&sent.came) {
            let whom = if *to_all { "all" } else { "it alone" };
            faults.push(format!(
                "signals of process {from} to {whom}, {to}: {sent:?}"
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
        let mut reaped = Vec::new();
        let parent = processes
            .iter()
            .find(|parent| Some(parent.identity.vmid) == process.identity.parent);
        for entry in processes.iter().flat_map(|other| &other.entries) {
            match entry.event {
                Event::Notified { pid: of } if of == pid => notices += 1,
                Event::Reaped {
                    pid: of,
                    code,
                    signal,
                } if of == pid => reaped.push((code, signal)),
                _ => {}
            }
        }
        count += reaped.len() as u64;
        // A pid of a dead process may be another's later, but not in so short a time.
        let right = match process.end {
            Some(End::Code(code)) => (code.into(), 0),
            Some(End::Killed { .. }) => (0, SIGPWR.into()),
            None => continue,
        };
        let is_right = |(code, signal): &(u64, u64)| match process.end {
            Some(End::Killed { .. }) => *signal == right.1,
            _ => (*code, *signal) == right,
        };
        let must = is_complete
            && parent.is_some_and(|parent| parent.has(|event| *event == Event::Stopped {}));
        let is_once = if must {
            reaped.len() == 1 && notices == 1
        } else {
            reaped.len() <= 1 && notices <= 1
        };
        if !is_once || !reaped.iter().all(is_right) {
            let Process {
                number, end, kind, ..
            } = process;
            faults.push(format!(
                "process {number} with the pid {pid} ({kind:?}) ended with {end:?}; its parent had {notices} notices, and \
                 reaped it {} times: {reaped:?}",
                reaped.len()
            ));
        }
    }
    if is_complete {
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
            if process.place().is_some()
                && !process.has(|event| matches!(event, Event::Joined { .. }))
            {
                faults.push(format!("process {number} never joined"));
            }
        }
    }
    (count, faults)
}
