//! The platform of a simulated process: the world of the present thread, and a place in it. A wait
//! switches to the next coroutine.

use std::sync::atomic::{AtomicBool, Ordering};

use libos_ipc::Vmid;
use libos_ipc::pal::{
    AcceptError, ConnectError, Deadline, Event, Interest, LogWriterEnd, OutOfResources, Pal,
    ReadyList, Stream, StreamError, Time, Token,
};

use super::network::End;
use super::world::{pause, with};

/// The platform of one process. With `READS`, a waiting call may read its answer itself.
#[derive(Clone, Copy)]
pub(crate) struct SimPal<const READS: bool>(pub(crate) usize);

/// The pause of a thread that waits for another, in nanoseconds: at first, and the longest one.
const CONTENDED: u64 = 20_000;
const CONTENDED_LONG: u64 = 1_000_000;

/// An end of a simulated stream.
pub(crate) struct SimStream(End);

/// A flag, and the place whose threads poll it.
pub(crate) struct SimEvent {
    place: usize,
    is_set: AtomicBool,
}

impl Event for SimEvent {
    fn set(&self) {
        self.is_set.store(true, Ordering::Relaxed);
        with(|world| world.network.mark_changed(self.place));
    }

    fn clear(&self) {
        self.is_set.store(false, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }
}

impl Stream for SimStream {
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        with(|world| {
            let read = world.network.read(self.0, buffer);
            if let Ok(count) = read {
                world.trace.record_bytes(&buffer[..count]);
            }
            world.handle_stream_events();
            read
        })
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        let written = with(|world| {
            let written = world.network.write(self.0, parts);
            world
                .trace
                .record(written.map_or(u64::MAX, |count| count as u64));
            world.handle_stream_events();
            written
        });
        // The process may be stopped in the middle of a write.
        while let Some(until) = with(|world| world.network.stopped_writer(self.0)) {
            pause(Some(until));
        }
        written
    }

    fn opener(&self) -> Option<u32> {
        with(|world| world.network.opener(self.0))
    }

    const SHARES_LOGS: bool = true;

    fn revoke_log(&self) {
        with(|world| world.network.revoke_log(self.0));
    }

    fn end_of_log(&self) -> LogWriterEnd {
        with(|world| world.network.end_of_log(self.0))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        with(|world| {
            world.network.close(self.0);
            world.handle_stream_events();
        });
    }
}

impl<const READS: bool> SimPal<READS> {
    /// Waits until `poll` returns a value or the time is reached.
    fn wait_for<T>(
        until: Deadline,
        mut poll: impl FnMut(&mut super::world::World) -> Option<T>,
    ) -> Option<T> {
        loop {
            let (found, is_time) = with(|world| {
                let is_time = until.is_over(|| Time(world.network.now));
                (poll(world), is_time)
            });
            if found.is_some() || is_time {
                return found;
            }
            pause(until.time().map(|until| until.0));
        }
    }
}

impl<const READS: bool> Pal for SimPal<READS> {
    type Stream = SimStream;
    type Event = SimEvent;
    const SUPPORTS_CALLER_READ: bool = READS;

    fn event(&self) -> Result<SimEvent, OutOfResources> {
        Ok(SimEvent {
            place: self.0,
            is_set: AtomicBool::new(false),
        })
    }

    fn connect(&self, peer: Vmid) -> Result<SimStream, ConnectError> {
        with(|world| world.network.connect(self.0, peer.get())).map(SimStream)
    }

    fn accept(&self) -> Result<SimStream, AcceptError> {
        with(|world| world.network.accept(self.0)).map(SimStream)
    }

    fn stop_listening(&self) {
        with(|world| world.network.leave(self.0));
    }

    fn watch_listener(&self, on: bool) {
        with(|world| world.network.watch_listener(self.0, on));
    }

    fn watch(
        &self,
        stream: &SimStream,
        token: Token,
        interest: Interest,
    ) -> Result<(), OutOfResources> {
        with(|world| world.network.watch(self.0, stream.0, token, interest));
        Ok(())
    }

    fn rewatch(&self, stream: &SimStream, token: Token, interest: Interest) {
        with(|world| world.network.watch(self.0, stream.0, token, interest));
    }

    fn unwatch(&self, stream: &SimStream) {
        with(|world| world.network.unwatch(self.0, stream.0));
    }

    fn wait(&self, ready: &mut ReadyList, until: Deadline) {
        // Other coroutines run even if there is something to do at once.
        pause(Some(0));
        Self::wait_for(until, |world| {
            let woken = world.network.poll_ready(self.0, ready);
            (woken || !ready.is_empty()).then_some(())
        });
    }

    fn wake(&self) {
        with(|world| world.network.wake(self.0));
    }

    fn wait_event(&self, event: &SimEvent, until: Deadline) {
        Self::wait_for(until, |_| event.is_set().then_some(()));
    }

    fn wait_readable(&self, stream: &SimStream, event: &SimEvent, until: Deadline) -> bool {
        let woken = Self::wait_for(until, |world| {
            if event.is_set() {
                Some(false)
            } else if world.network.is_readable(stream.0) {
                Some(true)
            } else {
                None
            }
        });
        woken.unwrap_or(false)
    }

    fn end(&self, peer: Vmid) -> bool {
        with(|world| !world.network.is_dead(self.0) && world.end_process(peer.get()))
    }

    fn is_secure(&self) -> bool {
        with(|world| world.plan.is_secure())
    }

    fn now(&self) -> Time {
        Time(with(|world| world.network.now))
    }

    /// Runs other coroutines: one of them may have what this one waits for.
    fn contended(attempts: u32) {
        // A leader's own call waits for a log that stands still, as long as the heir may take to read.
        let span = (u64::from(attempts) + 1) * CONTENDED;
        let now = with(|world| world.network.now);
        pause(Some(now + span.min(CONTENDED_LONG)));
    }
}
