//! The streams of a platform.

/// The reason why a read or write of a stream moved no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// There is nothing to read, or no room to write, at present.
    WouldBlock,
    /// The call was interrupted before it moved anything: the node tries again.
    Interrupted,
    /// The stream is broken, or the peer has closed it, for good.
    Closed,
}

/// One end of a byte stream. Bytes arrive once, in the order in which they were written. Dropping it ends the stream for the peer, too, which can still read
/// the bytes that were written before. That holds even if the process was forked and the copy has
/// the descriptor (`shutdown(2)`).
pub trait Stream: Send + Sync {
    /// Reads at most `buffer.len()` bytes without blocking and returns their number; 0 means that
    /// the peer has closed its end and all bytes were read. `buffer` is never empty. A greater result
    /// is a defect of the platform: debug builds panic, and others take the stream to be broken.
    ///
    /// # Errors
    /// See [`StreamError`].
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError>;

    /// Writes the bytes of `parts`, in order, as many as possible without blocking, and returns
    /// their number. At least one part is not empty, and there are at most 4 parts. The node offers
    /// the bytes that were not written again in the next write, before any others: a wrapper may
    /// have begun to send them. Where there is no room, the result is an error and not 0. A write to a
    /// stream whose reader has closed its end fails with [`StreamError::Closed`], at once or after
    /// some writes that succeed. A result of 0 or of more than was offered is a defect of the platform,
    /// as in [`Stream::read`].
    ///
    /// # Errors
    /// See [`StreamError`].
    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError>;

    /// Returns the process that has opened an accepted stream, as the platform knows it without trusting that process:
    /// on Linux its pid by `SO_PEERCRED` (`unix(7)`). None where that is not known, as by default. If more streams wait
    /// for their VMIDs than [`Capacities::unidentified`](crate::Capacities::unidentified), the node closes one of the
    /// process that has opened most of them, so that no process can keep out others. A wrapper forwards it.
    fn opener(&self) -> Option<u32> {
        None
    }

    /// Whether [`Stream::begin_log`] and the other calls about a log do anything. A process says so to its leader, which
    /// calls [`Stream::begin_log`] only if both platforms have it.
    const SHARES_LOGS: bool = false;

    /// From now on a log goes through the stream, from this end to the other: many small writes, which the other end
    /// reads seldom, and of which it must read all even if this process dies. The platform may carry them
    /// in another way than other bytes. Called at most once, after the VMID was written, and before anything else is.
    /// Returns the bytes that the stream holds in writes of any length; 0 if it is not known, as by default.
    ///
    /// # Errors
    /// [`StreamError::Closed`] if the stream can't be used.
    fn begin_log(&mut self) -> Result<usize, StreamError> {
        Ok(0)
    }

    /// The counterpart of [`Stream::begin_log`], called after the VMID was read, and before anything else is, also if the
    /// other end is one of a platform without it: then all bytes come through the stream. Does nothing by default. When
    /// this end is dropped, a later write of the other one must fail.
    fn accept_log(&mut self) {}

    /// As the writer of a log, before the stream is dropped: the reader must not act upon the log. On a platform that does
    /// it the reader knows that as soon as it sees the end, whatever becomes of this process; by default nothing happens. The
    /// node holds a spinlock, so it makes no system call.
    fn revoke_log(&self) {}

    /// As the reader of a log that has ended: what is known of the writer. [`LogWriterEnd::Certain`] is reported only
    /// if no thread of the writer's process can run any of its code, or the node itself has dropped its end. By default
    /// nothing is known.
    fn end_of_log(&self) -> LogWriterEnd {
        LogWriterEnd::Unknown
    }
}

/// The state of a log's writer, as its reader knows it after the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogWriterEnd {
    /// The platform can't say more than that the stream has ended.
    Unknown,
    /// The writer has called [`Stream::revoke_log`].
    Revoked,
    /// The writer's process, or its node, has ended without revoking the log: it runs no more.
    Certain,
}
