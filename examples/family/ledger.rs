//! What the processes of the tree have reported, in lines that they print.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use libos_ipc::Id;

/// All that the processes have reported.
#[derive(Default)]
pub(crate) struct Ledger {
    /// The parent and the host process of each process.
    pub(crate) up: BTreeMap<Id, (Id, i32)>,
    /// The number of children that each has started.
    pub(crate) ready: BTreeMap<Id, u32>,
    /// The processes that have sent all their signals.
    pub(crate) done: BTreeSet<Id>,
    /// The number of times that a signal was sent, and delivered: by sender, receiver, number.
    pub(crate) sent: BTreeMap<(Id, Id, i32), u32>,
    pub(crate) got: BTreeMap<(Id, Id, i32), u32>,
    /// The exit code and signal of each process.
    pub(crate) exits: BTreeMap<Id, (u32, u32)>,
    /// The exit reports that parents got.
    pub(crate) reported: BTreeMap<Id, Vec<(Id, u32, u32)>>,
    /// The processes that have reaped each process.
    pub(crate) reaped: BTreeMap<Id, Vec<Id>>,
}

impl Ledger {
    /// Records a line that a process has printed.
    pub(crate) fn record(&mut self, line: &str) -> Result<()> {
        let words: Vec<_> = line.split(' ').collect();
        let number =
            |at: usize| -> Result<u32> { Ok(words.get(at).context("too short")?.parse()?) };
        match words[0] {
            "up" => {
                let host = i32::try_from(number(3)?)?;
                self.up.insert(number(1)?, (number(2)?, host));
            }
            "ready" => drop(self.ready.insert(number(1)?, number(2)?)),
            "done" => drop(self.done.insert(number(1)?)),
            "sent" => {
                let key = (number(1)?, number(2)?, i32::try_from(number(3)?)?);
                *self.sent.entry(key).or_default() += 1;
            }
            "got" => {
                let key = (number(1)?, number(2)?, i32::try_from(number(3)?)?);
                *self.got.entry(key).or_default() += 1;
            }
            "exits" => drop(self.exits.insert(number(1)?, (number(2)?, 0))),
            "ended" => {
                let by = (number(1)?, number(3)?, number(4)?);
                self.reported.entry(number(2)?).or_default().push(by);
            }
            "reaped" => self.reaped.entry(number(2)?).or_default().push(number(1)?),
            _ => bail!("{line:?} is nothing a process says"),
        }
        Ok(())
    }
}
