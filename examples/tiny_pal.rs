//! A platform in one file: processes that talk over TCP on one machine.
//!
//! docs/embedding.md explains it. It implements `pal::Pal` and nothing more: it does not check which
//! process connects, so it is an example to read, not to use.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use libos_ipc::pal::{
    AcceptError, ConnectError, Deadline, Event, Interest, OutOfResources, Pal, READY_AT_ONCE,
    ReadyList, Stream, StreamError, Time, Token,
};
use libos_ipc::{ChildSelector, Config, Exit, Identity, Node, Vmid, Wait};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

// 1. A stream moves bytes without blocking.

pub(crate) struct Tcp(Arc<TcpStream>);

fn stream_error(error: &io::Error) -> StreamError {
    match error.kind() {
        io::ErrorKind::WouldBlock => StreamError::WouldBlock,
        io::ErrorKind::Interrupted => StreamError::Interrupted,
        _ => StreamError::Closed,
    }
}

impl Stream for Tcp {
    fn read(&self, buffer: &mut [u8]) -> std::result::Result<usize, StreamError> {
        (&*self.0).read(buffer).map_err(|e| stream_error(&e))
    }

    fn write(&self, parts: &[&[u8]]) -> std::result::Result<usize, StreamError> {
        let parts: Vec<_> = parts.iter().map(|part| io::IoSlice::new(part)).collect();
        (&*self.0)
            .write_vectored(&parts)
            .map_err(|e| stream_error(&e))
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        // A forked process may have a copy of the descriptor, which would keep the stream open.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

fn stream(stream: TcpStream) -> io::Result<Tcp> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(Tcp(Arc::new(stream)))
}

// 2. A thread sleeps on an event.

#[derive(Default)]
pub(crate) struct Flag {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Event for Flag {
    fn set(&self) {
        *self.set.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn clear(&self) {
        *self.set.lock().unwrap() = false;
    }

    fn is_set(&self) -> bool {
        *self.set.lock().unwrap()
    }
}

// 3. The platform connects to peers, reports ready streams, and has a clock.

#[derive(Clone)]
struct Watch {
    stream: Arc<TcpStream>,
    token: Token,
    interest: Interest,
}

pub(crate) struct Tiny {
    listener: TcpListener,
    /// The same for the whole family; the address differs.
    pub(crate) port: u16,
    listens: AtomicBool,
    watches: Mutex<Vec<Watch>>,
    /// The watch with which the next report begins.
    next: AtomicUsize,
    /// Ends a wait: the pipe has a byte in it while `woken` is set.
    woken: AtomicBool,
    bell: (io::PipeReader, io::PipeWriter),
    start: Instant,
}

/// Process N is at 127.1.x.y, where x and y are the bytes of N.
fn address(vmid: Vmid, port: u16) -> SocketAddr {
    let host = Ipv4Addr::from(0x7f01_0000 | (vmid.get() & 0xffff));
    (host, port).into()
}

impl Tiny {
    /// Listens first: peers may connect as soon as they know the VMID. Port 0 takes any.
    pub(crate) fn listen(vmid: Vmid, port: u16) -> io::Result<Tiny> {
        let listener = TcpListener::bind(address(vmid, port))?;
        listener.set_nonblocking(true)?;
        Ok(Tiny {
            port: listener.local_addr()?.port(),
            listener,
            listens: AtomicBool::new(true),
            watches: Mutex::default(),
            next: AtomicUsize::new(0),
            woken: AtomicBool::new(false),
            bell: io::pipe()?,
            start: Instant::now(),
        })
    }
}

impl Pal for Tiny {
    type Stream = Tcp;
    type Event = Flag;
    const SUPPORTS_CALLER_READ: bool = false; // the worker reads all streams: simpler, and slower

    fn event(&self) -> std::result::Result<Flag, OutOfResources> {
        Ok(Flag::default())
    }

    fn connect(&self, peer: Vmid) -> std::result::Result<Tcp, ConnectError> {
        // On one machine this succeeds or fails at once, unless the backlog of the peer is full.
        let limit = Duration::from_millis(1);
        match TcpStream::connect_timeout(&address(peer, self.port), limit).and_then(stream) {
            Ok(stream) => Ok(stream),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                Err(ConnectError::NotListening)
            }
            Err(_) => Err(ConnectError::Busy),
        }
    }

    fn accept(&self) -> std::result::Result<Tcp, AcceptError> {
        match self.listener.accept().and_then(|(new, _)| stream(new)) {
            Ok(stream) => Ok(stream),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(AcceptError::WouldBlock),
            Err(_) => Err(AcceptError::Exhausted),
        }
    }

    fn watch_listener(&self, on: bool) {
        self.listens.store(on, Ordering::SeqCst);
        self.wake();
    }

    fn watch(
        &self,
        stream: &Tcp,
        token: Token,
        interest: Interest,
    ) -> std::result::Result<(), OutOfResources> {
        self.watches.lock().unwrap().push(Watch {
            stream: stream.0.clone(),
            token,
            interest,
        });
        self.wake(); // a wait in another thread has to poll it, too
        Ok(())
    }

