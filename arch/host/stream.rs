//! One end of a stream socket, over a Unix socket or a network, and of the log ring beside it.

use std::io::IoSlice;
#[cfg(feature = "succession")]
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
#[cfg(feature = "succession")]
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use rustix::net::{recv, send, sendmsg, shutdown, sockopt};
use rustix::process::Uid;
#[cfg(feature = "succession")]
use rustix::process::{Resource, getrlimit};

use super::clock;
use super::creator::Creator;
use super::errors::stream_error;
#[cfg(feature = "succession")]
use super::log_ring::{self, RingReader, RingWriter};
#[cfg(feature = "succession")]
use crate::invariant::OrBroken;
#[cfg(feature = "succession")]
use crate::pal::LogWriterEnd;
use crate::pal::{Deadline, Stream, StreamError};

/// The greatest number of parts in one write, by the contract of [`Stream::write`].
const PARTS: usize = 4;

/// One end of a byte stream to another process, on this machine or on a network.
#[derive(Debug)]
pub struct HostStream {
    socket: OwnedFd,
    creator: Creator,
    #[cfg(feature = "succession")]
    log: Option<LogHalf>,
}

/// An end of a log, whose bytes go through a ring in shared memory instead of the socket.
#[cfg(feature = "succession")]
#[derive(Debug)]
enum LogHalf {
    Writer(RingWriter),
    /// The ring, once it has come; `None` if the bytes come over the socket after all.
    Reader(OnceLock<Option<RingReader>>),
}

/// The least number of the descriptor of a log's socket, if the limit of descriptors allows it. A higher one would make the
/// kernel's table of descriptors longer.
#[cfg(feature = "succession")]
const MIN_LOG_DESCRIPTOR: u64 = 4096;

/// Without NOSIGNAL a peer that closes its end would kill the embedder by SIGPIPE.
const NEVER_WAITING: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// The time for which one read may block: only bytes can end it before.
const READ_LIMIT: Duration = Duration::from_millis(2);

/// The time that the kernel may take for [`READ_LIMIT`]: it rounds up to its ticks, of which there may be as
/// few as a hundred a second. A read whose time limit is nearer does not block.
const MAX_OVERSHOOT: Duration = Duration::from_millis(50);

impl HostStream {
    pub(super) fn new(socket: OwnedFd) -> HostStream {
        HostStream {
            socket,
            creator: Creator::this(),
            #[cfg(feature = "succession")]
            log: None,
        }
    }

    /// Returns the stream over a connected socket, of a test that connects by itself.
    #[cfg(feature = "testing")]
    pub fn over(socket: OwnedFd) -> HostStream {
        HostStream::new(socket)
    }

    fn read_socket(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let (count, _) = recv(&self.socket, buffer, RecvFlags::DONTWAIT).map_err(stream_error)?;
        Ok(count)
    }

    /// Returns true if the peer is on the same machine, and known to its kernel.
    fn is_unix(&self) -> bool {
        sockopt::socket_domain(&self.socket) == Ok(AddressFamily::UNIX)
    }

    /// Moves the socket to a high descriptor, so that the reader of the log notices first when this process dies: the kernel
    /// closes the descriptor with the highest number first, and with each stream that ends it wakes a process, which competes
    /// for a processor with the dying one. A failure only costs time, so it is ignored.
    #[cfg(feature = "succession")]
    fn move_to_high_descriptor(&mut self) {
        let most = getrlimit(Resource::Nofile).current;
        let number = most.map_or(MIN_LOG_DESCRIPTOR, |most| MIN_LOG_DESCRIPTOR.min(most / 2));
        let number = i32::try_from(number).or_broken(0);
        if let Ok(copy) = fcntl_dupfd_cloexec(&self.socket, number) {
            self.socket = copy;
        }
    }

    #[cfg(feature = "succession")]
    fn read_log(
        &self,
        ring: &OnceLock<Option<RingReader>>,
        buffer: &mut [u8],
    ) -> Result<usize, StreamError> {
        let ring = if let Some(ring) = ring.get() {
            ring
        } else {
            let received = RingReader::receive(self.socket.as_fd())?;
            ring.get_or_init(|| received)
        };
        let Some(ring) = ring else {
            return self.read_socket(buffer);
        };
        let count = ring.read(buffer)?;
        if count > 0 {
            return Ok(count);
        }
        match self.read_socket(&mut [0]) {
            Err(error @ (StreamError::WouldBlock | StreamError::Interrupted)) => Err(error),
            // The writer sends nothing over the socket, so a byte is a fault of the peer.
            Ok(1..) => Err(StreamError::Closed),
            // The writer has ended. It may have written to the ring just before.
            Ok(0) | Err(StreamError::Closed) => ring.read(buffer),
        }
    }

