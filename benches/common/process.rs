//! The other processes of a measurement: this program again, in another role.

use std::io::{BufRead, BufReader, Read, Result, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A process of this bench. It ends when its standard input does.
pub(crate) struct Child {
    process: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Child {
    /// Starts this program in the role that `arguments` name, and waits until it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Result<Child> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--role")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let mut child = Child {
            process,
            input,
            output,
        };
        assert_eq!(child.line()?, "ready");
        Ok(child)
    }

    /// Writes a line to the process.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.input.as_mut().expect("open"), "{line}")
    }

    /// Reads the next line of its output.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Kills the process (SIGKILL). It is reaped when this value is dropped.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Returns the processor time that the process has used, in clock ticks of 10 ms.
    pub(crate) fn ticks(&self) -> Result<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields = after_name.split_whitespace().skip(11).take(2);
        Ok(fields.filter_map(|ticks| ticks.parse::<u32>().ok()).sum())
    }
}

/// Returns the time for which the first core, or all cores together, were idle, in clock ticks of 10 ms.
pub(crate) fn idle_ticks(first_core_only: bool) -> Result<u32> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = if first_core_only { "cpu0 " } else { "cpu " };
    let line = stat
        .lines()
        .find(|found| found.starts_with(line))
        .unwrap_or("");
    Ok(line
        .split_whitespace()
        .nth(4)
        .and_then(|ticks| ticks.parse().ok())
        .unwrap_or(0))
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

/// Reports to the process that started this one that this one is ready.
pub(crate) fn ready() -> Result<()> {
    println!("ready");
    std::io::stdout().flush()
}

/// Waits until the process that started this one closes the standard input of this one.
pub(crate) fn wait_for_the_end() -> Result<()> {
    std::io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

/// Pins this process, and those it starts, to the first core.
pub(crate) fn pin() -> Result<()> {
    let mut set = CpuSet::new();
    set.set(0);
    Ok(sched_setaffinity(None, &set)?)
}

/// Lets this process run on all cores; returns how many.
pub(crate) fn unpin() -> Result<u32> {
    let mut set = CpuSet::new();
    for core in 0..CpuSet::MAX_CPU {
        set.set(core);
    }
    sched_setaffinity(None, &set)?;
    Ok(sched_getaffinity(None)?.count())
}
