//! The waits of a platform with a defect, and their reports.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::collections::BTreeSet;

use super::Defect;
use super::platform::Defective;
use super::state::lock;
use crate::pal::{Deadline, Interest, Pal, READY_AT_ONCE, ReadyList, Token};

impl<P: Pal> Defective<P> {
    /// Returns true if the stream, which is not watched, has ended.
    pub(super) fn has_ended(&self, stream: &P::Stream) -> bool {
        const PROBE: Token = Token(1 << 60);
        if self.inner.watch(stream, PROBE, Interest::HANG_UP).is_err() {
            return false;
        }
        let mut ready = ReadyList::new();
        self.inner.wait(&mut ready, Deadline::Now);
        self.inner.unwatch(stream);
        ready.iter().any(|(token, _)| *token == PROBE)
    }

    /// Waits without the listener, unless something is ready at once.
    pub(super) fn wait_without_listener(&self, ready: &mut ReadyList, until: Deadline) {
        self.inner.wait(ready, Deadline::Now);
        if ready.is_empty() && !self.state.is_woken.swap(false, Ordering::SeqCst) {
            self.inner.watch_listener(false);
            self.inner.wait(ready, until);
            let listens = self.state.listens.load(Ordering::SeqCst);
            self.inner.watch_listener(listens);
        }
    }

    /// Waits in steps of a second, and ends only between two steps if it was woken.
    pub(super) fn wait_in_steps(&self, ready: &mut ReadyList, until: Deadline) {
        while !self.state.is_woken.swap(false, Ordering::SeqCst) {
            let step = Deadline::At(self.inner.now() + Duration::from_secs(1));
            self.inner.wait(ready, until.min(step));
            if until <= step || !ready.is_empty() {
                return;
            }
        }
    }

    /// Changes what a wait reports.
    pub(super) fn alter(&self, ready: &mut ReadyList) {
        let state = &self.state;
        let found = core::mem::take(ready);
        let watches = lock(&state.watches).clone();
        let is_almost_full = found.len() + 8 >= READY_AT_ONCE;
        for (token, mut readiness) in found {
            let interest = watches.get(&token.0).copied();
            match state.defect {
                Defect::EdgeTriggered
                    if token != Token::LISTENER && !lock(&state.reported).insert(token.0) =>
                {
                    continue;
                }
                Defect::ListenerIsLast if token == Token::LISTENER && is_almost_full => continue,
                Defect::ZeroIsNoToken if token.0 == 0 => continue,
                Defect::UnwatchEndsAll if token != Token::LISTENER && interest.is_none() => {
                    continue;
                }
                Defect::HangUpForReadOnly
                    if interest.is_some_and(|interest| !interest.contains(Interest::READ)) =>
                {
                    readiness.remove(Interest::HANG_UP);
                }
                Defect::WriteOnce if lock(&state.muted).contains(&token.0) => {
                    readiness.remove(Interest::WRITE);
                }
                Defect::FirstOnly
                    if watches
                        .keys()
                        .take(READY_AT_ONCE)
                        .all(|first| *first != token.0)
                        && token != Token::LISTENER =>
                {
                    continue;
                }
                _ => {}
            }
            if !readiness.is_empty() {
                let _ = ready.push((token, readiness));
            }
        }
        if self.has(Defect::EdgeTriggered) && ready.is_empty() {
            let mut probe = ReadyList::new();
            self.inner.wait(&mut probe, Deadline::Now);
            let still: BTreeSet<_> = probe.iter().map(|(token, _)| token.0).collect();
            lock(&state.reported).retain(|token| still.contains(token));
        }
        if self.has(Defect::OldToken)
            && !ready.is_empty()
            && let Some(old) = *lock(&state.old)
        {
            let _ = ready.push((old, Interest::READ));
        }
    }
}
