//! What the processes of the tree have reported, in lines that they print.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use libos_ipc::Id;

/// A process that has joined the family.
pub(crate) struct Started {
    pub(crate) parent: Id,
    /// The pid on the host.
    pub(crate) host_pid: i32,
}

/// The signals of one number from one process to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SignalRoute {
    pub(crate) sender: Id,
    pub(crate) receiver: Id,
    pub(crate) signal: i32,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExitStatus {
    pub(crate) code: u32,
    /// 0 if no signal ended the process.
    pub(crate) signal: u32,
}

/// All that the processes have reported, by pid.
#[derive(Default)]
pub(crate) struct Ledger {
    /// The processes that have joined the family.
    pub(crate) started: BTreeMap<Id, Started>,
    /// The number of children that each process has started, once it has started all.
    pub(crate) children: BTreeMap<Id, u32>,
    /// The processes that have sent all their signals.
    pub(crate) have_signalled: BTreeSet<Id>,
    /// The number of signals that were sent.
    pub(crate) sent: BTreeMap<SignalRoute, u32>,
    /// The number of signals that were delivered.
    pub(crate) delivered: BTreeMap<SignalRoute, u32>,
    /// How each process ended.
    pub(crate) exits: BTreeMap<Id, ExitStatus>,
    /// The exit reports about each process: the process that got the report, and what it says.
    pub(crate) exit_reports: BTreeMap<Id, Vec<(Id, ExitStatus)>>,
    /// The processes that have reaped each process.
    pub(crate) reapers: BTreeMap<Id, Vec<Id>>,
}

impl Ledger {
    /// Records a line that a process has printed.
    pub(crate) fn record(&mut self, line: &str) -> Result<()> {
        let words: Vec<_> = line.split(' ').collect();
        let number = |index: usize| -> Result<u32> {
            let word = words.get(index).context("too short")?;
            Ok(word.parse()?)
        };
        let route = || -> Result<SignalRoute> {
            Ok(SignalRoute {
                sender: number(1)?,
                receiver: number(2)?,
                signal: i32::try_from(number(3)?)?,
            })
        };
        match words[0] {
            "started" => {
                let process = Started {
                    parent: number(2)?,
                    host_pid: i32::try_from(number(3)?)?,
                };
                self.started.insert(number(1)?, process);
            }
            "children" => drop(self.children.insert(number(1)?, number(2)?)),
            "signalled" => drop(self.have_signalled.insert(number(1)?)),
            "sent" => *self.sent.entry(route()?).or_default() += 1,
            "delivered" => *self.delivered.entry(route()?).or_default() += 1,
            "exits" => {
                let status = ExitStatus {
                    code: number(2)?,
                    signal: 0,
                };
                self.exits.insert(number(1)?, status);
            }
            "ended" => {
                let status = ExitStatus {
                    code: number(3)?,
                    signal: number(4)?,
                };
                self.report_exit(number(2)?, number(1)?, status);
            }
            "reaped" => self.reap(number(2)?, number(1)?),
            _ => bail!("{line:?} is no report of a process"),
        }
        Ok(())
    }

    /// Records that `parent` got an exit report about a process.
    pub(crate) fn report_exit(&mut self, process: Id, parent: Id, status: ExitStatus) {
        let reports = self.exit_reports.entry(process).or_default();
        reports.push((parent, status));
    }

    /// Records that `parent` has reaped a process.
    pub(crate) fn reap(&mut self, process: Id, parent: Id) {
        self.reapers.entry(process).or_default().push(parent);
    }
}
