//! The heir's end of the log.

use crate::node::StreamKey;
use crate::pal::{Interest, LogWriterEnd, Pal, Stream};
use crate::wire::FrameReader;

/// The end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogEnd {
    /// The end has not come yet.
    Open,
    /// This process does not have the leader's state.
    Unfit,
    /// This process has the leader's last state.
    Hot {
        /// The leader has resigned, or the platform knows that it has ended.
        is_certain: bool,
    },
}

/// The heir's end of the log, and the state of its reading.
pub(super) struct LogReader<'m, S> {
    pub(super) stream: Option<S>,
    pub(super) frames: FrameReader<'m>,
    pub(super) stage: ReadStage,
    pub(super) has_ended: bool,
    /// The platform's last answer about the leader.
    pub(super) writer_end: LogWriterEnd,
    /// The platform reports the end of the stream.
    pub(super) is_watched: bool,
}

/// The kind of the records that come next in the log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadStage {
    /// The slices of the state come.
    State,
    /// The state is complete; the operations come.
    Operations,
    /// The leader has resigned.
    Resigned,
    /// A record was not as it must be.
    Broken,
}

impl<S: Stream> LogReader<'_, S> {
    pub(super) fn reset<P: Pal<Stream = S>>(&mut self, pal: &P) {
        self.close(pal);
        self.frames.clear();
        self.stage = ReadStage::State;
        self.has_ended = false;
        self.writer_end = LogWriterEnd::Unknown;
    }

    /// Closes the stream.
    pub(super) fn close<P: Pal<Stream = S>>(&mut self, pal: &P) {
        self.unwatch(pal);
        self.stream = None;
    }

    /// Watches for the end of the stream, where that proves something.
    pub(super) fn watch<P: Pal<Stream = S>>(&mut self, pal: &P) {
        let token = StreamKey::Log.token();
        self.is_watched = S::SHARES_LOGS
            && self
                .stream
                .as_ref()
                .is_some_and(|stream| pal.watch(stream, token, Interest::HANG_UP).is_ok());
    }

    pub(super) fn unwatch<P: Pal<Stream = S>>(&mut self, pal: &P) {
        if let Some(stream) = self.stream.as_ref().filter(|_| self.is_watched) {
            pal.unwatch(stream);
        }
        self.is_watched = false;
    }

    /// Asks the platform what it knows of the leader, whose log has ended. A leader that lives may revoke it later.
    pub(super) fn ask_for_writer_end(&mut self) -> LogWriterEnd {
        if let Some(stream) = &self.stream {
            self.writer_end = stream.end_of_log();
        }
        self.writer_end
    }
}
