//! One end of a Unix socket.

use std::io::IoSlice;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg, sockopt};
use rustix::process::Uid;

use crate::pal::{Stream, StreamError};

/// How many parts one write takes; the contract of [`Stream::write`] allows no more.
const PARTS: usize = 4;

/// One end of a byte stream to another process on this machine.
#[derive(Debug)]
pub struct HostStream {
    socket: OwnedFd,
}

impl HostStream {
    pub(super) fn new(socket: OwnedFd) -> HostStream {
        HostStream { socket }
    }

    /// Whether the other end was opened by `user`.
    ///
    /// A peer outside of our PID namespace shows no credentials we could read: it is a stranger.
    pub(super) fn peer_is(&self, user: Uid) -> bool {
        sockopt::socket_peercred(&self.socket).is_ok_and(|peer| peer.uid == user)
    }
}

impl AsFd for HostStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Stream for HostStream {
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let (count, _) = recv(&self.socket, buffer, RecvFlags::empty()).map_err(stream_error)?;
        Ok(count)
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        // Without NOSIGNAL a peer that goes away would end the embedder by SIGPIPE.
        if let [bytes] = parts {
            return send(&self.socket, bytes, SendFlags::NOSIGNAL).map_err(stream_error);
        }
        let mut slices = [IoSlice::new(&[]); PARTS];
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        let mut no_control = SendAncillaryBuffer::default();
        sendmsg(&self.socket, &slices, &mut no_control, SendFlags::NOSIGNAL).map_err(stream_error)
    }
}

fn stream_error(error: Errno) -> StreamError {
    match error {
        // Short of kernel memory for the moment: the same to us as a full stream.
        Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => StreamError::WouldBlock,
        Errno::INTR => StreamError::Interrupted,
        _ => StreamError::Closed,
    }
}
