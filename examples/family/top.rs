//! The live display on the whole screen; without a terminal, a copy of it from time to time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write;
use std::time::{Duration, Instant};

use comfy_table::{Cell, Table};
use console::{Term, truncate_str};
use libos_ipc::Usage;

use crate::common::{HumanCount, Latency, fit, table};
use crate::figures::Rates;
use crate::platform::FamilyNode;
use crate::processes::{Member, Processes, Stage};
use crate::snapshot::{ReportedCall, Snapshot, SnapshotSource};
use crate::summary::COMPLETE;

/// The intervals of the display on a terminal and otherwise.
const LIVE_INTERVAL: Duration = Duration::from_millis(250);
const PLAIN_INTERVAL: Duration = Duration::from_secs(1);

/// The number of the longest waits, and of the last lines of the program, in the display.
const SHOWN_WAITS: usize = 5;
const SHOWN_LINES: usize = 5;

/// The number of lines of the display beside those of the members: borders, pools, waits, lines of the program.
const OTHER_LINES: usize = 30;

/// The live display.
pub(crate) struct Top {
    term: Term,
    begin: Instant,
    /// The time of the next drawing.
    next: Instant,
    /// The source of the leader's snapshots, once the first is taken.
    leader_source: Option<SnapshotSource>,
    /// The last lines of the program.
    last_lines: RefCell<VecDeque<String>>,
}

impl Top {
    pub(crate) fn new() -> Top {
        let top = Top {
            term: Term::buffered_stdout(),
            begin: Instant::now(),
            next: Instant::now(),
            leader_source: None,
            last_lines: RefCell::default(),
        };
        if top.is_live() {
            let _ = top.term.hide_cursor();
            let _ = top.term.clear_screen();
        }
        top
    }

    fn is_live(&self) -> bool {
        self.term.is_term()
    }

    /// Shows one line of the program. Returns true if the display shows it.
    pub(crate) fn print_line(&self, line: &str) -> bool {
        if !self.is_live() {
            return false;
        }
        let mut lines = self.last_lines.borrow_mut();
        if lines.len() == SHOWN_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
        true
    }

