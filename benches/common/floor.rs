//! The least that two processes can do: bare reads and writes on the same kind of sockets.

use std::io::{Read, Result, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use tempfile::TempDir;

use super::process::{Child, ready};

/// A bare ping-pong: two one-way sockets between two processes, one message at a time.
pub(crate) struct PingPong {
    there: UnixStream,
    back: UnixStream,
    length: usize,
    _echo: Child,
    _directory: TempDir,
}

impl PingPong {
    /// Starts the other process. A message has `length` bytes.
    pub(crate) fn start(length: usize) -> Result<PingPong> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("here");
        let listener = UnixListener::bind(&path)?;
        let echo = Child::start(&["echo", path.to_str().expect("UTF-8"), &length.to_string()])?;
        // The echo connects twice: the first stream is read by it, the second written.
        let there = listener.accept()?.0;
        let back = listener.accept()?.0;
        Ok(PingPong {
            there,
            back,
            length,
            _echo: echo,
            _directory: directory,
        })
    }

    /// Returns the time of one of `count` round trips.
    pub(crate) fn round_trip(&mut self, count: u32) -> Result<Duration> {
        let mut message = vec![0; self.length];
        let start = Instant::now();
        for _ in 0..count {
            self.there.write_all(&message)?;
            poll_then_read(&mut self.back, &mut message)?;
        }
        Ok(start.elapsed() / count)
    }
}

fn poll_then_read(stream: &mut UnixStream, message: &mut [u8]) -> Result<usize> {
    poll(&mut [PollFd::new(&*stream, PollFlags::IN)], None)?;
    stream.read(message)
}

/// Runs the other process of a [`PingPong`].
pub(crate) fn echo(path: &str, length: usize) -> Result<()> {
    let mut there = UnixStream::connect(path)?;
    let mut back = UnixStream::connect(path)?;
    ready()?;
    let mut message = vec![0; length];
    while poll_then_read(&mut there, &mut message)? > 0 {
        back.write_all(&message)?;
    }
    Ok(())
}

/// A reader of everything that is written, in another process.
pub(crate) struct OneWay {
    there: UnixStream,
    back: UnixStream,
    _sink: Child,
    _directory: TempDir,
}

impl OneWay {
    pub(crate) fn start() -> Result<OneWay> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("here");
        let listener = UnixListener::bind(&path)?;
        let sink = Child::start(&["sink", path.to_str().expect("UTF-8")])?;
        let there = listener.accept()?.0;
        let back = listener.accept()?.0;
        Ok(OneWay {
            there,
            back,
            _sink: sink,
            _directory: directory,
        })
    }

    /// Writes `count` frames, one by one, until the last is read. Returns the time of one frame.
    pub(crate) fn writes(&mut self, count: u32, length: usize) -> Result<Duration> {
        let mut frame = vec![1; length];
        let start = Instant::now();
        for _ in 0..count {
            self.there.write_all(&frame)?;
        }
        // The sink answers a byte of 0.
        frame[0] = 0;
        self.there.write_all(&frame[..1])?;
        self.back.read_exact(&mut frame[..1])?;
        Ok(start.elapsed() / count)
    }
}

/// Runs the other process of a [`OneWay`].
pub(crate) fn sink(path: &str) -> Result<()> {
    let mut there = UnixStream::connect(path)?;
    let mut back = UnixStream::connect(path)?;
    ready()?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = poll_then_read(&mut there, &mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        if buffer[count - 1] == 0 {
            back.write_all(&[0])?;
        }
    }
}
