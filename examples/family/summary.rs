//! The display: a bar during the work (lines if there is no terminal), and two tables at the end.

use std::io::stdout;
use std::time::{Duration, Instant};

use libos_ipc::Statistics;

use crate::RunOptions;
use crate::common::{HumanBytes, HumanCount, Latency, Progress, fit, print_line, table};
use crate::figures::{Counts, Ending, Report};
use crate::platform::FamilyNode;
use crate::processes::{Member, Processes};
use crate::top::Top;

/// The interval of lines if there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_millis(500);

/// The progress at the end of the work, in thousandths.
pub(crate) const COMPLETE: u64 = 1000;

/// The display of a run.
pub(crate) struct Summary {
    progress: Progress,
    /// The amount of work, as text.
    amount: String,
    /// The live display in place of the bar, if it is requested.
    top: Option<Top>,
    /// The time that the times in the output count from.
    begin: Instant,
    next_line: Instant,
}

impl Summary {
    pub(crate) fn new(options: &RunOptions) -> Summary {
        let amount = match options.ids {
            Some(ids) => format!("{} IDs each", HumanCount(ids)),
            None => format!("{:?}", options.seconds),
        };
        Summary {
            progress: Progress::new(),
            amount,
            top: options.top.then(Top::new),
            begin: Instant::now(),
            next_line: Instant::now(),
        }
    }

    /// Prints one line, with the time.
    pub(crate) fn print_line(&self, what: &str) {
        let line = format!("{:>7.3} s  {what}", self.begin.elapsed().as_secs_f64());
        if self.top.as_ref().is_some_and(|top| top.print_line(&line)) {
            return;
        }
        self.progress.clear();
        // If the output is not read, the work continues.
        let _ = print_line(&mut stdout().lock(), &line);
    }

    /// Shows the progress: `done` of [`COMPLETE`].
    pub(crate) fn tick(&mut self, processes: &Processes, leader: &FamilyNode, done: u64) {
        if let Some(top) = &mut self.top {
            return top.tick(processes, leader, done);
        }
        let mut sum = Counts::default();
        for member in &processes.members {
            sum += member.counts;
        }
        let message = format!(
            "{} IDs taken, {} handed on, {} looked up, {} released",
            HumanCount(sum.taken),
            HumanCount(sum.transferred),
            HumanCount(sum.looked_up),
            HumanCount(sum.released),
        );
        if self.progress.is_shown() {
            let text = format!("{}: {message}", self.amount);
            self.progress.show(done, COMPLETE, &text);
        } else if Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_INTERVAL;
            self.print_line(&format!(
                "{:>3} %: {message}",
                done.min(COMPLETE) * 100 / COMPLETE
            ));
        }
    }

    /// Ends the display of the progress.
    pub(crate) fn finish(&mut self) {
        self.top = None;
        self.progress.clear();
    }
}

/// Prints the work of each member, its requests and traffic, the sums, and the leader's statistics.
pub(crate) fn print_tables(processes: &Processes, leader: &Statistics) {
    let mut counts = table(
        [
            "member",
            "taken",
            "handed\non",
            "received",
            "looked\nup",
            "VMIDs",
            "released",
        ],
        1,
    );
    let mut costs = table(
        [
            "member", "requests", "p50 µs", "p99 µs", "frames", "bytes", "end",
        ],
        1,
    );
    let mut sum = Report::default();
    for member in &processes.members {
        let nothing = Report {
            counts: member.counts,
            ..Report::default()
        };
        let report = member.report.as_ref().unwrap_or(&nothing);
        sum.counts += report.counts;
        sum.ending += report.ending;
        sum.latency.merge(&report.latency);
        let name = member.vmid.to_string();
        counts.add_row(count_cells(&name, &report.counts));
        costs.add_row(cost_cells(&name, report, &end_of(member)));
    }
    counts.add_row(count_cells("all", &sum.counts));
    costs.add_row(cost_cells("all", &sum, ""));
    for mut table in [counts, costs] {
        fit(&mut table);
        let _ = print_line(&mut stdout().lock(), &table);
    }
    let _ = print_line(
        &mut stdout().lock(),
        &format!(
            "the leader: {} frames in {} reads, {} frames in {} writes,\n            at most {} ID ranges at once",
            HumanCount(leader.frames_in),
            HumanCount(leader.reads),
            HumanCount(leader.frames_out),
            HumanCount(leader.writes),
            HumanCount(leader.pools.ranges.peak as u64),
        ),
    );
}

/// Returns the text for the end of a member.
fn end_of(member: &Member) -> String {
    match member.exit {
        _ if member.is_killed() => "KILLED".to_owned(),
        Some(exit) if exit.success() => "left".to_owned(),
        Some(exit) => exit.to_string(),
        None => "?".to_owned(),
    }
}

fn count_cells(name: &str, counts: &Counts) -> Vec<String> {
    let Counts {
        taken,
        transferred,
        received,
        looked_up,
        new_vmids,
        released,
    } = *counts;
    let counts = [taken, transferred, received, looked_up, new_vmids, released];
    let counts = counts.map(|count| HumanCount(count).to_string());
    [name.to_owned()].into_iter().chain(counts).collect()
}

fn cost_cells(name: &str, report: &Report, end: &str) -> Vec<String> {
    let Ending {
        frames_in,
        frames_out,
        bytes_in,
        bytes_out,
        ..
    } = report.ending;
    let mut cells = vec![name.to_owned()];
    if report.latency == Latency::default() {
        // The killed member has sent no last counts.
        cells.extend(["-"; 5].map(str::to_owned));
    } else {
        cells.push(HumanCount(report.latency.requests()).to_string());
        cells.extend(
            [50, 99].map(|percent| format!("{:.1}", report.latency.percentile_us(percent))),
        );
        cells.push(HumanCount(frames_in + frames_out).to_string());
        cells.push(HumanBytes(bytes_in + bytes_out).to_string());
    }
    cells.push(end.to_owned());
    cells
}
