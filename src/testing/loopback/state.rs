//! The nodes and pipes of a network, linked by their numbers.

use super::pipe::{Pipe, PipeEnd, Role, Watch};
use crate::Vmid;
use crate::invariant::Count;
use crate::pal::{Interest, READY_AT_ONCE, ReadyList, Time, Token};

/// A node of the network.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// `None` if the slot is free.
    vmid: Option<Vmid>,
    is_listening: bool,
    listener_watched: bool,
    backlog_first: Option<usize>,
    backlog_last: Option<usize>,
    /// The watched ends. An end that is reported moves to the end of the list, so that every end is
    /// reported in turn when more are ready than one report holds.
    watched_first: Option<PipeEnd>,
    watched_last: Option<PipeEnd>,
    watched: usize,
}

impl Node {
    const FREE: Node = Node {
        vmid: None,
        is_listening: true,
        listener_watched: true,
        backlog_first: None,
        backlog_last: None,
        watched_first: None,
        watched_last: None,
        watched: 0,
    };
}

#[derive(Debug)]
pub(super) struct State<const NODES: usize, const PIPES: usize, const BYTES: usize> {
    nodes: [Node; NODES],
    pipes: [Pipe<BYTES>; PIPES],
    /// Pipes below this number were used before; the free ones of them are listed from `free`.
    fresh: usize,
    free: Option<usize>,
    pub(super) now: Time,
}

impl<const NODES: usize, const PIPES: usize, const BYTES: usize> State<NODES, PIPES, BYTES> {
    pub(super) const fn new() -> Self {
        State {
            nodes: [Node::FREE; NODES],
            pipes: [const { Pipe::new() }; PIPES],
            fresh: 0,
            free: None,
            now: Time(0),
        }
    }

    pub(super) fn pipe(&mut self, pipe: usize) -> Option<&mut Pipe<BYTES>> {
        self.pipes.get_mut(pipe)
    }

    pub(super) fn join(&mut self, vmid: Vmid) -> Option<usize> {
        if self.find(vmid).is_some() {
            return None;
        }
        let place = self.nodes.iter().position(|node| node.vmid.is_none())?;
        *self.nodes.get_mut(place)? = Node {
            vmid: Some(vmid),
            ..Node::FREE
        };
        Some(place)
    }

    /// Removes a node: closes its listener and the streams that it has not accepted. Its other streams may
    /// live longer, but are not watched, so that the slot can be reused.
    pub(super) fn leave(&mut self, place: usize) {
        while let Some(end) = self.nodes.get(place).and_then(|node| node.watched_first) {
            self.unwatch(place, end);
        }
        self.stop_listening(place);
        if let Some(node) = self.nodes.get_mut(place) {
            node.vmid = None;
        }
    }

    /// Closes the listener, and the streams that were not accepted.
    pub(super) fn stop_listening(&mut self, place: usize) {
        if let Some(node) = self.nodes.get_mut(place) {
            node.is_listening = false;
        }
        while let Some(pipe) = self.accept(place) {
            self.close(
                place,
                PipeEnd {
                    pipe,
                    role: Role::Reader,
                },
            );
        }
    }

    pub(super) fn find(&self, vmid: Vmid) -> Option<usize> {
        let is_it = |node: &Node| node.vmid == Some(vmid) && node.is_listening;
        self.nodes.iter().position(is_it)
    }

    /// Opens a pipe of the node at `opener` and adds it to the backlog of the node at `place`; `None` if no pipe is free.
    pub(super) fn connect(&mut self, opener: usize, place: usize) -> Option<usize> {
        let pipe = match self.free {
            Some(pipe) => pipe,
            None => self.fresh,
        };
        let new = self.pipes.get_mut(pipe)?;
        match self.free {
            Some(_) => self.free = new.next,
            None => self.fresh.increment(),
        }
        new.open(opener);
        let node = self.nodes.get_mut(place)?;
        match node.backlog_last.replace(pipe) {
            None => node.backlog_first = Some(pipe),
            Some(last) => self.pipes.get_mut(last)?.next = Some(pipe),
        }
        Some(pipe)
    }

