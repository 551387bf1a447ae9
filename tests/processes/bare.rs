//! A member of a family without a node: it reads and answers when the test calls it.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use libos_ipc::wire::{Answer, FrameReader, FrameWriter, Hello, Message, codes};
use libos_ipc::{Identity, Vmid};

use crate::family::{Family, LONG};

/// A message of a peer. A request that has an answer has a sequence number, others 0; other messages than signals have
/// the signal 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerMessage {
    pub(crate) from: u32,
    pub(crate) code: u8,
    pub(crate) signal: i32,
    pub(crate) seq: u64,
}

/// A stream that a member has opened.
struct Incoming {
    from: u32,
    stream: UnixStream,
    frames: FrameReader<'static>,
}

/// The member: its streams, those to other members with their VMIDs.
pub(crate) struct BareMember {
    identity: Identity,
    base: PathBuf,
    listener: UnixListener,
    to_leader: UnixStream,
    incoming: Vec<Incoming>,
    outgoing: Vec<(u32, UnixStream)>,
}

impl BareMember {
    /// Joins as the child with that identity.
    pub(crate) fn join(family: &Family, identity: Identity) -> BareMember {
        let base = family.base.clone();
        let listener = UnixListener::bind(address(&base, identity.vmid)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let to_leader = open(&base, identity.vmid, Vmid::LEADER);
        let mut member = BareMember {
            identity,
            base,
            listener,
            to_leader,
            incoming: Vec::new(),
            outgoing: Vec::new(),
        };
        let hello = Message::Hello(Hello {
            version: Hello::VERSION,
            features: 0,
            pid: identity.pid.unwrap().get(),
            parent: identity.parent.map_or(0, Vmid::get),
        });
        member.to_leader.write_all(&bytes_of(0, &hello)).unwrap();
        // The leader's HELLO comes first, and then the frames after it.
        while member.next_frame(1, |code| code == codes::HELLO).is_none() {}
        member
    }

    /// Opens a stream to another member, which is needed to answer it.
    pub(crate) fn connect(&mut self, to: Vmid) {
        let stream = open(&self.base, self.identity.vmid, to);
        self.outgoing.push((to.get(), stream));
    }

    /// Closes the unread stream that a member has to this one.
    pub(crate) fn close_stream_from(&mut self, from: Vmid) {
        self.accept();
        self.incoming.retain(|incoming| incoming.from != from.get());
    }

    /// Returns true if a member has a stream to this one.
    pub(crate) fn has_stream_from(&mut self, from: Vmid) -> bool {
        self.accept();
        self.incoming
            .iter()
            .any(|incoming| incoming.from == from.get())
    }

    /// Accepts all streams that wait, and reads the VMIDs of their openers.
    fn accept(&mut self) {
        while let Ok((mut stream, _)) = self.listener.accept() {
            stream.set_nonblocking(false).unwrap();
            let mut vmid = [0; 4];
            if stream.read_exact(&mut vmid).is_err() {
                continue;
            }
            stream.set_nonblocking(true).unwrap();
            let buffer = Box::leak(vec![0; 4352].into_boxed_slice());
            self.incoming.push(Incoming {
                from: u32::from_le_bytes(vmid),
                stream,
                frames: FrameReader::new(buffer),
            });
        }
    }

    /// Returns the next matching frame of a member, if it has arrived; other frames are skipped.
    fn next_frame(&mut self, from: u32, fits: impl Fn(u8) -> bool) -> Option<PeerMessage> {
        self.accept();
        let incoming = &mut self.incoming;
        let incoming = incoming.iter_mut().find(|incoming| incoming.from == from)?;
        loop {
            if let Some(frame) = incoming.frames.peek().unwrap() {
                let signal = match frame.message().unwrap() {
                    Message::PidKill(kill) | Message::KillPassed(kill) => kill.signal,
                    _ => 0,
                };
                let (code, seq, length) = (frame.code, frame.seq, frame.length());
                incoming.frames.skip(length);
                if fits(code) {
                    return Some(PeerMessage {
                        from,
                        code,
                        signal,
                        seq,
                    });
                }
                continue;
            }
            match incoming.stream.read(incoming.frames.space()) {
                Ok(0) => return None,
                Ok(count) => incoming.frames.mark_filled(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Returns a signal from a member, if one has arrived.
    pub(crate) fn signal_from(&mut self, from: Vmid) -> Option<PeerMessage> {
        let is_signal = |code| code == codes::PID_KILL || code == codes::PID_KILL_PASSED;
        self.next_frame(from.get(), is_signal)
    }

    /// Waits for the next signal from a member.
    pub(crate) fn await_signal_from(&mut self, from: Vmid) -> PeerMessage {
        let start = Instant::now();
        loop {
            if let Some(message) = self.signal_from(from) {
                return message;
            }
            assert!(start.elapsed() < LONG, "no signal of {from} comes");
            thread::yield_now();
        }
    }

    /// Answers that a signal was delivered.
    pub(crate) fn answer(&mut self, message: PeerMessage) {
        if message.seq == 0 {
            return;
        }
        let mut buffer = [0; 64];
        let mut writer = FrameWriter::new(&mut buffer);
        writer.push_answer(message.seq, &Answer::DONE).unwrap();
        if message.from == 1 {
            return self.to_leader.write_all(writer.unsent()).unwrap();
        }
        let mut outgoing = self.outgoing.iter_mut();
        let found = outgoing.find(|(to, _)| *to == message.from);
        let (to, stream) = found.expect("a stream to that member");
        if stream.write_all(writer.unsent()).is_err() {
            // The other end has closed the stream.
            *stream = open(&self.base, self.identity.vmid, Vmid::new(*to).unwrap());
            stream.write_all(writer.unsent()).unwrap();
        }
    }
}

/// Returns the address of a member.
fn address(base: &std::path::Path, vmid: Vmid) -> PathBuf {
    PathBuf::from(format!("{}.{vmid}", base.display()))
}

/// Opens a stream to a member, and writes the own VMID.
fn open(base: &std::path::Path, own: Vmid, to: Vmid) -> UnixStream {
    let mut stream = UnixStream::connect(address(base, to)).unwrap();
    stream.write_all(&own.get().to_le_bytes()).unwrap();
    stream
}

/// Returns the frame of the message.
fn bytes_of(seq: u64, message: &Message<'_>) -> Vec<u8> {
    let mut buffer = [0; 128];
    let length = message.encode(seq, &mut buffer).unwrap();
    buffer[..length].to_vec()
}
