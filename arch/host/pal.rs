//! The host as a platform: epoll for readiness, futexes for events.

use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt};
use rustix::process::{PidfdFlags, Signal, Uid, getpid, pidfd_open, pidfd_send_signal};

use super::{Host, HostEvent, HostStream, Transport, clock};
use crate::Vmid;
use crate::pal::{
    AcceptError, ConnectError, Deadline, Event, Interest, OutOfResources, Pal, READY_AT_ONCE,
    ReadyList, Stream, StreamError, Time, Token,
};

/// The token of the epoll set's report of [`Pal::wake`].
pub(super) const WAKE: u64 = Token::LISTENER.0 - 1;

/// A wait that is shorter than this is exact to the nanosecond, which takes one system call more: `epoll` counts in
/// milliseconds. A longer wait sleeps in `epoll` until less than this is left.
const EXACT_BELOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};
/// The longest time limit for epoll, about 23 days: a wait may end early.
const MAX_TIMEOUT: Timespec = Timespec {
    tv_sec: 2_000_000,
    tv_nsec: 0,
};

impl Pal for Host {
    type Stream = HostStream;
    type Event = HostEvent;

    const SUPPORTS_CALLER_READ: bool = true;
    const MAY_BE_SECURE: bool = false;

    fn requires_secure(&self) -> bool {
        matches!(self.transport, Transport::Network { .. }) && !self.allows_plain
    }

    fn event(&self) -> core::result::Result<HostEvent, OutOfResources> {
        Ok(HostEvent::default())
    }

    fn connect(&self, peer: Vmid) -> core::result::Result<HostStream, ConnectError> {
        let socket = match &self.transport {
            Transport::Unix { base, .. } => base.connect(peer).map_err(connect_error)?,
            Transport::Network { addresses, .. } => {
                let address = addresses.on_network(peer);
                let address = address.map_err(|_| ConnectError::NotListening)?;
                address.connect().map_err(connect_error)?
            }
        };
        let stream = HostStream::new(socket);
        if self.transport.admits(&stream) {
            Ok(stream)
        } else {
            Err(ConnectError::NotAllowed)
        }
    }

    fn end(&self, peer: Vmid) -> bool {
        match &self.transport {
            Transport::Unix { base, user, .. } => match base.connect(peer) {
                Ok(socket) => end_listener(&socket, *user),
                Err(error) => connect_error(error) == ConnectError::NotListening,
            },
            // The peer may be on another machine.
            Transport::Network { .. } => false,
        }
    }

    fn clean_up_after(&self, peer: Vmid) {
        if let Transport::Unix { base, .. } = &self.transport {
            base.clean_up_after(peer);
        }
    }

    fn accept(&self) -> core::result::Result<HostStream, AcceptError> {
        // A thread that waits for an answer reads with a blocking call; all other reads request not
        // to wait.
        let socket = loop {
            match accept_with(self.transport.listener(), SocketFlags::CLOEXEC) {
                Ok(socket) => break socket,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return Err(AcceptError::WouldBlock),
                Err(_) => return Err(AcceptError::Exhausted),
            }
        };
        if let Transport::Network { listener, .. } = &self.transport {
            // A connection that has ended meanwhile takes no options: the node reads its end.
            let _ = listener.address.prepare(&socket);
        }
        let stream = HostStream::new(socket);
        if self.transport.admits(&stream) {
            stream
                .allow_blocking()
                .map_err(|_| AcceptError::Exhausted)?;
            Ok(stream)
        } else {
            Err(AcceptError::NotAllowed)
        }
    }

    fn watch_listener(&self, on: bool) {
        let flags = if on {
            EventFlags::IN
        } else {
            EventFlags::empty()
        };
        let token = EventData::new_u64(Token::LISTENER.0);
        // The listener is in the set, and a change needs no memory, so this can't fail.
        let _ = epoll::modify(&self.epoll, self.transport.listener(), token, flags);
    }

    fn stop_listening(&self) {
        match &self.transport {
            Transport::Unix { listener, .. } => listener.close(),
            Transport::Network { listener, .. } => listener.close(),
        }
    }

    fn watch(
        &self,
        stream: &HostStream,
        token: Token,
        interest: Interest,
    ) -> core::result::Result<(), OutOfResources> {
        let flags = epoll_flags(interest);
        epoll::add(&self.epoll, stream, EventData::new_u64(token.0), flags)
            .map_err(|_| OutOfResources)
    }

    fn rewatch(&self, stream: &HostStream, token: Token, interest: Interest) {
        let flags = epoll_flags(interest);
        // As for the listener, this can't fail for a stream that is watched.
        let _ = epoll::modify(&self.epoll, stream, EventData::new_u64(token.0), flags);
    }

    fn unwatch(&self, stream: &HostStream) {
        let _ = epoll::delete(&self.epoll, stream);
    }

