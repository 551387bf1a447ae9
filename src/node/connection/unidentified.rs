//! Accepting streams, and keeping them until their VMIDs have come.

use super::poll_loop::{RETRY, RETRY_ACCEPT, UnidentifiedStream, WorkerState};
use crate::counters::Refusal;
use crate::invariant::{Count, OrBroken};
use crate::log::log_event;
use crate::node::{Node, StreamKey};
use crate::pal::fault::checked_read;
use crate::pal::{AcceptError, Deadline, Interest, Pal, Stream, StreamError};
use crate::store::total;
use crate::wire::VMID_LENGTH;

/// The most streams that one poll iteration accepts because the listener is ready, so that other peers are served too: each
/// takes some system calls, and a member that joins one more, for a stream to it.
const ACCEPTED_AT_ONCE: usize = 16;

/// The most streams that one poll iteration accepts if the last frames of a process may be on one of them.
const ACCEPTED_AT_MOST: usize = 256;

impl<'m, P: Pal> Node<'m, P> {
    /// Accepts waiting streams, some in each poll iteration.
    pub(super) fn accept(&self, state: &mut WorkerState<'m, P::Stream>) {
        self.accept_up_to(state, ACCEPTED_AT_ONCE);
    }

    /// Accepts the streams that wait now, since the last frames of a process may be on one of them.
    pub(super) fn accept_last(&self, state: &mut WorkerState<'m, P::Stream>) {
        self.accept_up_to(state, ACCEPTED_AT_MOST);
    }

    fn accept_up_to(&self, state: &mut WorkerState<'m, P::Stream>, most: usize) {
        while state.accepted < most {
            state.accepted.increment();
            self.run_upcalls();
            if P::HAS_HANDSHAKE && self.unidentified_are_recent(state) {
                state.exhausted_until = Some(self.pal.now() + RETRY);
                self.pal.watch_listener(false);
                return;
            }
            match self.pal.accept() {
                Ok(stream) => {
                    self.counters.accepted.add(1);
                    self.handle_accept(state, stream);
                }
                Err(AcceptError::WouldBlock) => return,
                Err(AcceptError::NotAllowed) => self.refuse(None, Refusal::NotAllowed),
                Err(AcceptError::Exhausted) => {
                    state.exhausted_until = Some(self.now() + RETRY_ACCEPT);
                    self.pal.watch_listener(false);
                    log_event!(
                        warn,
                        "the platform has no more streams: nobody is accepted for now"
                    );
                    return;
                }
            }
        }
    }

    /// Returns true if no slot is free for one more unidentified connection, and none of them has
    /// had its time for the handshake.
    fn unidentified_are_recent(&self, state: &WorkerState<'m, P::Stream>) -> bool {
        if state.unidentified_count < state.unidentified.len() {
            return false;
        }
        let now = self.pal.now();
        let half = self.config.connect_limit.checked_div(2);
        let mut unidentified = state.unidentified.iter().flatten();
        unidentified.all(|candidate| {
            candidate.until.since(now) > half.or_broken(core::time::Duration::ZERO)
        })
    }

    /// Watches the listener again when it is time. Returns when the worker must run again.
    pub(super) fn accept_again(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        until: Deadline,
    ) -> Deadline {
        let Some(retry) = state.exhausted_until else {
            return until;
        };
        if self.now() >= retry {
            state.exhausted_until = None;
            self.pal.watch_listener(true);
            return until;
        }
        until.min(Deadline::At(retry))
    }

    /// Reads the VMID of a new stream, or keeps the stream as an unidentified connection until the
    /// VMID arrives.
    fn handle_accept(&self, state: &mut WorkerState<'m, P::Stream>, stream: P::Stream) {
        let until = self.now() + self.config.connect_limit;
        let mut candidate = UnidentifiedStream::new(stream, until);
        match read_vmid(&mut candidate) {
            Identification::Vmid(vmid) => self.handle_vmid(state, candidate, vmid),
            Identification::Partial => self.keep_unidentified(state, candidate),
            Identification::End => self.refuse(None, Refusal::NoVmid),
        }
    }

