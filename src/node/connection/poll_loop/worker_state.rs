//! The state that the poll loop keeps from one poll iteration to the next.

use core::cmp::Reverse;

use super::Retry;
use crate::Vmid;
use crate::error::Error;
use crate::invariant::Count;
use crate::node::AdaptiveSpin;
use crate::node::succession::LogKeyFrame;
use crate::pal::{ReadyList, Stream, Time};
use crate::store::{Arena, Table, bytes_for, memory_sum};
use crate::wire::VMID_LENGTH;

/// An accepted stream whose process has not sent its VMID yet.
pub(crate) struct UnidentifiedStream<S> {
    pub(in crate::node) stream: S,
    pub(in crate::node) vmid: [u8; VMID_LENGTH],
    pub(in crate::node) length: usize,
    /// The frame with the key of a log, as far as it has come.
    pub(in crate::node) key: LogKeyFrame,
    pub(in crate::node) until: Time,
    /// The platform reports what arrives. It must not report frames that nothing reads yet, behind a VMID
    /// that is known: the worker would not sleep.
    pub(in crate::node) is_watched: bool,
    /// The process that has opened it, if the platform knows that: read when the stream is kept.
    pub(in crate::node) opener: Option<u32>,
}

impl<S: Stream> UnidentifiedStream<S> {
    /// Makes the state of a stream that was just accepted.
    pub(in crate::node::connection) fn new(stream: S, until: Time) -> Self {
        UnidentifiedStream {
            stream,
            vmid: [0; VMID_LENGTH],
            length: 0,
            key: LogKeyFrame::default(),
            until,
            is_watched: true,
            opener: None,
        }
    }

    /// Records which process has opened the stream, for a stream that is kept. Most streams have their VMID at once, and need
    /// no such system call.
    pub(in crate::node::connection) fn with_opener(self) -> Self {
        UnidentifiedStream {
            opener: self.opener.or_else(|| self.stream.opener()),
            ..self
        }
    }

    /// Makes the state of a stream whose VMID is known, and which the worker tries to identify again in a while.
    pub(in crate::node::connection) fn of(stream: S, vmid: Vmid, until: Time) -> Self {
        UnidentifiedStream {
            vmid: vmid.get().to_le_bytes(),
            length: VMID_LENGTH,
            is_watched: false,
            ..UnidentifiedStream::new(stream, until)
        }
    }
}

/// The state of the poll loop. Its lock is a token: the thread that holds it is the worker.
pub(crate) struct WorkerState<'m, S> {
    pub(in crate::node::connection) unidentified: Table<'m, Option<UnidentifiedStream<S>>>,
    pub(in crate::node::connection) unidentified_count: usize,
    pub(super) ready: &'m mut ReadyList,
    pub(super) spin: AdaptiveSpin,
    /// The time of the last readiness event. Spinning is judged by the time from one such event to
    /// the next, not by the wait alone: on a single core the peer may have run before the wait
    /// began.
    pub(super) last_ready: Time,
    /// The platform has no more streams: the worker does not watch the listener before this time,
    /// or before a stream was closed.
    pub(in crate::node::connection) exhausted_until: Option<Time>,
    /// The number of streams that this poll iteration has accepted.
    pub(in crate::node::connection) accepted: usize,
    /// The time of the next attempt to connect to a peer whose backlog was full.
    pub(super) next_try: Option<Time>,
    /// The round of the scheduled peers.
    pub(super) round: Round,
}

/// A round serves the peers that were scheduled when it began, in as many poll iterations as their number needs.
pub(super) struct Round {
    /// The number of peers that are still to be served.
    pub(super) left: usize,
    /// The number of peers that were scheduled again.
    pub(super) relisted: usize,
    /// When the peers that were served need the worker again.
    pub(super) retry: Retry,
}

impl Round {
    pub(super) fn new(left: usize) -> Round {
        Round {
            left,
            relisted: 0,
            retry: Retry::No,
        }
    }
}

impl<'m, S: Stream> WorkerState<'m, S> {
    pub(crate) const fn bytes(unidentified: usize) -> usize {
        memory_sum!(
            bytes_for::<Option<UnidentifiedStream<S>>>(unidentified),
            bytes_for::<ReadyList>(1),
        )
    }

    pub(crate) fn new(arena: &mut Arena<'m>, unidentified: usize) -> Result<Self, Error> {
        Ok(WorkerState {
            unidentified: arena.alloc_table(unidentified, |_| None),
            unidentified_count: 0,
            ready: arena.alloc_with(|_| ReadyList::new())?,
            spin: AdaptiveSpin::new(),
            last_ready: Time(0),
            exhausted_until: None,
            accepted: 0,
            next_try: None,
            round: Round::new(0),
        })
    }

    /// Returns the place for one more unidentified connection: a free one, or else that of the process that has opened
    /// most of them, the oldest one. The platform may not know the processes: then it is the oldest one of all.
    pub(in crate::node::connection) fn place_for(
        &self,
        candidate: &UnidentifiedStream<S>,
    ) -> Option<usize> {
        let mut chosen = None;
        for (index, place) in self.unidentified.iter().enumerate() {
            let Some(stream) = place else {
                return Some(index);
            };
            let is_of_same = |other: &UnidentifiedStream<S>| other.opener == stream.opener;
            let of_same = self.unidentified.iter().flatten();
            let count = of_same.filter(|other| is_of_same(other)).count();
            let most = (
                count.plus(is_of_same(candidate).into()),
                Reverse(stream.until),
            );
            if chosen.is_none_or(|(_, chosen)| most > chosen) {
                chosen = Some((index, most));
            }
        }
        chosen.map(|(index, _)| index)
    }

    /// Returns true if a stream that claims the same VMID waits for the end of the peer that has
    /// it.
    pub(in crate::node::connection) fn has_claim(&self, claimed: &UnidentifiedStream<S>) -> bool {
        let mut waiting = self.unidentified.iter().flatten();
        waiting.any(|other| other.length == VMID_LENGTH && other.vmid == claimed.vmid)
    }
}
