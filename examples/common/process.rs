//! Processes of a program: this same program again, in another role. What they say on their standard
//! output, a line each, only steers the program: nothing that the family shares goes this way.

use std::env::current_exe;
use std::fmt;
use std::io::{self, BufRead, BufReader, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use libos_ipc::pal::Pal;
use libos_ipc::{Exit, Identity, Node, Wait};

/// What every process of a family is told on its command line.
#[derive(Args)]
pub(crate) struct ProcessOptions {
    /// Where the family listens
    #[arg(long)]
    pub(crate) base: PathBuf,
    /// Who this process is: the numbers of its identity
    #[arg(long, value_delimiter = ',')]
    identity: Vec<u32>,
}

impl ProcessOptions {
    pub(crate) fn identity(&self) -> Result<Identity> {
        let numbers = self.identity.as_slice().try_into();
        let identity = numbers.ok().and_then(Identity::from_numbers);
        identity.context("--identity takes the five numbers of an identity")
    }
}

/// This program in another role, as [`ProcessOptions`] reads it.
pub(crate) fn command(role: &str, base: &Path, identity: &Identity) -> Result<Command> {
    let numbers = identity.numbers().map(|number| number.to_string());
    let mut command = Command::new(current_exe().context("where is this program?")?);
    command.arg(role).arg("--base").arg(base);
    command.args(["--identity", &numbers.join(",")]);
    Ok(command)
}

/// Hands on every line that a process says, in a thread of its own, until nobody wants more; `None`
/// at its end.
pub(crate) fn hear<T>(
    output: ChildStdout,
    mut hand_on: impl FnMut(Option<Result<T>>) -> bool + Send + 'static,
) where
    T: FromStr<Err = anyhow::Error>,
{
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            // A line that is not text comes from no process of ours.
            let said = line
                .map_err(anyhow::Error::from)
                .and_then(|line| line.parse());
            if !hand_on(Some(said)) {
                return;
            }
        }
        hand_on(None);
    });
}

/// Writes one line in one go: whoever reads it has it at once, and a death in between leaves no
/// half of it.
pub(crate) fn say(out: &mut impl Write, line: &impl fmt::Display) -> io::Result<()> {
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()
}

/// Says a line to whoever started this process, if that still listens.
pub(crate) fn tell(line: &impl fmt::Display) {
    let _ = say(&mut stdout().lock(), line);
}

/// Becomes true when whoever started this process closes its standard input, or ends. `line` is called
/// for every line before that.
pub(crate) fn over(mut line: impl FnMut() + Send + 'static) -> Arc<AtomicBool> {
    let over = Arc::new(AtomicBool::new(false));
    thread::spawn({
        let over = Arc::clone(&over);
        move || {
            for _ in stdin().lock().lines().map_while(Result::ok) {
                line();
            }
            over.store(true, Ordering::Relaxed);
        }
    });
    over
}

/// Ends this process for the family, and sees to it that all hear of it.
pub(crate) fn end<P: Pal>(node: &Node<'_, P>, exit: Exit, wait: Wait<'_>) -> Result<()> {
    node.exit(exit, wait)?;
    node.release_idle_ranges(wait)?;
    ensure!(
        node.shut_down(Duration::from_secs(5)),
        "something was not sent"
    );
    Ok(())
}