    fn rewatch(&self, stream: &Tcp, token: Token, interest: Interest) {
        self.unwatch(stream);
        let _ = self.watch(stream, token, interest);
    }

    fn unwatch(&self, stream: &Tcp) {
        let mut watches = self.watches.lock().unwrap();
        watches.retain(|watch| !Arc::ptr_eq(&watch.stream, &stream.0));
    }

    fn wait(&self, ready: &mut ReadyList, until: Deadline) {
        let mut watches = self.watches.lock().unwrap().clone();
        watches.retain(|watch| !watch.interest.is_empty());
        if !watches.is_empty() {
            let first = self.next.load(Ordering::SeqCst) % watches.len();
            watches.rotate_left(first);
        }
        let mut fds = vec![
            PollFd::new(&self.bell.0, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::empty()),
        ];
        if self.listens.load(Ordering::SeqCst) {
            fds[1] = PollFd::new(&self.listener, PollFlags::IN);
        }
        for watch in &watches {
            let mut events = PollFlags::RDHUP;
            events.set(PollFlags::IN, watch.interest.contains(Interest::READ));
            events.set(PollFlags::OUT, watch.interest.contains(Interest::WRITE));
            fds.push(PollFd::new(&*watch.stream, events));
        }
        let left = until
            .left(|| self.now())
            .and_then(|left| Timespec::try_from(left).ok());
        if poll(&mut fds, left.as_ref()).is_err() {
            return; // interrupted: an early return is allowed
        }
        if !fds[0].revents().is_empty() {
            let _ = (&self.bell.0).read(&mut [0]);
            self.woken.store(false, Ordering::SeqCst);
        }
        if !fds[1].revents().is_empty() {
            let _ = ready.push((Token::LISTENER, Interest::READ));
        }
        for (watch, fd) in watches.iter().zip(&fds[2..]) {
            let seen = fd.revents();
            let hung_up = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
            let mut readiness = Interest::empty();
            readiness.set(Interest::READ, seen.contains(PollFlags::IN));
            readiness.set(Interest::WRITE, seen.contains(PollFlags::OUT));
            readiness.set(Interest::HANG_UP, seen.intersects(hung_up));
            if !readiness.is_empty() && ready.push((watch.token, readiness)).is_err() {
                // The rest is still ready at the next wait, which begins at another watch.
                self.next.fetch_add(READY_AT_ONCE, Ordering::SeqCst);
                break;
            }
        }
    }

    fn wake(&self) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            let _ = (&self.bell.1).write(&[0]);
        }
    }

    fn wait_event(&self, event: &Flag, until: Deadline) {
        let set = event.set.lock().unwrap();
        let left = until.left(|| self.now()).unwrap_or(Duration::from_secs(10));
        if !*set {
            let _ = event.changed.wait_timeout(set, left);
        }
    }

    fn wait_readable(&self, _: &Tcp, _: &Flag, _: Deadline) -> bool {
        false // not called: SUPPORTS_CALLER_READ is false
    }

    fn now(&self) -> Time {
        Time(0) + self.start.elapsed()
    }
}

// 4. A node: its memory, its platform, and a thread that moves its bytes.

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));

fn run(identity: Identity, port: u16, work: impl Fn(&Node<'_, Tiny>) -> Result<()>) -> Result<()> {
    let mut memory =
        Box::new_uninit_slice(Node::<Tiny>::memory(&identity, &Config::DEFAULT).total());
    let platform = Tiny::listen(identity.vmid, port)?;
    let node = Node::new(platform, identity, Config::DEFAULT, &mut memory)?;
    std::thread::scope(|scope| {
        scope.spawn(|| node.work());
        let done = work(&node);
        node.shut_down(Duration::from_secs(1)); // ends `work`
        done
    })
}

// 5. Two processes: the first starts the second and gets its exit status.

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, identity] = &arguments[..] else {
        return run(Identity::LEADER, 0, first);
    };
    run(identity.parse()?, port.parse()?, second)
}

fn first(node: &Node<'_, Tiny>) -> Result<()> {
    println!("first: I am process {}", node.join(WAIT)?);
    let child = node.start_child(WAIT)?;
    Command::new(std::env::current_exe()?)
        .arg(node.pal().port.to_string())
        .arg(child.to_string())
        .spawn()?;
    let exit = node.wait_child(ChildSelector::Any, WAIT)?;
    println!("first: process {} ended with {}", exit.pid, exit.code);
    node.leave(WAIT)?; // serves the others until they are gone
    Ok(())
}

fn second(node: &Node<'_, Tiny>) -> Result<()> {
    println!("second: I am process {}", node.join(WAIT)?);
    let exit = Exit {
        code: 3,
        ..Exit::default()
    };
    Ok(node.exit(exit, WAIT)?)
}
