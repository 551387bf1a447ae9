//! The host platform: Linux processes of one user over Unix sockets, or processes on a network.
//!
//! *Networks.* [`Host::listen_at`] takes other [`Addresses`]: TCP, or the sockets between virtual machines and their
//! host. There the kernel says nothing of the process at the other end, and others may read along. So a node needs
//! secure streams there (`pal::secure`), unless [`Host::allow_plain`] says otherwise.
//! What is said below of files, users and directories holds for Unix sockets.
//!
//! A member listens at the path `{base}.{vmid}` and connects to its peers at theirs. Only processes
//! of the same user are admitted: the socket files are private from the first moment on, and each
//! end asks the kernel for the user of the other one. Each member has one epoll set for readiness;
//! events are futexes. All members must be in one PID namespace.
//!
//! *Files.* A member removes its socket file when it ends. The leader removes that of a member that was killed, when its
//! connection ends or, if the kernel has not closed the socket by then, later and at the latest at its own end. A lock
//! on the directory (`flock`) keeps that apart from a new process that listens under the same VMID.
//!
//! *Forks.* Executed programs inherit no descriptors. A process that was forked and executes
//! nothing has copies of the descriptors, which do no harm: when a member closes a stream or drops
//! its [`Host`], the connection ends and its address accepts no connection, whatever copies there
//! are. The copy itself must not use the node. If it drops it, this only prints a line on standard
//! error: the node's sockets, streams and thread belong to the creator, and are not changed. The
//! kernel does not report one case: if a member is killed while such a copy lives, its connections
//! stay open, and it counts as alive until the copy ends, too.

mod address;
mod addresses;
mod clock;
mod errors;
mod event;
#[cfg(feature = "succession")]
mod log_ring;
mod network;
mod node;
mod process;
mod proxy;
#[cfg(feature = "secure")]
mod secure;
mod stream;
#[cfg(feature = "trace")]
pub mod trace;

use std::format;
use std::io::{Error, Result};
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt};
use rustix::process::{
    PidfdFlags, Resource, Rlimit, Signal, Uid, geteuid, getpid, getrlimit, pidfd_open,
    pidfd_send_signal, setrlimit,
};

use self::address::{Base, Listener};
pub use self::addresses::Addresses;
use self::errors::exhausted;
pub use self::event::HostEvent;
use self::network::NetworkListener;
pub use self::network::VsockAddress;
pub use self::node::HostNode;
pub use self::proxy::{Proxy, ProxyEnd};
#[cfg(feature = "secure")]
pub use self::secure::{SecureHost, random};
pub use self::stream::HostStream;
use crate::Vmid;
use crate::pal::{
    AcceptError, ConnectError, Deadline, Event, Interest, OutOfResources, Pal, READY_AT_ONCE,
    ReadyList, Stream, StreamError, Time, Token,
};

/// The token of the epoll set's report of [`Pal::wake`].
const WAKE: u64 = Token::LISTENER.0 - 1;

/// A shorter wait is exact to the nanosecond, which takes one system call more: `epoll` counts in
/// milliseconds. A longer wait sleeps in `epoll` until less than this is left.
const EXACT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};
/// The longest time limit of epoll, about 24 days. A wait may end early.
const LONGEST: Timespec = Timespec {
    tv_sec: 2_000_000,
    tv_nsec: 0,
};

/// The host platform of one member.
#[derive(Debug)]
pub struct Host {
    place: Place,
    allows_plain: bool,
    epoll: OwnedFd,
    waker: OwnedFd,
    /// A wake is pending, so another one needs no system call.
    wake_asked: AtomicBool,
}

/// Where a member listens, and finds its peers.
#[derive(Debug)]
enum Place {
    Unix {
        base: Base,
        listener: Listener,
        us: Uid,
    },
    Network {
        addresses: Addresses,
        listener: NetworkListener,
    },
}

impl Place {
    fn listener(&self) -> BorrowedFd<'_> {
        match self {
            Place::Unix { listener, .. } => listener.as_fd(),
            Place::Network { listener, .. } => listener.as_fd(),
        }
    }

    /// Returns true if the process at the other end may be of the family. A network does not tell.
    fn admits(&self, stream: &HostStream) -> bool {
        match self {
            Place::Unix { us, .. } => stream.peer_is(*us),
            Place::Network { .. } => true,
        }
    }
}

