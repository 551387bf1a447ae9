//! Members whose streams share one channel each, over the sockets of this host.

#[path = "../mux/channel.rs"]
mod channel;

use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;

use libos_ipc::host::Proxy;
use libos_ipc::pal::mux::{MuxEndpoint, MuxPal, MuxStream};
use libos_ipc::pal::{AcceptError, ConnectError, Flag, Pal};
use libos_ipc::{Vmid, forward_pal};

use channel::SocketChannel;

const STREAMS: usize = 100;
const WINDOW: usize = 512;

type Endpoint = MuxEndpoint<SocketChannel, STREAMS, WINDOW>;

/// The addresses of a family.
pub(crate) struct MuxFamily {
    base: PathBuf,
}

impl MuxFamily {
    pub(crate) fn new(base: PathBuf) -> MuxFamily {
        MuxFamily { base }
    }

    /// Makes the proxy of a member, and the member's end of the channel.
    fn proxy(&self, vmid: Vmid) -> (UnixStream, Proxy) {
        loop {
            let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
            match Proxy::new(&self.base, vmid, theirs) {
                Ok(proxy) => return (ours, proxy),
                // The proxy of the member that had this VMID before ends in a thread of its own.
                Err(error) if error.kind() == ErrorKind::AddrInUse => thread::yield_now(),
                Err(error) => panic!("a proxy: {error}"),
            }
        }
    }

    /// Makes a member and its proxy.
    pub(crate) fn member(&self, vmid: Vmid) -> MuxMember {
        let (ours, proxy) = self.proxy(vmid);
        let socket = ours.try_clone().expect("a descriptor");
        thread::spawn(move || proxy.run());
        // The streams of the member may live longer than the member.
        let endpoint: &'static Endpoint =
            Box::leak(Box::new(MuxEndpoint::new(SocketChannel::new(ours))));
        MuxMember {
            pal: endpoint.pal(),
            socket,
        }
    }
}

/// A member. When it is dropped its machine ends: the channel is closed.
pub(crate) struct MuxMember {
    pal: MuxPal<'static, SocketChannel, STREAMS, WINDOW>,
    /// The socket of its channel.
    socket: UnixStream,
}

impl Drop for MuxMember {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Pal for MuxMember {
    type Stream = MuxStream<'static, SocketChannel, STREAMS, WINDOW>;
    type Event = Flag;

    const SUPPORTS_CALLER_READ: bool = false;

    forward_pal!(pal: is_secure, requires_secure, end, clean_up_after, stop_listening, event, watch_listener, wait, wake, wait_event, now);
    forward_pal!(pal, stream: watch, rewatch, unwatch, wait_readable);

    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        self.pal.connect(peer)
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        self.pal.accept()
    }
}
