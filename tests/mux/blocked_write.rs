//! A channel whose write takes long, and other threads that use the endpoint meanwhile.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use libos_ipc::Vmid;
use libos_ipc::pal::mux::{ByteChannel, Mux, MuxEndpoint};
use libos_ipc::pal::{Deadline, Interest, Pal, ReadyList, Stream, Time, Token};

const LONG: Duration = Duration::from_secs(10);

/// The calls of the channel's contention hook.
static CONTENDED: AtomicU32 = AtomicU32::new(0);

/// A channel in memory. Its writes wait while it has a gate.
#[derive(Default)]
struct GatedChannel {
    inner: Mutex<Inner>,
    gate: Mutex<Option<Gate>>,
}

#[derive(Default)]
struct Inner {
    to_endpoint: Vec<u8>,
    from_endpoint: Vec<u8>,
}

/// Reports that a write has begun, and waits until it may end.
struct Gate {
    begun: Sender<()>,
    open: Receiver<()>,
}

impl ByteChannel for GatedChannel {
    fn read(&self, buffer: &mut [u8]) -> usize {
        let mut inner = self.inner.lock().unwrap();
        let count = buffer.len().min(inner.to_endpoint.len());
        for (to, from) in buffer.iter_mut().zip(inner.to_endpoint.drain(..count)) {
            *to = from;
        }
        count
    }

    fn write(&self, bytes: &[u8]) -> usize {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = &*gate {
            let _ = gate.begun.send(());
            // An error of the test ends the wait, too.
            let _ = gate.open.recv_timeout(LONG);
        }
        drop(gate);
        self.inner.lock().unwrap().from_endpoint.extend(bytes);
        bytes.len()
    }

    fn wait(&self, _: Deadline) {
        thread::sleep(Duration::from_millis(1));
    }

    fn now(&self) -> Time {
        Time(0)
    }

    fn contended(_: u32) {
        CONTENDED.fetch_add(1, Ordering::Relaxed);
        thread::yield_now();
    }
}

type Endpoint = MuxEndpoint<GatedChannel, 4, 64>;

/// Delivers the bytes of both ends.
fn exchange(endpoint: &Endpoint, other: &mut Mux<4, 64>) {
    for _ in 0..2 {
        endpoint.pal().wait(&mut ReadyList::new(), Deadline::Now);
        let mut inner = endpoint.channel().inner.lock().unwrap();
        let sent: Vec<u8> = inner.from_endpoint.drain(..).collect();
        other.receive(&sent).unwrap();
        loop {
            let bytes = other.poll_transmit();
            if bytes.is_empty() {
                break;
            }
            inner.to_endpoint.extend(bytes);
            let count = bytes.len();
            other.mark_sent(count);
        }
    }
}

#[test]
fn threads_use_the_endpoint_while_another_one_writes_to_the_channel() {
    let endpoint = Endpoint::new(GatedChannel::default());
    let mut other = Mux::new();
    let pal = endpoint.pal();
    let peers = [7, 8].map(|number| Vmid::new(number).unwrap());
    exchange(&endpoint, &mut other);
    let streams = peers.map(|peer| {
        assert!(pal.connect(peer).is_err(), "the other end has to accept");
        exchange(&endpoint, &mut other);
        let (number, _) = other.next_opened().unwrap();
        other.accept(number);
        exchange(&endpoint, &mut other);
        (pal.connect(peer).unwrap(), number)
    });
    let incoming = other.open(0).unwrap();
    exchange(&endpoint, &mut other);
    let incoming = (pal.accept().unwrap(), incoming);
    exchange(&endpoint, &mut other);
    assert_eq!(other.write(incoming.1, &[b"in"]), Ok(2));
    exchange(&endpoint, &mut other);

    let ((begun, has_begun), (open, is_open)) = (channel(), channel());
    *endpoint.channel().gate.lock().unwrap() = Some(Gate {
        begun,
        open: is_open,
    });
    thread::scope(|scope| {
        let (first, second) = (&streams[0].0, &streams[1].0);
        let writer = scope.spawn(|| first.write(&[b"first"]));
        has_begun.recv_timeout(LONG).unwrap();
        // All of this ends although the channel is not done with the write.
        assert_eq!(second.write(&[b"second"]), Ok(6));
        pal.watch(second, Token(2), Interest::WRITE).unwrap();
        pal.rewatch(second, Token(3), Interest::WRITE);
        let mut buffer = [0; 8];
        assert_eq!(incoming.0.read(&mut buffer), Ok(2));
        let mut ready = ReadyList::new();
        pal.wait(&mut ready, Deadline::Now);
        assert_eq!(ready[..], [(Token(3), Interest::WRITE)]);
        pal.unwatch(second);
        assert!(!endpoint.flush(Time(0)), "the writer is not done");
        assert_eq!(CONTENDED.load(Ordering::Relaxed), 0, "a thread has spun");
        assert!(!writer.is_finished());
        // The writer sends the frames of both threads.
        drop(open);
        assert_eq!(writer.join().unwrap(), Ok(5));
    });
    *endpoint.channel().gate.lock().unwrap() = None;
    let sent = endpoint.channel().inner.lock().unwrap().from_endpoint.len();
    assert!(sent > 0, "no later call was needed to send them");
    exchange(&endpoint, &mut other);
    for ((_, number), bytes) in streams.iter().zip([&b"first"[..], b"second"]) {
        assert_eq!(other.front(*number), bytes);
    }
}
