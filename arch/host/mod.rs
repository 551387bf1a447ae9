//! The host platform: Linux processes of one user over Unix sockets, or processes on a network.
//!
//! *Networks.* [`Host::listen_at`] takes other [`Addresses`]: TCP, or the sockets between virtual machines and their
//! host. There the kernel says nothing of the process at the other end, and others may read along. So a node needs
//! secure streams there (`pal::secure`), unless [`Host::allow_plain`] says otherwise.
//! The following about files, users and directories applies to Unix sockets.
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

mod addresses;
mod clock;
mod creator;
mod errors;
mod event;
mod listener;
#[cfg(feature = "succession")]
mod log_ring;
mod network;
mod node;
mod pal;
mod proxy;
#[cfg(feature = "secure")]
mod secure;
mod socket_file;
mod stream;
#[cfg(feature = "trace")]
pub mod trace;

use std::format;
use std::io::{Error, Result};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, Uid, geteuid, getrlimit, setrlimit};

pub use self::addresses::Addresses;
use self::errors::exhaustion_advice;
pub use self::event::HostEvent;
use self::listener::Listener;
use self::network::NetworkListener;
pub use self::network::VsockAddress;
pub use self::node::HostNode;
use self::pal::WAKE;
pub use self::proxy::{Proxy, ProxyEnd};
#[cfg(feature = "secure")]
pub use self::secure::{SecureHost, random};
use self::socket_file::Base;
pub use self::stream::HostStream;
use crate::Vmid;
use crate::pal::Token;

/// The host platform of one member.
#[derive(Debug)]
pub struct Host {
    transport: Transport,
    allows_plain: bool,
    epoll: OwnedFd,
    waker: OwnedFd,
    /// A wake is pending, so another one needs no system call.
    wake_pending: AtomicBool,
}

/// Where a member listens, and finds its peers.
#[derive(Debug)]
enum Transport {
    Unix {
        base: Base,
        listener: Listener,
        user: Uid,
    },
    Network {
        addresses: Addresses,
        listener: NetworkListener,
    },
}

impl Transport {
    fn listener(&self) -> BorrowedFd<'_> {
        match self {
            Transport::Unix { listener, .. } => listener.as_fd(),
            Transport::Network { listener, .. } => listener.as_fd(),
        }
    }

    /// Returns true if the process at the other end may be a member. On a network the kernel does not know, so any may.
    fn admits(&self, stream: &HostStream) -> bool {
        match self {
            Transport::Unix { user, .. } => stream.peer_is(*user),
            Transport::Network { .. } => true,
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
        Host::over(Transport::Unix {
            base,
            listener,
            user: geteuid(),
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
        Host::over(Transport::Network {
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

    fn over(transport: Transport) -> Result<Host> {
        let failed = |error: Errno| {
            let (advice, error) = (exhaustion_advice(error), Error::from(error));
            Error::new(
                error.kind(),
                format!("cannot watch streams: {error}{advice}"),
            )
        };
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
        let waker = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let token = EventData::new_u64(Token::LISTENER.0);
        epoll::add(&epoll, transport.listener(), token, EventFlags::IN).map_err(failed)?;
        // The watch of the eventfd is edge-triggered: each write is reported once, so it never has
        // to be read empty.
        epoll::add(
            &epoll,
            &waker,
            EventData::new_u64(WAKE),
            EventFlags::IN | EventFlags::ET,
        )
        .map_err(failed)?;
        Ok(Host {
            transport,
            allows_plain: false,
            epoll,
            waker,
            wake_pending: AtomicBool::new(false),
        })
    }

    /// Returns the path of this member's Unix socket; `None` on a network.
    pub fn path(&self) -> Option<&Path> {
        match &self.transport {
            Transport::Unix { listener, .. } => Some(listener.path()),
            Transport::Network { .. } => None,
        }
    }

    /// Returns true if the directory of the sockets belongs to this user and no other user may
    /// write there. It is the directory that existed when this member began to listen, wherever its
    /// path leads now. If it is not private, other users can disturb the family, but not join it:
    /// each connection is checked. True on a network, which has no directory.
    pub fn directory_is_private(&self) -> bool {
        match &self.transport {
            Transport::Unix { base, user, .. } => base.directory_is_private(*user),
            Transport::Network { .. } => true,
        }
    }
}

/// The descriptor is readable when [`Node::poll_once`](crate::Node::poll_once) has something to do: a stream is
/// ready, or a thread has called [`Pal::wake`](crate::pal::Pal::wake). It is for the loop of an executor, which must not change the set
/// of what is watched.
impl AsFd for Host {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
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
