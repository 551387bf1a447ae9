//! One node of a network.

use super::Network;
use super::pipe::{PipeEnd, Role};
use crate::Vmid;
use crate::pal::{
    AcceptError, ConnectError, Deadline, Event, Flag, Interest, OutOfResources, Pal, ReadyList,
    Stream, StreamError, Time, Token,
};

/// One node of a [`Network`]. Dropping it closes its listener; its streams are closed by themselves.
#[derive(Debug)]
pub struct Loopback<'n, const NODES: usize, const PIPES: usize, const BYTES: usize> {
    network: &'n Network<NODES, PIPES, BYTES>,
    node: usize,
}

impl<'n, const NODES: usize, const PIPES: usize, const BYTES: usize>
    Loopback<'n, NODES, PIPES, BYTES>
{
    pub(super) fn new(network: &'n Network<NODES, PIPES, BYTES>, node: usize) -> Self {
        Loopback { network, node }
    }

    fn stream(&self, pipe: usize, role: Role) -> LoopbackStream<'n, NODES, PIPES, BYTES> {
        LoopbackStream {
            network: self.network,
            node: self.node,
            end: PipeEnd { pipe, role },
        }
    }
}

impl<const NODES: usize, const PIPES: usize, const BYTES: usize> Drop
    for Loopback<'_, NODES, PIPES, BYTES>
{
    fn drop(&mut self) {
        self.network.state.lock().leave(self.node);
    }
}

/// One end of a stream between two nodes of a [`Network`].
#[derive(Debug)]
pub struct LoopbackStream<'n, const NODES: usize, const PIPES: usize, const BYTES: usize> {
    network: &'n Network<NODES, PIPES, BYTES>,
    node: usize,
    end: PipeEnd,
}

impl<const NODES: usize, const PIPES: usize, const BYTES: usize> Stream
    for LoopbackStream<'_, NODES, PIPES, BYTES>
{
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        match self.network.state.lock().pipe(self.end.pipe) {
            Some(pipe) => pipe.read(self.end.role, buffer),
            None => Err(StreamError::Closed),
        }
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        match self.network.state.lock().pipe(self.end.pipe) {
            Some(pipe) => pipe.write(self.end.role, parts),
            None => Err(StreamError::Closed),
        }
    }

    fn opener(&self) -> Option<u32> {
        let mut state = self.network.state.lock();
        let opener = state.pipe(self.end.pipe)?.opener;
        u32::try_from(opener).ok()
    }
}

impl<const NODES: usize, const PIPES: usize, const BYTES: usize> Drop
    for LoopbackStream<'_, NODES, PIPES, BYTES>
{
    fn drop(&mut self) {
        self.network.state.lock().close(self.node, self.end);
    }
}

impl<'n, const NODES: usize, const PIPES: usize, const BYTES: usize> Pal
    for Loopback<'n, NODES, PIPES, BYTES>
{
    type Stream = LoopbackStream<'n, NODES, PIPES, BYTES>;
    type Event = Flag;

    const SUPPORTS_CALLER_READ: bool = false;
    const MAY_BE_SECURE: bool = false;

    fn event(&self) -> Result<Flag, OutOfResources> {
        Ok(Flag::default())
    }

    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        let mut state = self.network.state.lock();
        let listener = state.find(peer).ok_or(ConnectError::NotListening)?;
        let pipe = state
            .connect(self.node, listener)
            .ok_or(ConnectError::Busy)?;
        Ok(self.stream(pipe, Role::Writer))
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        let pipe = self
            .network
            .state
            .lock()
            .accept(self.node)
            .ok_or(AcceptError::WouldBlock)?;
        Ok(self.stream(pipe, Role::Reader))
    }

    fn watch_listener(&self, on: bool) {
        self.network.state.lock().watch_listener(self.node, on);
    }

    fn stop_listening(&self) {
        self.network.state.lock().stop_listening(self.node);
    }

    fn watch(
        &self,
        stream: &Self::Stream,
        token: Token,
        interest: Interest,
    ) -> Result<(), OutOfResources> {
        self.network
            .state
            .lock()
            .watch(self.node, stream.end, token, interest);
        Ok(())
    }

    fn rewatch(&self, stream: &Self::Stream, token: Token, interest: Interest) {
        self.network
            .state
            .lock()
            .rewatch(stream.end, token, interest);
    }

    fn unwatch(&self, stream: &Self::Stream) {
        self.network.state.lock().unwatch(self.node, stream.end);
    }

    /// The wait returns at once: within one thread nothing could become ready during the wait.
    fn wait(&self, ready: &mut ReadyList, _until: Deadline) {
        self.network.state.lock().poll(self.node, ready);
        if ready.is_empty() {
            core::hint::spin_loop();
        }
    }

    /// The wake does nothing: every wait returns at once.
    fn wake(&self) {}

    fn wait_event(&self, event: &Flag, _until: Deadline) {
        if !event.is_set() {
            core::hint::spin_loop();
        }
    }

    fn wait_readable(&self, _: &Self::Stream, _: &Flag, _: Deadline) -> bool {
        false
    }

    fn now(&self) -> Time {
        self.network.now()
    }
}