impl Host {
    /// Listens at `{base}.{vmid}`, where peers with the same `base` connect. A missing directory is
    /// made, for this user only. A socket file that a dead process left is replaced. A relative
    /// `base` is resolved from the current directory of this moment; only if the whole path would
    /// be too long for a socket it is looked up from the current directory each time, which must
    /// not change then.
    ///
    /// # Errors
    /// If the path is too long for a socket, ends in no file name (but in `/`, `.` or `..`), is
    /// served by a live process, or can't be made; or if the process is out of descriptors. The
    /// text of the error says how to solve it.
    pub fn listen(base: &Path, vmid: Vmid) -> Result<Host> {
        let base = Base::new(base)?;
        let listener = Listener::new(&base, vmid)?;
        Host::over(Place::Unix {
            base,
            listener,
            us: geteuid(),
        })
    }

    /// Listens at a member's address among those.
    ///
    /// # Errors
    /// As [`Host::listen`]; or if the address is taken or not of this machine, or the VMID has none. The text says
    /// how to solve it.
    pub fn listen_at(addresses: &Addresses, vmid: Vmid) -> Result<Host> {
        if let Addresses::Unix(path) = addresses {
            return Host::listen(path, vmid);
        }
        Host::over(Place::Network {
            addresses: addresses.clone(),
            listener: NetworkListener::new(addresses.on_network(vmid)?)?,
        })
    }

    /// Allows plain streams on a network: each process that reaches a member's address can then be a member, and
    /// each machine between can read and change what members send.
    #[must_use]
    pub fn allow_plain(mut self) -> Host {
        self.allows_plain = true;
        self
    }

    fn over(place: Place) -> Result<Host> {
        let failed = |error: Errno| {
            let (advice, error) = (exhausted(error), Error::from(error));
            Error::new(
                error.kind(),
                format!("cannot watch streams: {error}{advice}"),
            )
        };
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
        let waker = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let token = EventData::new_u64(Token::LISTENER.0);
        epoll::add(&epoll, place.listener(), token, EventFlags::IN)?;
        // It is edge-triggered: each write is reported once, so it never has to be read empty.
        epoll::add(
            &epoll,
            &waker,
            EventData::new_u64(WAKE),
            EventFlags::IN | EventFlags::ET,
        )?;
        Ok(Host {
            place,
            allows_plain: false,
            epoll,
            waker,
            wake_asked: AtomicBool::new(false),
        })
    }

    /// Returns the path of this member's Unix socket; `None` on a network.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Unix { listener, .. } => Some(listener.path()),
            Place::Network { .. } => None,
        }
    }

    /// Returns true if the directory of the sockets belongs to this user and no other user may
    /// write there. It is the directory that existed when this member began to listen, wherever its
    /// path leads now. If it is not private, other users can disturb the family, but not join it:
    /// each connection is checked. True on a network, which has no directory.
    pub fn directory_is_private(&self) -> bool {
        match &self.place {
            Place::Unix { base, us, .. } => base.directory_is_private(*us),
            Place::Network { .. } => true,
        }
    }
}

/// The descriptor is readable when [`Node::poll_once`](crate::Node::poll_once) has something to do: a stream is
/// ready, or a thread has called [`Pal::wake`]. It is for the loop of an executor, which must not change the set
/// of what is watched.
impl AsFd for Host {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Pal for Host {
    type Stream = HostStream;
    type Event = HostEvent;

    const SUPPORTS_CALLER_READ: bool = true;
    const MAY_BE_SECURE: bool = false;

    fn requires_secure(&self) -> bool {
        matches!(self.place, Place::Network { .. }) && !self.allows_plain
    }

    fn event(&self) -> core::result::Result<HostEvent, OutOfResources> {
        Ok(HostEvent::default())
    }