    pub(super) fn keep_unidentified(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        candidate: UnidentifiedStream<P::Stream>,
    ) {
        let candidate = candidate.with_opener();
        let index = state.place_for(&candidate);
        let Some((index, place)) =
            index.and_then(|index| Some((index, state.unidentified.get_mut(index)?)))
        else {
            self.refuse(None, Refusal::NoVmid);
            return;
        };
        if let Some(closed) = place.take() {
            self.unwatch_unidentified(&closed);
            self.refuse(None, Refusal::NoVmid);
        } else {
            state.unidentified_count.increment();
        }
        let token = StreamKey::Unidentified(index).token();
        let watch = || self.pal.watch(&candidate.stream, token, Interest::READ);
        if !candidate.is_watched || watch().is_ok() {
            *place = Some(candidate);
        } else {
            state.unidentified_count.decrement();
        }
    }

    pub(super) fn unwatch_unidentified(&self, candidate: &UnidentifiedStream<P::Stream>) {
        if candidate.is_watched {
            self.pal.unwatch(&candidate.stream);
        }
    }

    /// Reads from an unidentified connection.
    pub(super) fn read_unidentified(&self, state: &mut WorkerState<'m, P::Stream>, index: usize) {
        let Some(place) = state.unidentified.get_mut(index) else {
            return;
        };
        let Some(candidate) = place else { return };
        let identification = read_vmid(candidate);
        if identification == Identification::Partial {
            return;
        }
        let Some(candidate) = state.unidentified.get_mut(index).and_then(Option::take) else {
            return;
        };
        state.unidentified_count.decrement();
        self.unwatch_unidentified(&candidate);
        match identification {
            Identification::Vmid(vmid) => self.handle_vmid(state, candidate, vmid),
            _ => self.refuse(None, Refusal::NoVmid),
        }
    }

    /// Closes the unidentified streams whose time is over. Returns when the worker must check
    /// again.
    pub(super) fn expire_unidentified(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        until: Deadline,
    ) -> Deadline {
        if state.unidentified_count == 0 {
            return until;
        }
        self.retry_identified(state);
        if until == Deadline::Now {
            return until;
        }
        let now = self.now();
        let mut until = until;
        for place in state.unidentified.iter_mut() {
            let Some(candidate) = place else { continue };
            if candidate.length == VMID_LENGTH {
                let soon = now + RETRY;
                until = until.min(Deadline::At(soon));
                continue;
            }
            if candidate.until > now {
                until = until.min(Deadline::At(candidate.until));
                continue;
            }
            self.unwatch_unidentified(candidate);
            *place = None;
            state.unidentified_count.decrement();
            self.refuse(None, Refusal::NoVmid);
        }
        until
    }

    /// Retries the connections whose VMID is known but whose peer slot was not free yet.
    fn retry_identified(&self, state: &mut WorkerState<'m, P::Stream>) {
        for index in 0..state.unidentified.len() {
            let place = state.unidentified.get(index).and_then(Option::as_ref);
            if place.is_some_and(|candidate| candidate.length == VMID_LENGTH) {
                self.read_unidentified(state, index);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Identification {
    Vmid(u32),
    Partial,
    End,
}

/// Reads the VMID and no further byte.
fn read_vmid<S: Stream>(candidate: &mut UnidentifiedStream<S>) -> Identification {
    loop {
        let Some(missing) = candidate
            .vmid
            .get_mut(candidate.length..)
            .filter(|rest| !rest.is_empty())
        else {
            return Identification::Vmid(u32::from_le_bytes(candidate.vmid));
        };
        let room = missing.len();
        match checked_read(candidate.stream.read(missing), room) {
            Ok(0) | Err(StreamError::Closed) => return Identification::End,
            Ok(count) => candidate.length = total!(candidate.length, count),
            Err(StreamError::Interrupted) => {}
            Err(StreamError::WouldBlock) => return Identification::Partial,
        }
    }
}