    /// Allows [`HostStream::read_blocking`] to block, for [`READ_LIMIT`] as the kernel rounds it.
    pub(super) fn allow_blocking(&self) -> Result<(), Errno> {
        sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, Some(READ_LIMIT))
    }

    /// Waits for bytes for a short time and reads them, in one system call. It does nothing if less
    /// time is left.
    pub(super) fn read_blocking(
        &self,
        buffer: &mut [u8],
        until: Deadline,
    ) -> Result<usize, StreamError> {
        if until
            .left(clock::now)
            .is_some_and(|left| left < MAX_OVERSHOOT)
        {
            return Err(StreamError::WouldBlock);
        }
        let (count, _) = recv(&self.socket, buffer, RecvFlags::empty()).map_err(stream_error)?;
        Ok(count)
    }

    /// Returns true if `user` opened the other end.
    ///
    /// A peer outside of this PID namespace shows no readable credentials, so it is refused.
    pub(super) fn peer_is(&self, user: Uid) -> bool {
        sockopt::socket_peercred(&self.socket).is_ok_and(|peer| peer.uid == user)
    }
}

impl Drop for HostStream {
    /// Ends the connection. Closing the descriptor alone is not enough: a forked process has a
    /// copy, which keeps the connection open. The peer can still read the bytes that were written
    /// before. The copy itself only closes its descriptor.
    fn drop(&mut self) {
        if self.creator.is_this() {
            #[cfg(feature = "succession")]
            if let Some(LogHalf::Reader(ring)) = &self.log
                && ring.get().is_none()
            {
                // A ring that was never read must be closed, too: the socket alone stops no write.
                let _ = RingReader::receive(self.socket.as_fd());
            }
            // The call fails if the socket is not connected, or not any more.
            let _ = shutdown(&self.socket, Shutdown::Both);
        }
    }
}

impl AsFd for HostStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Stream for HostStream {
    #[cfg(feature = "succession")]
    const SHARES_LOGS: bool = true;

    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        #[cfg(feature = "succession")]
        if let Some(LogHalf::Reader(ring)) = &self.log {
            return self.read_log(ring, buffer);
        }
        self.read_socket(buffer)
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        #[cfg(feature = "succession")]
        if let Some(LogHalf::Writer(ring)) = &self.log {
            return match ring.write(parts) {
                // A reader that was killed has not closed the ring: only its socket shows its end.
                Err(StreamError::WouldBlock) if self.read_socket(&mut [0]) == Ok(0) => {
                    Err(StreamError::Closed)
                }
                written => written,
            };
        }
        if let [bytes] = parts {
            return send(&self.socket, bytes, NEVER_WAITING).map_err(stream_error);
        }
        let mut slices = [IoSlice::new(&[]); PARTS];
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        let mut no_control = SendAncillaryBuffer::default();
        sendmsg(&self.socket, &slices, &mut no_control, NEVER_WAITING).map_err(stream_error)
    }

    fn opener(&self) -> Option<u32> {
        // The kernel knows no process at the other end of a socket of a network, and says 0, which is no pid.
        if !self.is_unix() {
            return None;
        }
        let opener = sockopt::socket_peercred(&self.socket).ok()?;
        u32::try_from(opener.pid.as_raw_nonzero().get()).ok()
    }

    #[cfg(feature = "succession")]
    fn begin_log(&mut self) -> Result<usize, StreamError> {
        if self.is_unix()
            && let Some(ring) = RingWriter::send(self.socket.as_fd())?
        {
            self.move_to_high_descriptor();
            self.log = Some(LogHalf::Writer(ring));
            return Ok(log_ring::SIZE as usize);
        }
        Ok(0)
    }

    #[cfg(feature = "succession")]
    fn accept_log(&mut self) {
        if self.is_unix() {
            self.log = Some(LogHalf::Reader(OnceLock::new()));
        }
    }

    #[cfg(feature = "succession")]
    fn revoke_log(&self) {
        if let Some(LogHalf::Writer(ring)) = &self.log {
            ring.revoke();
        }
    }

    #[cfg(feature = "succession")]
    fn end_of_log(&self) -> LogWriterEnd {
        let Some(LogHalf::Reader(ring)) = &self.log else {
            return LogWriterEnd::Unknown;
        };
        let Some(Some(ring)) = ring.get() else {
            return LogWriterEnd::Unknown;
        };
        // The kernel closes the socket when all threads of the process are past their last instruction, and a
        // process that lives revokes the log before it closes the socket.
        match self.read_socket(&mut [0]) {
            Ok(0) | Err(StreamError::Closed) if ring.is_revoked() => LogWriterEnd::Revoked,
            Ok(0) | Err(StreamError::Closed) => LogWriterEnd::Certain,
            Ok(_) | Err(_) => LogWriterEnd::Unknown,
        }
    }
}
