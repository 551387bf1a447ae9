//! The processes of a program: the same program in another role. Lines on standard input and output
//! only control the program: the shared state of the family does not go this way.

use std::env::current_exe;
use std::fmt;
use std::io::{self, BufRead, BufReader, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use libos_ipc::pal::Pal;
use libos_ipc::{Exit, Identity, Node, Pid, Wait};
use rustix::io::Errno;

/// The command-line options of every process.
#[derive(Args)]
pub(crate) struct ProcessOptions {
    /// Where the family listens
    #[arg(long)]
    pub(crate) base: PathBuf,
    /// Who this process is
    #[arg(long)]
    pub(crate) identity: Identity,
}

/// Returns the pid that the parent of a process has allocated for it.
pub(crate) fn pid_of(identity: &Identity) -> Result<Pid> {
    identity.pid.context("its parent has given it no pid")
}

/// Returns the command for this program in another role, with the options of [`ProcessOptions`].
pub(crate) fn command(role: &str, base: &Path, identity: &Identity) -> Result<Command> {
    let mut command = Command::new(current_exe().context("where is this program?")?);
    command.arg(role).arg("--base").arg(base);
    command.args(["--identity", &identity.to_string()]);
    Ok(command)
}

/// Starts the program.
///
/// # Errors
/// The error gives advice if the system refuses, or has run out of something.
pub(crate) fn spawn(command: &mut Command) -> Result<Child> {
    command.spawn().map_err(|error| {
        let advice = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE) => {
                "; this process has no descriptors left: raise `ulimit -n`, or start fewer processes"
            }
            Some(Errno::NFILE) => {
                "; the system has no descriptors left: raise fs.file-max, or end other processes"
            }
            Some(Errno::AGAIN) => {
                "; there may be no more processes: raise `ulimit -u`, or start fewer of them"
            }
            Some(Errno::NOMEM | Errno::NOSPC) => {
                "; the system has no room left for it: end other processes, or give it more memory"
            }
            Some(Errno::ACCESS | Errno::PERM) => {
                "; the program may not be run: see its mode, and whether its file system is mounted with noexec"
            }
            _ => "",
        };
        anyhow!("{error}{advice}")
    })
}

/// Reads a process's output in a thread, and passes each line to `on_line`, and `None` at the end of the output. The
/// thread ends when `on_line` returns false.
pub(crate) fn read_lines<T>(
    output: ChildStdout,
    mut on_line: impl FnMut(Option<Result<T>>) -> bool + Send + 'static,
) where
    T: FromStr<Err = anyhow::Error>,
{
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            // A line that is not text is not from a process of this program.
            let message = line
                .map_err(anyhow::Error::from)
                .and_then(|line| line.parse());
            if !on_line(Some(message)) {
                return;
            }
        }
        on_line(None);
    });
}

/// Writes one line in one write, so that the reader gets it at once and whole, even if the writer
/// dies.
pub(crate) fn print_line(out: &mut impl Write, line: &impl fmt::Display) -> io::Result<()> {
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()
}

/// Writes a line to standard output, for the process that started this one or for the user. That nobody reads it is no
/// error.
pub(crate) fn send(line: &impl fmt::Display) {
    let _ = print_line(&mut stdout().lock(), line);
}

/// Prints a line with the time since `begin`.
pub(crate) fn print_at(begin: Instant, what: &str) {
    println!("{:>7.3} s  {what}", begin.elapsed().as_secs_f64());
}

/// Returns a flag that becomes true when the process that started this one closes the standard
/// input of this one, or ends. `on_line` is called for every line before that.
pub(crate) fn stop_at_input_end(mut on_line: impl FnMut() + Send + 'static) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            for _ in stdin().lock().lines().map_while(Result::ok) {
                on_line();
            }
            stop.store(true, Ordering::Relaxed);
        }
    });
    stop
}

/// Ends this process in the family, and leaves the family when all members have the notice. A leader that has an heir
/// hands the family over.
pub(crate) fn exit_family<P: Pal>(node: &Node<'_, P>, exit: Exit, wait: Wait<'_>) -> Result<()> {
    node.exit(exit, wait)?;
    node.release_idle_ranges(wait)?;
    node.leave(wait)?;
    ensure!(
        node.shut_down(Duration::from_secs(20)),
        "something was not sent"
    );
    Ok(())
}