    /// Draws the display if its interval has passed.
    pub(crate) fn tick(&mut self, processes: &Processes, leader: &FamilyNode, done: u64) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now
            + if self.is_live() {
                LIVE_INTERVAL
            } else {
                PLAIN_INTERVAL
            };
        let source = self
            .leader_source
            .get_or_insert_with(|| SnapshotSource::new(leader));
        let snapshot = source.take(leader, &Latency::default());
        let text = self.text(processes, leader, &snapshot, done);
        // If the output fails, the work continues.
        let _ = self.draw(&text);
    }

    fn draw(&self, text: &str) -> std::io::Result<()> {
        if !self.is_live() {
            self.term.write_line(text)?;
            return self.term.flush();
        }
        let (height, width) = self.term.size();
        self.term.move_cursor_to(0, 0)?;
        for line in text.lines().take(usize::from(height).saturating_sub(1)) {
            self.term.clear_line()?;
            self.term
                .write_line(&truncate_str(line, width.into(), "…"))?;
        }
        self.term.clear_to_end_of_screen()?;
        self.term.flush()
    }

    /// Returns the text of the display. `snapshot` is that of the leader.
    fn text(
        &self,
        processes: &Processes,
        leader: &FamilyNode,
        snapshot: &Snapshot,
        done: u64,
    ) -> String {
        let mut text = format!(
            "family  {:>6.1} s  {:>3} %  {} members\n",
            self.begin.elapsed().as_secs_f64(),
            done.min(COMPLETE) * 100 / COMPLETE,
            processes.members.len(),
        );
        let rows = if self.is_live() {
            usize::from(self.term.size().0).saturating_sub(OTHER_LINES)
        } else {
            usize::MAX
        };
        let _ = writeln!(text, "{}", member_table(processes, snapshot, rows.max(3)));
        let _ = writeln!(text, "{}", pool_table(leader));
        text += "longest waits\n";
        let waits = longest_waits(processes, snapshot);
        for index in 0..SHOWN_WAITS {
            // The number of lines is constant, so that nothing jumps.
            match waits.get(index) {
                Some((name, wait)) => {
                    let time = time_text(wait.waited);
                    let _ = writeln!(text, "  {time:>10}  {name}: {}", wait.what);
                }
                None if self.is_live() => text.push('\n'),
                None => {}
            }
        }
        for line in &*self.last_lines.borrow() {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

impl Drop for Top {
    /// Keeps the last display, so that further output comes after it.
    fn drop(&mut self) {
        let _ = self.term.show_cursor();
        let _ = self.term.flush();
    }
}

/// Returns the longest waits of all processes, with the names of their processes.
fn longest_waits(processes: &Processes, leader: &Snapshot) -> Vec<(String, ReportedCall)> {
    let waits_of = |name: String, snapshot: &Snapshot| -> Vec<_> {
        let waits = snapshot.waits.iter();
        waits.map(|wait| (name.clone(), wait.clone())).collect()
    };
    let mut all = waits_of("member 1".to_owned(), leader);
    for member in processes.living() {
        if let Some(snapshot) = &member.snapshot {
            all.extend(waits_of(format!("member {}", member.vmid), snapshot));
        }
    }
    all.sort_by_key(|(_, wait)| std::cmp::Reverse(wait.waited));
    all.truncate(SHOWN_WAITS);
    all
}

/// Returns the table of members, with at most that many rows. If there are more members it has the slowest ones.
fn member_table(processes: &Processes, leader: &Snapshot, rows: usize) -> Table {
    // Two lines, so that the table fits 80 columns.
    let header = [
        "member",
        "does",
        "IDs\ntaken",
        "calls\n/s",
        "p50",
        "p99",
        "frames\nin/s",
        "frames\nout/s",
        "wait-\ning",
        "to\nsend",
    ];
    let mut table = table(header, 2);
    table.add_row(row("1", "leads", None, &leader.rates));
    let mut members: Vec<&Member> = processes.members.iter().collect();
    if members.len() > rows {
        let slowness = |member: &&Member| {
            member
                .snapshot
                .as_ref()
                .map_or(0, |snapshot| snapshot.rates.p99)
        };
        members.sort_by_key(|member| std::cmp::Reverse(slowness(member)));
    }
    let nothing = Snapshot::default();
    for member in members.iter().take(rows) {
        let snapshot = member.snapshot.as_ref().unwrap_or(&nothing);
        let rates = if member.is_killed() {
            &nothing.rates
        } else {
            &snapshot.rates
        };
        let taken = Some(member.counts.taken);
        table.add_row(row(
            &member.vmid.to_string(),
            activity(member),
            taken,
            rates,
        ));
    }
    if let Some(more) = members.len().checked_sub(rows).filter(|more| *more > 0) {
        table.add_row([format!("and {more}"), "faster".to_owned()]);
    }
    fit(&mut table);
    table
}

/// Returns the text for what a member does.
fn activity(member: &Member) -> &'static str {
    match member.stage {
        _ if member.is_killed() => "KILLED",
        Stage::Started => "starts",
        Stage::Ready => "works",
        Stage::Done => "is done",
        Stage::Stopped => "stops",
        Stage::ReleasedAll | Stage::Reported => "leaves",
    }
}

fn row(name: &str, activity: &str, taken: Option<u64>, rates: &Rates) -> Vec<Cell> {
    let Rates {
        requests,
        p50,
        p99,
        frames_in,
        frames_out,
        waiters,
        queued,
    } = *rates;
    let latency = |nanoseconds| match nanoseconds {
        0 => String::new(),
        nanoseconds => time_text(Duration::from_nanos(nanoseconds)),
    };
    [
        name.to_owned(),
        activity.to_owned(),
        taken.map(count).unwrap_or_default(),
        count(requests),
        latency(p50),
        latency(p99),
        count(frames_in),
        count(frames_out),
        count(waiters),
        count(queued),
    ]
    .map(Cell::new)
    .into()
}

/// Returns the table of the leader's pools that were ever used.
fn pool_table(leader: &FamilyNode) -> Table {
    let header = ["the leader's pools", "now", "most", "limit", "filled"];
    let mut table = table(header, 1);
    let pools = leader.statistics().pools;
    for (
        name,
        Usage {
            now, peak, limit, ..
        },
    ) in pools.all().filter(|(_, usage)| usage.peak > 0)
    {
        let filled = format!("{} %", now * 100 / limit.max(1));
        let [now, peak, limit] = [now, peak, limit].map(|number| count(number as u64));
        table.add_row([name.to_owned(), now, peak, limit, filled]);
    }
    fit(&mut table);
    table
}

fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

fn time_text(time: Duration) -> String {
    format!("{time:.1?}")
}
