//! The proxy on the host, and members that violate the protocol.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libos_ipc::host::{Host, ProxyEnd};
use libos_ipc::pal::mux::MuxError;
use libos_ipc::pal::{ConnectError, Pal, Stream, StreamError};
use libos_ipc::wire::Message;
use libos_ipc::{ChildSelector, Error, Vmid};

use crate::guest::{Family, WAIT, run, run_and_flush};

/// The signal in the exit report of a process that died without one.
const SIGPWR: u32 = 30;

fn frame(kind: u8, stream: u16, value: u32) -> Vec<u8> {
    let extra = u8::from(kind == 1);
    let mut bytes = vec![kind, extra];
    bytes.extend(stream.to_le_bytes());
    bytes.extend(value.to_le_bytes());
    bytes
}

const HELLO: u8 = 1;
const OPEN: u8 = 2;
const DATA: u8 = 3;
const CREDIT: u8 = 5;
const STOP: u8 = 6;

/// A member that writes the bytes of its channel itself.
struct RawMember(UnixStream);

impl RawMember {
    fn new(channel: UnixStream) -> RawMember {
        channel
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut raw = RawMember(channel);
        raw.send_frame(HELLO, 8, 0);
        assert_eq!(raw.receive_frame().0, HELLO);
        raw
    }

    fn send_frame(&mut self, kind: u8, stream: u16, value: u32) {
        self.0.write_all(&frame(kind, stream, value)).unwrap();
    }

    fn write(&mut self, stream: u16, bytes: &[u8]) {
        self.send_frame(DATA, stream, u32::try_from(bytes.len()).unwrap());
        self.0.write_all(bytes).unwrap();
    }

    /// Returns the next frame's kind, stream and value. Data are dropped.
    fn receive_frame(&mut self) -> (u8, u16, u32) {
        let mut head = [0; 8];
        self.0.read_exact(&mut head).unwrap();
        let [kind, _, low, high, a, b, c, d] = head;
        let value = u32::from_le_bytes([a, b, c, d]);
        if kind == DATA {
            let mut data = vec![0; value as usize];
            self.0.read_exact(&mut data).unwrap();
        }
        (kind, u16::from_le_bytes([low, high]), value)
    }

    fn receive_kind(&mut self, kind: u8) -> (u16, u32) {
        loop {
            let (received, stream, value) = self.receive_frame();
            if received == kind {
                return (stream, value);
            }
        }
    }
}

#[test]
fn a_member_cannot_use_the_vmid_of_another() {
    let family = Family::new();
    let (identity, channel, proxy) = family.behind_channel();
    let mut raw = RawMember::new(channel);
    raw.send_frame(OPEN, 0, 1);
    raw.receive_kind(CREDIT);
    // One stream begins with its own VMID, byte by byte; the next with another's.
    for byte in identity.vmid.get().to_le_bytes() {
        raw.write(0, &[byte]);
    }
    raw.send_frame(OPEN, 1, 1);
    raw.receive_kind(CREDIT);
    raw.write(1, &identity.vmid.get().to_le_bytes()[..1]);
    raw.write(1, &[1, 0, 0]);
    assert_eq!(proxy.join().unwrap(), ProxyEnd::WrongVmid);
}

#[test]
fn a_member_that_violates_the_protocol_is_disconnected() {
    let family = Family::new();
    let other = family.member();
    let (identity, mut channel, proxy) = family.behind_channel();
    let theirs = channel.try_clone().unwrap();
    let member = std::thread::spawn(move || {
        run_and_flush(identity, theirs, |node| {
            node.join(WAIT).unwrap();
            // The member sends more than its credit, on a stream of its own.
            channel.write_all(&frame(OPEN, 100, 1)).unwrap();
            channel.write_all(&frame(DATA, 100, 1_000_000)).unwrap();
        })
    });
    let leader = &family.leader;
    let exit = leader
        .wait_child(ChildSelector::Pid(identity.pid.unwrap()), WAIT)
        .unwrap();
    assert_eq!(exit.signal, SIGPWR);
    let end = ProxyEnd::Fault(MuxError::BeyondCredit);
    assert_eq!(proxy.join().unwrap(), end);
    member.join().unwrap();
    assert_eq!(
        other.owner_of(other.pid().unwrap().get(), WAIT),
        Ok(Some(other.identity().vmid))
    );
}

#[test]
fn connecting_to_an_absent_peer_is_refused() {
    let family = Family::new();
    let (_, channel, proxy) = family.behind_channel();
    let mut raw = RawMember::new(channel);
    for (stream, nobody) in [(0, 0), (1, 77), (2, u32::MAX)] {
        raw.send_frame(OPEN, stream, nobody);
        assert_eq!(raw.receive_kind(STOP), (stream, 0));
    }
    drop(raw);
    assert_eq!(proxy.join().unwrap(), ProxyEnd::Closed);
    // The same happens to a node.
    let (identity, channel, proxy) = family.behind_channel();
    run(identity, channel, |node| {
        node.join(WAIT).unwrap();
        let nobody = Vmid::new(77).unwrap();
        let outcome = node.ask(nobody, &Message::GetIdOwner(1), WAIT);
        assert_eq!(outcome, Err(Error::NoSuchProcess));
    });
    assert_eq!(proxy.join().unwrap(), ProxyEnd::Closed);
}

