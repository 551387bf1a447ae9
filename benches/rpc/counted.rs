//! A platform that counts the system calls of the host's platform, and the number of them that a request takes.

use std::io::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use libos_ipc::host::{Host, HostEvent, HostStream};
use libos_ipc::pal::{
    AcceptError, ConnectError, Deadline, Interest, OutOfResources, Pal, ReadyList, Stream,
    StreamError, Token,
};
use libos_ipc::{Config, Identity, Node, Vmid, forward_pal};

use crate::common::WAIT;

/// The host's platform, with a count of its system calls.
struct Counted {
    host: Host,
    count: Arc<AtomicU64>,
}

struct CountedStream {
    stream: HostStream,
    count: Arc<AtomicU64>,
}

impl Counted {
    fn increment(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Stream for CountedStream {
    fn read(&self, buffer: &mut [u8]) -> std::result::Result<usize, StreamError> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.stream.read(buffer)
    }

    fn write(&self, parts: &[&[u8]]) -> std::result::Result<usize, StreamError> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.stream.write(parts)
    }
}

impl Pal for Counted {
    type Stream = CountedStream;
    type Event = HostEvent;
    const SUPPORTS_CALLER_READ: bool = true;

    forward_pal!(host: event, watch_listener, now);
    forward_pal!(host, stream.stream: unwatch);

    fn connect(&self, peer: Vmid) -> std::result::Result<CountedStream, ConnectError> {
        let stream = self.host.connect(peer)?;
        Ok(CountedStream {
            stream,
            count: Arc::clone(&self.count),
        })
    }

    fn accept(&self) -> std::result::Result<CountedStream, AcceptError> {
        let stream = self.host.accept()?;
        Ok(CountedStream {
            stream,
            count: Arc::clone(&self.count),
        })
    }

    fn watch(
        &self,
        stream: &CountedStream,
        token: Token,
        interest: Interest,
    ) -> std::result::Result<(), OutOfResources> {
        self.increment();
        self.host.watch(&stream.stream, token, interest)
    }

    fn rewatch(&self, stream: &CountedStream, token: Token, interest: Interest) {
        self.increment();
        self.host.rewatch(&stream.stream, token, interest);
    }

    fn wait(&self, ready: &mut ReadyList, until: Deadline) {
        self.increment();
        self.host.wait(ready, until);
    }

    fn wake(&self) {
        self.increment();
        self.host.wake();
    }

    fn wait_event(&self, event: &HostEvent, until: Deadline) {
        self.increment();
        self.host.wait_event(event, until);
    }

    fn wait_readable(&self, stream: &CountedStream, event: &HostEvent, until: Deadline) -> bool {
        self.increment();
        self.host.wait_readable(&stream.stream, event, until)
    }

    fn read_waiting(
        &self,
        stream: &CountedStream,
        event: &HostEvent,
        buffer: &mut [u8],
        until: Deadline,
    ) -> std::result::Result<usize, StreamError> {
        self.increment();
        self.host.read_waiting(&stream.stream, event, buffer, until)
    }
}

/// Counts the system calls of a request on either side, with sleeping and with spinning waits.
pub(crate) fn system_calls() -> Result<()> {
    const REQUESTS: u32 = 10_000;
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("counted");
    let config = Config {
        spin: Duration::ZERO,
        ..Config::DEFAULT
    };
    let start = |identity: Identity| -> Result<(Arc<Node<'static, Counted>>, Arc<AtomicU64>)> {
        let count = Arc::new(AtomicU64::new(0));
        let host = Host::listen(&base, identity.vmid)?;
        let pal = Counted {
            host,
            count: Arc::clone(&count),
        };
        let memory = Box::leak(Box::new_uninit_slice(
            Node::<Counted>::memory(&identity, &config).total(),
        ));
        let node = Node::new(pal, identity, config, memory).expect("enough memory");
        Ok((Arc::new(node), count))
    };
    let (leader, at_leader) = start(Identity::LEADER)?;
    let (member, at_member) = start(Identity::child(Vmid::new(2).expect("not 0"), Vmid::LEADER))?;
    let workers = [&leader, &member].map(|node| {
        let node = Arc::clone(node);
        thread::spawn(move || node.work())
    });
    for _ in 0..100 {
        member.owner_of(1, WAIT).expect("the leader answers");
    }
    let before = (
        at_leader.load(Ordering::Relaxed),
        at_member.load(Ordering::Relaxed),
    );
    for _ in 0..REQUESTS {
        member.owner_of(1, WAIT).expect("the leader answers");
    }
    let per_request = |after: &AtomicU64, before: u64| {
        let count = u32::try_from(after.load(Ordering::Relaxed) - before).expect("not that many");
        f64::from(count) / f64::from(REQUESTS)
    };
    println!(
        "system calls per request, spin off: {:.2} at the leader, {:.2} at the member",
        per_request(&at_leader, before.0),
        per_request(&at_member, before.1)
    );
    member.shut_down(Duration::from_secs(1));
    leader.shut_down(Duration::from_secs(1));
    for worker in workers {
        worker.join().expect("the worker ends well");
    }
    Ok(())
}