    fn connect(&self, peer: Vmid) -> core::result::Result<HostStream, ConnectError> {
        let socket = match &self.place {
            Place::Unix { base, .. } => base.connect(peer).map_err(connect_error)?,
            Place::Network { addresses, .. } => {
                let address = addresses.on_network(peer);
                let address = address.map_err(|_| ConnectError::NotListening)?;
                address.connect().map_err(connect_error)?
            }
        };
        let stream = HostStream::new(socket);
        if self.place.admits(&stream) {
            Ok(stream)
        } else {
            Err(ConnectError::NotAllowed)
        }
    }

    fn end(&self, peer: Vmid) -> bool {
        match &self.place {
            Place::Unix { base, us, .. } => match base.connect(peer) {
                Ok(socket) => end_listener(&socket, *us),
                Err(error) => connect_error(error) == ConnectError::NotListening,
            },
            // It may be on another machine.
            Place::Network { .. } => false,
        }
    }

    fn clean_up_after(&self, peer: Vmid) {
        if let Place::Unix { base, .. } = &self.place {
            base.clean_up_after(peer);
        }
    }

    fn accept(&self) -> core::result::Result<HostStream, AcceptError> {
        // A thread that waits for an answer reads with a blocking call; all other reads request not
        // to wait.
        let socket = loop {
            match accept_with(self.place.listener(), SocketFlags::CLOEXEC) {
                Ok(socket) => break socket,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return Err(AcceptError::WouldBlock),
                Err(_) => return Err(AcceptError::Exhausted),
            }
        };
        if let Place::Network { listener, .. } = &self.place {
            // A connection that has ended meanwhile takes no options: the node reads its end.
            let _ = listener.address.prepare(&socket);
        }
        let stream = HostStream::new(socket);
        if self.place.admits(&stream) {
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
        let _ = epoll::modify(&self.epoll, self.place.listener(), token, flags);
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
        let mut limit = clock::left(until).map(|left| left.min(LONGEST));
        let events = loop {
            let exact = limit.filter(|limit| *limit > NO_TIME && *limit < EXACT);
            if let Some(exact) = exact {
                let mut set = [PollFd::new(&self.epoll, PollFlags::IN)];
                let _ = poll(&mut set, Some(&exact));
                limit = Some(NO_TIME);
            }
            let most = limit.map(|limit| limit.checked_sub(EXACT).unwrap_or(NO_TIME).max(NO_TIME));
            // An error is an interruption: an early return, which the caller allows for.
            let Ok((events, _)) = epoll::wait(&self.epoll, &mut space[..], most.as_ref()) else {
                return;
            };
            if !events.is_empty() || limit.is_none_or(|limit| limit < EXACT) {
                break events;
            }
            limit = clock::left(until).map(|left| left.min(LONGEST));
        };
        for event in events {
            let (data, flags) = (event.data.u64(), event.flags);
            if data == WAKE {
                // A wake before this point ends this wait; a later one writes again.
                self.wake_asked.swap(false, Ordering::AcqRel);
            } else {
                let _ = ready.push((Token(data), readiness(flags)));
            }
        }
    }

    fn wake(&self) {
        if !self.wake_asked.swap(true, Ordering::AcqRel) {
            // It could fail only after 2^64 wakes.
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
        // The wait takes longer: from now on the event ends it at once.
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
        // The kernel reports a hang-up even for an empty interest, again and again. In this way it
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

/// Kills the process that listens at the other end of the socket, if it is of that user. True if it is dead.
fn end_listener(socket: &OwnedFd, user: Uid) -> bool {
    // The kernel keeps the number of the process that has begun to listen with the socket.
    let Ok(listener) = sockopt::socket_peercred(socket) else {
        return false;
    };
    if listener.uid != user || listener.pid == getpid() {
        return false;
    }
    let Ok(process) = pidfd_open(listener.pid, PidfdFlags::empty()) else {
        return true;
    };
    if pidfd_send_signal(&process, Signal::KILL).is_err() {
        return false;
    }
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // The descriptor of a process is readable when it has ended.
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    poll(&mut ended, Some(&now)).is_ok_and(|count| count > 0)
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

/// Raises the descriptor limit of this process to its hard limit, and returns that limit. A member
/// needs one descriptor for each stream, so two for each peer.
///
/// # Errors
/// If the system refuses.
pub fn raise_descriptor_limit() -> Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: maximum,
                maximum,
            },
        )?;
    }
    Ok(maximum.unwrap_or(u64::MAX))
}
