//! A channel over a socket, like a machine's serial port.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use libos_ipc::pal::mux::ByteChannel;
use libos_ipc::pal::{Deadline, Time};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) struct SocketChannel {
    socket: UnixStream,
    start: Instant,
}

impl SocketChannel {
    pub(crate) fn new(socket: UnixStream) -> SocketChannel {
        socket.set_nonblocking(true).unwrap();
        SocketChannel {
            socket,
            start: Instant::now(),
        }
    }
}

/// A closed channel carries nothing, like a serial port.
fn count(result: std::io::Result<usize>) -> usize {
    match result {
        Ok(count) => count,
        Err(error) => {
            let kinds = [
                ErrorKind::WouldBlock,
                ErrorKind::BrokenPipe,
                ErrorKind::ConnectionReset,
            ];
            assert!(kinds.contains(&error.kind()), "{error}");
            0
        }
    }
}

impl ByteChannel for SocketChannel {
    fn read(&self, buffer: &mut [u8]) -> usize {
        count((&self.socket).read(buffer))
    }

    fn write(&self, bytes: &[u8]) -> usize {
        count((&self.socket).write(bytes))
    }

    fn wait(&self, until: Deadline) {
        let longest = Duration::from_millis(10);
        let left = until.left(|| self.now());
        let left = left.map_or(longest, |left| left.min(longest));
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::try_from(left).unwrap())).unwrap();
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_nanos()).unwrap())
    }
}
