//! Sockets on a network: TCP, and vsock between virtual machines and their host.
#![allow(unsafe_code)]

use std::fmt;
use std::format;
use std::io::{Error, Result};
use std::mem::size_of;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, SocketFlags, SocketType, getpeername, getsockname, sockopt};
use rustix::net::{Shutdown, bind, connect, listen, shutdown, socket_with};

use super::creator::Creator;
use super::errors::exhaustion_advice;

/// The greatest number of connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// The time without bytes from the peer after which the kernel sends the first keepalive probe: a machine that loses its
/// power or its network does not end its connections.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// The time between two probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// The number of probes without an answer after which the kernel ends the connection.
const KEEPALIVE_COUNT: u32 = 3;
/// The time in milliseconds after which the kernel ends a connection whose peer does not acknowledge sent bytes, or has no
/// room for more because it reads nothing.
const USER_TIMEOUT: u32 = 10_000;

/// An address of a virtual machine's sockets ([`vsock(7)`](https://man7.org/linux/man-pages/man7/vsock.7.html)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VsockAddress {
    /// The context identifier of the machine: 2 is the host, 1 is this machine itself.
    pub cid: u32,
    /// The port.
    pub port: u32,
}

/// The address of one member.
#[derive(Clone, Copy, Debug)]
pub(super) enum NetworkAddress {
    Tcp(SocketAddr),
    Vsock(VsockAddress),
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkAddress::Tcp(address) => write!(f, "TCP {address}"),
            NetworkAddress::Vsock(VsockAddress { cid, port }) => write!(f, "vsock {cid}:{port}"),
        }
    }
}

impl NetworkAddress {
    fn new_socket(self) -> rustix::io::Result<OwnedFd> {
        let family = match self {
            NetworkAddress::Tcp(SocketAddr::V4(_)) => AddressFamily::INET,
            NetworkAddress::Tcp(SocketAddr::V6(_)) => AddressFamily::INET6,
            NetworkAddress::Vsock(_) => AddressFamily::VSOCK,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(family, SocketType::STREAM, flags, None)
    }

    /// Opens a connection. It may still be under way: then a write finds no room, and if it fails, the stream is
    /// closed.
    pub(super) fn connect(self) -> rustix::io::Result<OwnedFd> {
        let socket = self.new_socket()?;
        let result = match self {
            NetworkAddress::Tcp(address) => connect(&socket, &address),
            NetworkAddress::Vsock(address) => connect(&socket, &address),
        };
        match result {
            // An interrupted connect goes on, as one that does not wait.
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        self.prepare(&socket)?;
        // The kernel may give the socket the very port that it connects to, if no process listens there: then the socket is
        // connected to itself.
        if matches!(self, NetworkAddress::Tcp(_)) {
            let (own, peer) = (getsockname(&socket), getpeername(&socket));
            if peer.is_ok() && own.map(Some) == peer {
                return Err(Errno::CONNREFUSED);
            }
        }
        Ok(socket)
    }

    /// Sets the options of a connection.
    pub(super) fn prepare(self, socket: &OwnedFd) -> rustix::io::Result<()> {
        if let NetworkAddress::Tcp(_) = self {
            // A frame waits for no other, and a request is answered at once.
            sockopt::set_tcp_nodelay(socket, true)?;
            sockopt::set_socket_keepalive(socket, true)?;
            sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
            sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
            sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
            sockopt::set_tcp_user_timeout(socket, USER_TIMEOUT)?;
        }
        Ok(())
    }

    fn explain(self, error: Errno) -> Error {
        let advice = match (self, error) {
            (_, Errno::ADDRINUSE) => {
                ": another process listens there; end it, or take another VMID or base"
            }
            (NetworkAddress::Vsock(_), Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT | Errno::NODEV) => {
                ": this machine has no sockets of virtual machines with that CID (the module vsock_loopback provides CID 1)"
            }
            (NetworkAddress::Tcp(_), Errno::ADDRNOTAVAIL) => ": this machine has no such address",
            (_, Errno::ACCESS | Errno::PERM) => {
                ": this user may not listen there; take ports above 1023"
            }
            (_, error) => exhaustion_advice(error),
        };
        let kind = Error::from(error).kind();
        Error::new(
            kind,
            format!("cannot listen at {self}: {}{advice}", Error::from(error)),
        )
    }
}

/// A listening socket on a network.
#[derive(Debug)]
pub(super) struct NetworkListener {
    socket: OwnedFd,
    pub(super) address: NetworkAddress,
    creator: Creator,
}

impl NetworkListener {
    pub(super) fn new(address: NetworkAddress) -> Result<NetworkListener> {
        let failed = |error| address.explain(error);
        let socket = address.new_socket().map_err(failed)?;
        match address {
            NetworkAddress::Tcp(tcp) => {
                // Connections of a process that has just ended may still occupy the port.
                sockopt::set_socket_reuseaddr(&socket, true).map_err(failed)?;
                bind(&socket, &tcp).map_err(failed)?;
            }
            NetworkAddress::Vsock(vsock) => bind(&socket, &vsock).map_err(failed)?,
        }
        listen(&socket, BACKLOG).map_err(failed)?;
        Ok(NetworkListener {
            socket,
            address,
            creator: Creator::this(),
        })
    }

    /// Ends the listening, even if a forked process has a copy of the socket.
    pub(super) fn close(&self) {
        if self.creator.is_this() {
            let _ = shutdown(&self.socket, Shutdown::Both);
        }
    }
}

impl AsFd for NetworkListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for NetworkListener {
    fn drop(&mut self) {
        self.close();
    }
}

/// `struct sockaddr_vm` of `linux/vm_sockets.h`.
#[repr(C)]
struct SockaddrVm {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags: u8,
    zero: [u8; 3],
}

const SOCKADDR_VM_LENGTH: SocketAddrLen = 16;
const _: () = assert!(size_of::<SockaddrVm>() == 16);

// SAFETY: the pointer that the closure gets is valid for the call, and points to a `sockaddr_vm`, all of whose bytes
// are initialised: the struct has no padding.
unsafe impl SocketAddrArg for VsockAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        let address = SockaddrVm {
            family: AddressFamily::VSOCK.as_raw(),
            reserved: 0,
            port: self.port,
            cid: self.cid,
            flags: 0,
            zero: [0; 3],
        };
        f((&raw const address).cast(), SOCKADDR_VM_LENGTH)
    }
}