    pub(super) fn accept(&mut self, place: usize) -> Option<usize> {
        let node = self.nodes.get_mut(place)?;
        let pipe = node.backlog_first?;
        let accepted = self.pipes.get_mut(pipe)?;
        node.backlog_first = accepted.next.take();
        if node.backlog_first.is_none() {
            node.backlog_last = None;
        }
        Some(pipe)
    }

    /// Closes an end of the node at `place`. The pipe is free when both ends are closed.
    pub(super) fn close(&mut self, place: usize, end: PipeEnd) {
        self.unwatch(place, end);
        let free = self.free;
        let Some(pipe) = self.pipe(end.pipe) else {
            return;
        };
        match end.role {
            Role::Writer => pipe.writer_open = false,
            Role::Reader => pipe.reader_open = false,
        }
        if !pipe.writer_open && !pipe.reader_open {
            pipe.next = free;
            self.free = Some(end.pipe);
        }
    }

    pub(super) fn watch_listener(&mut self, place: usize, on: bool) {
        if let Some(node) = self.nodes.get_mut(place) {
            node.listener_watched = on;
        }
    }

    fn watch_of(&mut self, end: PipeEnd) -> Option<&mut Option<Watch>> {
        Some(self.pipe(end.pipe)?.watch(end.role))
    }

    pub(super) fn watch(&mut self, place: usize, end: PipeEnd, token: Token, interest: Interest) {
        let Some(node) = self.nodes.get_mut(place) else {
            return;
        };
        let prev = node.watched_last.replace(end);
        node.watched.increment();
        if prev.is_none() {
            node.watched_first = Some(end);
        }
        if let Some(watch) = self.watch_of(end) {
            *watch = Some(Watch {
                token,
                interest,
                prev,
                next: None,
            });
        }
        if let Some(Some(prev)) = prev.and_then(|prev| self.watch_of(prev)) {
            prev.next = Some(end);
        }
    }

    pub(super) fn rewatch(&mut self, end: PipeEnd, token: Token, interest: Interest) {
        if let Some(Some(watch)) = self.watch_of(end) {
            watch.token = token;
            watch.interest = interest;
        }
    }

    /// Removes an end from its node's list, if it is there.
    pub(super) fn unwatch(&mut self, place: usize, end: PipeEnd) -> Option<Watch> {
        let watch = self.watch_of(end)?.take()?;
        if let Some(Some(prev)) = watch.prev.and_then(|prev| self.watch_of(prev)) {
            prev.next = watch.next;
        }
        if let Some(Some(next)) = watch.next.and_then(|next| self.watch_of(next)) {
            next.prev = watch.prev;
        }
        let node = self.nodes.get_mut(place)?;
        node.watched.decrement();
        if watch.prev.is_none() {
            node.watched_first = watch.next;
        }
        if watch.next.is_none() {
            node.watched_last = watch.prev;
        }
        Some(watch)
    }

    /// Reports the ready streams of the node at `place`.
    pub(super) fn poll(&mut self, place: usize, ready: &mut ReadyList) {
        let Some(node) = self.nodes.get(place) else {
            return;
        };
        if node.listener_watched && node.backlog_first.is_some() {
            let _ = ready.push((Token::LISTENER, Interest::READ));
        }
        let mut cursor = node.watched_first;
        // An end that is reported moves to the end of the list and must not be visited again.
        for _ in 0..node.watched {
            let Some(end) = cursor else { return };
            if ready.len() == READY_AT_ONCE {
                return;
            }
            let Some(pipe) = self.pipe(end.pipe) else {
                return;
            };
            let Some(Watch {
                token,
                interest,
                next,
                ..
            }) = *pipe.watch(end.role)
            else {
                return;
            };
            cursor = next;
            let readiness = pipe.readiness(end.role, interest);
            if !readiness.is_empty() {
                let _ = ready.push((token, readiness));
                self.unwatch(place, end);
                self.watch(place, end, token, interest);
            }
        }
    }
}
