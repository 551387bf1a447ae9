//! The times at which processes had a resource that only one may have.

use std::collections::BTreeMap;

/// Something that one process has at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    Id(u64),
    File(u64),
    Value,
}

/// The time in which a process had a resource for certain, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Interval {
    begin: u64,
    end: u64,
    /// The number of the process.
    process: usize,
}

/// The intervals of all resources.
#[derive(Default)]
pub(crate) struct Intervals {
    closed: BTreeMap<Resource, Vec<Interval>>,
    /// The beginning of each interval that has not ended, by resource and process.
    open: BTreeMap<(Resource, usize), u64>,
    faults: Vec<String>,
}

impl Intervals {
    pub(crate) fn begin(&mut self, resource: Resource, process: usize, time: u64) {
        if self.open.insert((resource, process), time).is_some() {
            self.faults
                .push(format!("process {process} got {resource:?} twice"));
        }
    }

    pub(crate) fn end(&mut self, resource: Resource, process: usize, time: u64) {
        match self.open.remove(&(resource, process)) {
            Some(begin) => self.push(resource, begin, time, process),
            None => self.faults.push(format!(
                "process {process} gave {resource:?} back, which it did not have"
            )),
        }
    }

    fn push(&mut self, resource: Resource, begin: u64, end: u64, process: usize) {
        // A process that was killed may have got something afterwards, before it was dead.
        let end = end.max(begin);
        self.closed.entry(resource).or_default().push(Interval {
            begin,
            end,
            process,
        });
    }

    /// Ends the open intervals of the process.
    pub(crate) fn end_all(&mut self, process: usize, time: u64) {
        let open: Vec<_> = self
            .open
            .keys()
            .filter(|(_, owner)| *owner == process)
            .copied()
            .collect();
        for (resource, _) in open {
            self.end(resource, process, time);
        }
    }

    /// Returns how often a resource was given to a process, for each kind: IDs, locks, the value.
    pub(crate) fn counts(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        for (resource, intervals) in &self.closed {
            let kind = match resource {
                Resource::Id(_) => 0,
                Resource::File(_) => 1,
                Resource::Value => 2,
            };
            counts[kind] += intervals.len();
        }
        counts
    }

    /// Returns the faults: each resource that two processes had at the same time, above all.
    pub(crate) fn faults(mut self) -> Vec<String> {
        for (resource, intervals) in &mut self.closed {
            intervals.sort_by_key(|interval| (interval.begin, interval.end));
            for pair in intervals.windows(2) {
                let [first, second] = pair else { continue };
                if first.end > second.begin {
                    self.faults.push(format!(
                        "{resource:?} was had by two processes: process {} had it at {}, and until {}; process {} at {}",
                        first.process, first.begin, first.end, second.process, second.begin
                    ));
                }
            }
        }
        self.faults
    }
}
