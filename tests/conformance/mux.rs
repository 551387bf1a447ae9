//! Members whose streams share one channel each, over the sockets of this host.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use libos_ipc::host::Proxy;
use libos_ipc::pal::mux::{ByteChannel, MuxEndpoint, MuxPal, MuxStream};
use libos_ipc::pal::{AcceptError, ConnectError, Deadline, Flag, Pal, Time};
use libos_ipc::{Vmid, forward_pal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const STREAMS: usize = 100;
const WINDOW: usize = 512;

type Endpoint = MuxEndpoint<Channel, STREAMS, WINDOW>;

/// A channel over a socket. If it is closed it carries nothing, like a serial port.
pub(crate) struct Channel {
    socket: UnixStream,
    start: Instant,
}

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

impl ByteChannel for Channel {
    fn read(&self, buffer: &mut [u8]) -> usize {
        count((&self.socket).read(buffer))
    }

    fn write(&self, bytes: &[u8]) -> usize {
        count((&self.socket).write(bytes))
    }

    fn wait(&self, until: Deadline) {
        // A partial write goes on after a moment.
        let longest = Duration::from_millis(10);
        let left = until.left(|| self.now());
        let left = left.map_or(longest, |left| left.min(longest));
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
    }

    fn now(&self) -> Time {
        Time(0) + self.start.elapsed()
    }
}

/// The addresses of a family.
pub(crate) struct MuxFamily {
    base: PathBuf,
}

impl MuxFamily {
    pub(crate) fn new(base: PathBuf) -> MuxFamily {
        MuxFamily { base }
    }

    /// Makes a member and its proxy.
    pub(crate) fn member(&self, vmid: Vmid) -> MuxMember {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        ours.set_nonblocking(true).expect("a socket");
        let proxy = Proxy::new(&self.base, vmid, theirs).expect("a proxy");
        thread::spawn(move || proxy.run());
        // The streams of the member may live longer than the member.
        let endpoint: &'static Endpoint = Box::leak(Box::new(MuxEndpoint::new(Channel {
            socket: ours,
            start: Instant::now(),
        })));
        MuxMember {
            pal: endpoint.pal(),
            endpoint,
        }
    }
}

/// A member. When it is dropped its machine ends: the channel is closed.
pub(crate) struct MuxMember {
    pal: MuxPal<'static, Channel, STREAMS, WINDOW>,
    endpoint: &'static Endpoint,
}

impl Drop for MuxMember {
    fn drop(&mut self) {
        let _ = self.endpoint.channel().socket.shutdown(Shutdown::Both);
    }
}

impl Pal for MuxMember {
    type Stream = MuxStream<'static, Channel, STREAMS, WINDOW>;
    type Event = Flag;

    const SUPPORTS_CALLER_READ: bool = false;

    forward_pal!(pal: is_secure, requires_secure, event, watch_listener, wait, wake, wait_event, now);
    forward_pal!(pal, stream: watch, rewatch, unwatch, wait_readable);

    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        self.pal.connect(peer)
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        self.pal.accept()
    }
}
