//! The program under test: `family --serve`.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::example::program;
use crate::peer::LIMIT;

pub(crate) struct Server {
    directory: TempDir,
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Server {
    /// Starts a leader in a directory of its own, and waits for its message that it listens.
    pub(crate) fn start() -> Server {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("f");
        let mut server = Server::start_at(directory, &base, &[]);
        let line = server.line();
        assert!(
            line.ends_with(&format!("listening at {}.1", base.display())),
            "{line:?}"
        );
        server
    }

    /// Starts a leader in that directory.
    pub(crate) fn start_at(directory: TempDir, base: &Path, options: &[&str]) -> Server {
        let mut process = Command::new(program("family"))
            .arg("--serve")
            .arg(base)
            .args(options)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Server {
            directory,
            process,
            output,
        }
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.directory.path().join("f")
    }

    /// Returns the next line of its output, without the line end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits until it accepts connections: its socket file exists a moment before.
    pub(crate) fn wait_until_open(&self) {
        let until = Instant::now() + LIMIT;
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < until, "not open in {LIMIT:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("f.1")
    }

    /// Sends a signal and waits for the end, which must come soon. Returns the rest of the output,
    /// too.
    pub(crate) fn end_by(self, signal: Signal) -> (ExitStatus, String) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
        self.end_without_signal()
    }

    /// Waits for the end.
    pub(crate) fn end_without_signal(mut self) -> (ExitStatus, String) {
        let until = Instant::now() + Duration::from_secs(5);
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "still there");
            thread::sleep(Duration::from_millis(1));
        };
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(!self.socket().exists(), "the socket file is left");
        (status, rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            // The server prints its faults before it ends.
            let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
            let mut rest = String::new();
            let _ = self.output.read_to_string(&mut rest);
            println!("{rest}");
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
