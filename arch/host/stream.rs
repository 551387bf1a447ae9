//! One end of a Unix socket.

use std::io::IoSlice;
use std::time::Duration;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use rustix::net::{recv, send, sendmsg, shutdown, sockopt};
use rustix::process::Uid;

use super::clock;
use super::process::Creator;
use crate::pal::{Deadline, Stream, StreamError};

/// The greatest number of parts in one write, by the contract of [`Stream::write`].
const PARTS: usize = 4;

/// One end of a byte stream to another process on this machine.
#[derive(Debug)]
pub struct HostStream {
    socket: OwnedFd,
    creator: Creator,
}

/// Without NOSIGNAL a peer that closes its end would kill the embedder by SIGPIPE.
const NEVER_WAITING: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// The time for which one read may block: only bytes can end it before.
const READ_LIMIT: Duration = Duration::from_millis(2);

/// The time that the kernel may take for that: it rounds up to its ticks, of which there may be as
/// few as a hundred a second. A read whose time limit is nearer does not block.
const MAX_OVERSHOOT: Duration = Duration::from_millis(50);

impl HostStream {
    pub(super) fn new(socket: OwnedFd) -> HostStream {
        HostStream {
            socket,
            creator: Creator::this(),
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
            // It fails if the socket is not connected, or not any more.
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
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let (count, _) = recv(&self.socket, buffer, RecvFlags::DONTWAIT).map_err(stream_error)?;
        Ok(count)
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
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
}

fn stream_error(error: Errno) -> StreamError {
    match error {
        // A temporary shortage of kernel memory is handled like a full stream.
        Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => StreamError::WouldBlock,
        Errno::INTR => StreamError::Interrupted,
        _ => StreamError::Closed,
    }
}