    fn wait(&self, ready: &mut ReadyList, until: Deadline) {
        let mut space = [const { MaybeUninit::uninit() }; READY_AT_ONCE];
        let mut limit = clock::left(until).map(|left| left.min(MAX_TIMEOUT));
        let events = loop {
            let exact = limit.filter(|limit| *limit > NO_TIME && *limit < EXACT_BELOW);
            if let Some(exact) = exact {
                let mut set = [PollFd::new(&self.epoll, PollFlags::IN)];
                let _ = poll(&mut set, Some(&exact));
                limit = Some(NO_TIME);
            }
            let most = limit.and_then(|limit| limit.checked_sub(EXACT_BELOW).max(Some(NO_TIME)));
            // An error is an interruption: an early return, which the caller allows for.
            let Ok((events, _)) = epoll::wait(&self.epoll, &mut space[..], most.as_ref()) else {
                return;
            };
            if !events.is_empty() || limit.is_none_or(|limit| limit < EXACT_BELOW) {
                break events;
            }
            limit = clock::left(until).map(|left| left.min(MAX_TIMEOUT));
        };
        for event in events {
            let (data, flags) = (event.data.u64(), event.flags);
            if data == WAKE {
                // A wake before this point ends this wait; a later one writes again.
                self.wake_pending.swap(false, Ordering::AcqRel);
            } else {
                let _ = ready.push((Token(data), readiness(flags)));
            }
        }
    }

    fn wake(&self) {
        if !self.wake_pending.swap(true, Ordering::AcqRel) {
            // The write could fail only after 2^64 wakes.
            let _ = rustix::io::write(&self.waker, &1_u64.to_ne_bytes());
        }
    }

    fn wait_event(&self, event: &HostEvent, until: Deadline) {
        event.wait(until);
    }

    fn wait_readable(&self, stream: &HostStream, event: &HostEvent, until: Deadline) -> bool {
        event.wait_readable(stream.as_fd(), until)
    }

    fn read_waiting(
        &self,
        stream: &HostStream,
        event: &HostEvent,
        buffer: &mut [u8],
        until: Deadline,
    ) -> core::result::Result<usize, StreamError> {
        if !event.is_set() {
            let read = stream.read_blocking(buffer, until);
            if read != Err(StreamError::WouldBlock) {
                return read;
            }
        }
        // A blocking read would not see the event. From now on the event ends the wait at once.
        self.wait_readable(stream, event, until);
        stream.read(buffer)
    }

    fn now(&self) -> Time {
        clock::now()
    }
}

const NO_TIME: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

fn epoll_flags(interest: Interest) -> EventFlags {
    if interest.is_empty() {
        // The kernel reports a hang-up even for an empty interest, again and again. With this flag it
        // does so once at most, and each change of the interest takes one call.
        return EventFlags::ONESHOT;
    }
    // On a network the kernel does not report the other end's close as a hang-up of both directions.
    let mut flags = EventFlags::RDHUP;
    if interest.contains(Interest::READ) {
        flags |= EventFlags::IN;
    }
    if interest.contains(Interest::WRITE) {
        flags |= EventFlags::OUT;
    }
    flags
}

fn readiness(flags: EventFlags) -> Interest {
    let mut readiness = Interest::empty();
    readiness.set(Interest::READ, flags.contains(EventFlags::IN));
    readiness.set(Interest::WRITE, flags.contains(EventFlags::OUT));
    let hang_up = EventFlags::HUP | EventFlags::ERR | EventFlags::RDHUP;
    readiness.set(Interest::HANG_UP, flags.intersects(hang_up));
    readiness
}

/// Kills the process that listens at the other end of the socket, if it is of that user. Returns true if it
/// is dead.
fn end_listener(socket: &OwnedFd, user: Uid) -> bool {
    // The kernel keeps the number of the process that has begun to listen with the socket.
    let Ok(listener) = sockopt::socket_peercred(socket) else {
        return false;
    };
    if listener.uid != user || listener.pid == getpid() {
        return false;
    }
    // Only ESRCH says that it is dead: without a descriptor this process does not know.
    let process = match pidfd_open(listener.pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(error) => return error == Errno::SRCH,
    };
    if let Err(error) = pidfd_send_signal(&process, Signal::KILL) {
        return error == Errno::SRCH;
    }
    // The descriptor of a process is readable when it has ended.
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    poll(&mut ended, Some(&NO_TIME)).is_ok_and(|count| count > 0)
}

fn connect_error(error: Errno) -> ConnectError {
    match error {
        Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM
        // The ports of this machine are all in use, or a network is down: the process may still be there.
        | Errno::ADDRNOTAVAIL | Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::TIMEDOUT => {
            ConnectError::Busy
        }
        Errno::ACCESS | Errno::PERM | Errno::PROTOTYPE => ConnectError::NotAllowed,
        _ => ConnectError::NotListening,
    }
}