/// Makes a process of the host without a node, which accepts each stream.
fn host_without_node(family: &Family, number: u32) -> Host {
    Host::listen(&family.base(), Vmid::new(number).unwrap()).unwrap()
}

#[test]
fn an_unresponsive_member_takes_bounded_memory_and_stays_connected() {
    let family = Family::new();
    let (identity, channel, proxy) = family.behind_channel();
    let mut raw = RawMember::new(channel);
    let host_without_node = host_without_node(&family, 99);
    let streams: Vec<_> = (0..3)
        .map(|_| host_without_node.connect(identity.vmid).unwrap())
        .collect();
    for _ in &streams {
        let (stream, _) = raw.receive_kind(OPEN);
        raw.send_frame(CREDIT, stream, 1000);
    }
    // The streams are not read: each takes as much as its socket and the credit hold.
    for stream in &streams {
        let mut taken = 0;
        let mut quiet = 0;
        while quiet < 50 {
            match stream.write(&[&[0; 1024]]) {
                Ok(count) => (taken, quiet) = (taken + count, 0),
                Err(error) => {
                    assert_eq!(error, StreamError::WouldBlock);
                    quiet += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            assert!(taken < 1 << 20, "it takes no end");
        }
    }
    // Its frames are handled all the same.
    raw.send_frame(OPEN, 0, 99);
    raw.receive_kind(CREDIT);
    raw.write(0, &identity.vmid.get().to_le_bytes());
    let accepted = loop {
        if let Ok(stream) = host_without_node.accept() {
            break stream;
        }
    };
    let mut vmid = [0; 4];
    while accepted.read(&mut vmid) == Err(StreamError::WouldBlock) {}
    assert_eq!(vmid, identity.vmid.get().to_le_bytes());
    // When it ends, all members see that.
    drop(raw);
    assert_eq!(proxy.join().unwrap(), ProxyEnd::Closed);
    assert_eq!(streams[0].write(&[&[0]]), Err(StreamError::Closed));
    let error = host_without_node.connect(identity.vmid).unwrap_err();
    assert_eq!(error, ConnectError::NotListening);
}

#[test]
fn a_peer_that_does_not_read_does_not_block_other_peers() {
    let family = Family::new();
    let (identity, channel, _proxy) = family.behind_channel();
    let mut raw = RawMember::new(channel);
    let (_unresponsive, good) = (
        host_without_node(&family, 98),
        host_without_node(&family, 99),
    );
    let (to_unresponsive, to_good) = (0, 1);
    raw.send_frame(OPEN, to_unresponsive, 98);
    raw.send_frame(OPEN, to_good, 99);
    let mut credit = [0; 2];
    let mut sent = [0; 2];
    let mut accepted = None;
    let mut received = 0;
    let mut buffer = [0; 4096];
    while received < 1 << 20 {
        // Each stream gets as much as its credit allows; only the good one is waited for.
        while credit[1] == 0 {
            let (stream, more) = raw.receive_kind(CREDIT);
            credit[usize::from(stream)] += more as usize;
        }
        for stream in [to_unresponsive, to_good] {
            let place = usize::from(stream);
            let mut bytes = vec![0; std::mem::take(&mut credit[place])];
            if bytes.is_empty() {
                continue;
            }
            if sent[place] == 0 {
                bytes[..4].copy_from_slice(&identity.vmid.get().to_le_bytes());
            }
            raw.write(stream, &bytes);
            sent[place] += bytes.len();
        }
        if accepted.is_none() {
            accepted = good.accept().ok();
        }
        while let Some(Ok(count)) = accepted.as_ref().map(|stream| stream.read(&mut buffer)) {
            received += count;
        }
    }
    assert!(sent[0] < 1 << 20, "the unresponsive one has taken {sent:?}");
}

#[test]
fn last_bytes_of_a_machine_arrive_although_it_takes_no_answer() {
    const EACH: usize = 2000;
    const STREAMS: u16 = 100;
    let family = Family::new();
    let (identity, channel, proxy) = family.behind_channel();
    let mut raw = RawMember::new(channel);
    let host_without_node = host_without_node(&family, 99);
    for stream in 0..STREAMS {
        raw.send_frame(OPEN, stream, 99);
        raw.receive_kind(CREDIT);
    }
    // These are more bytes than one read of the channel; the first frames grant credit for more,
    // which is not used.
    let mut words = vec![1; EACH];
    words[..4].copy_from_slice(&identity.vmid.get().to_le_bytes());
    let mut all = Vec::new();
    for stream in 0..STREAMS {
        all.extend(frame(DATA, stream, u32::try_from(EACH).unwrap()));
        all.extend(&words);
    }
    raw.0.write_all(&all).unwrap();
    drop(raw);
    assert_eq!(proxy.join().unwrap(), ProxyEnd::Closed);
    let mut buffer = [0; 2 * EACH];
    for _ in 0..STREAMS {
        let stream = host_without_node.accept().unwrap();
        let mut received = 0;
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            received += count;
        }
        assert_eq!(received, EACH);
    }
}
