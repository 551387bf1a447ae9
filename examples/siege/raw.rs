//! A member without the library: it writes the bytes of `docs/protocol.md` to the leader, and need not read the
//! answers.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The time in which the leader must read what is written, and answer a request.
const LIMIT: Duration = Duration::from_secs(20);

/// The pause before a full or empty stream is tried again.
const PAUSE: Duration = Duration::from_micros(200);

/// The length of a frame without its payload, in bytes.
const HEADER_LENGTH: usize = 17;

// The codes of messages.
pub(crate) const GET_NEW_VMID: u8 = 1;
pub(crate) const ALLOC_ID_RANGE: u8 = 3;
pub(crate) const RELEASE_ID_RANGE: u8 = 4;
pub(crate) const CHANGE_ID_OWNER: u8 = 5;
pub(crate) const GET_ID_OWNER: u8 = 6;
pub(crate) const PID_KILL: u8 = 7;
pub(crate) const SYNC_REQUEST_UPGRADE: u8 = 9;
pub(crate) const SYNC_REQUEST_DOWNGRADE: u8 = 10;
pub(crate) const SYNC_CONFIRM_DOWNGRADE: u8 = 13;
pub(crate) const FILE_LOCK_SET: u8 = 15;
pub(crate) const FILE_LOCK_GET: u8 = 16;
pub(crate) const FILE_LOCK_CLEAR_PID: u8 = 17;
pub(crate) const HELLO: u8 = 64;
pub(crate) const PROCESS_START: u8 = 65;
pub(crate) const PROCESS_CHANGE: u8 = 67;
pub(crate) const PROCESS_QUERY: u8 = 68;
pub(crate) const FILE_LOCK_CANCEL: u8 = 71;
pub(crate) const FILE_HANDLE: u8 = 72;
pub(crate) const FILE_LOCK_DELEGATE: u8 = 73;
pub(crate) const FILE_LOCK_RECALL: u8 = 74;
pub(crate) const FILE_LOCK_RETURN: u8 = 75;
pub(crate) const LOG: u8 = 78;
pub(crate) const HEIR_READY: u8 = 80;
pub(crate) const MARK: u8 = 86;
pub(crate) const WHO_LEADS: u8 = 87;
/// The messages of a succession: `HEIRS` to `REJOIN`, `MARK`, `WHO_LEADS` and `DISMISS`.
pub(crate) const SUCCESSION: [u8; 10] = [77, 78, 79, 80, 81, 82, 83, MARK, WHO_LEADS, 88];
pub(crate) const DISMISS: u8 = 88;
pub(crate) const LIMITS: u8 = 96;
pub(crate) const PID_KILL_ORDERED: u8 = 99;
pub(crate) const FENCING_NUMBER: u8 = 111;

/// The feature bit of a process that goes on with another leader, and that of one that can lead. The highest 24 bits of the
/// features are a hash of the limits with which it can lead.
pub(crate) const FOLLOWS: u32 = 2;
pub(crate) const CAN_LEAD: u32 = 4;

// The kinds of locks.
pub(crate) const READ: u32 = 0;
pub(crate) const WRITE: u32 = 1;

// The states of a sync handle at a client.
pub(crate) const SHARED: u32 = 2;
pub(crate) const EXCLUSIVE: u32 = 3;

/// Makes a payload of numbers.
pub(crate) fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

/// A request for a record lock.
#[derive(Clone, Copy)]
pub(crate) struct Lock<'a> {
    pub(crate) path: &'a str,
    /// The first and the last byte.
    pub(crate) range: (u64, u64),
    /// The owner.
    pub(crate) pid: u32,
    /// [`READ`] or [`WRITE`].
    pub(crate) kind: u32,
    /// Whether the request waits for a conflicting lock.
    pub(crate) waits: bool,
    /// The number of the delegation in a request for one.
    pub(crate) number: u64,
}

impl Lock<'_> {
    pub(crate) fn payload(&self) -> Vec<u8> {
        let (start, end) = self.range;
        [
            &numbers(&[1, self.kind])[..],
            &start.to_le_bytes(),
            &end.to_le_bytes(),
            &numbers(&[self.pid, 0]),
            &self.number.to_le_bytes(),
            &[u8::from(self.waits)],
            self.path.as_bytes(),
            &[0; 1 + 7],
        ]
        .concat()
    }
}

/// The process that a raw member pretends to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) vmid: u32,
    pub(crate) pid: u32,
}

/// A received frame.
struct Frame {
    seq: u64,
    code: u8,
    payload: Vec<u8>,
}

/// A member that is made of its two streams with the leader.
pub(crate) struct Raw {
    address: PathBuf,
    listener: UnixListener,
    to_leader: UnixStream,
    /// The stream from the leader, as soon as the leader has connected.
    from_leader: Option<UnixStream>,
    /// The sequence number of the last request.
    seq: u64,
    /// The bytes that are still to be written.
    unsent: Vec<u8>,
    /// The bytes that have been read, and not handled.
    unhandled: Vec<u8>,
}

impl Raw {
    /// Connects as that process, and sends its HELLO.
    pub(crate) fn join(base: &Path, identity: Identity) -> Result<Raw> {
        Raw::join_with(base, identity, 0)
    }

    /// Connects as that process, and sends its HELLO with those features.
    pub(crate) fn join_with(base: &Path, identity: Identity, features: u32) -> Result<Raw> {
        let address = address(base, identity.vmid);
        let _ = std::fs::remove_file(&address);
        let listener = UnixListener::bind(&address).context("listening as an attacker")?;
        listener.set_nonblocking(true)?;
        let mut raw = Raw {
            address,
            listener,
            to_leader: connect(base, identity.vmid)?,
            from_leader: None,
            seq: 0,
            unsent: Vec::new(),
            unhandled: Vec::new(),
        };
        raw.put_unanswered(HELLO, &numbers(&[1, features, identity.pid, 1]));
        raw.flush()?;
        Ok(raw)
    }

    /// Returns the sequence number of the last request.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// Opens a stream to the leader that begins with these bytes.
    pub(crate) fn open(base: &Path, bytes: &[u8]) -> Result<UnixStream> {
        let mut stream =
            UnixStream::connect(address(base, 1)).context("connecting to the leader")?;
        stream.write_all(bytes)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Adds a request to those that [`Raw::send`] writes.
    pub(crate) fn put(&mut self, code: u8, payload: &[u8]) {
        self.seq += 1;
        self.put_frame(self.seq, code, payload);
    }

    /// Adds a message without an answer.
    pub(crate) fn put_unanswered(&mut self, code: u8, payload: &[u8]) {
        self.put_frame(0, code, payload);
    }

    fn put_frame(&mut self, seq: u64, code: u8, payload: &[u8]) {
        let size = (HEADER_LENGTH + payload.len()) as u64;
        self.unsent.extend(size.to_le_bytes());
        self.unsent.extend(seq.to_le_bytes());
        self.unsent.push(code);
        self.unsent.extend(payload);
    }

    /// Writes as much as the leader takes now. Returns false if bytes remain.
    pub(crate) fn send(&mut self) -> Result<bool> {
        let mut sent = 0;
        let outcome = loop {
            let rest = self.unsent.get(sent..).unwrap_or(&[]);
            if rest.is_empty() {
                break Ok(true);
            }
            match self.to_leader.write(rest) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(false),
                Err(error) => break Err(error).context("the leader has closed the stream"),
            }
        };
        self.unsent.drain(..sent);
        outcome
    }

    /// Writes everything. Answers that arrive meanwhile are dropped.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while !self.send()? {
            self.drain();
            if Instant::now() > end {
                bail!("the leader takes no requests for {LIMIT:?}");
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Reads everything that the leader has written, and drops it.
    pub(crate) fn drain(&mut self) {
        self.read();
        self.unhandled.clear();
    }

    /// Reads everything that the leader has written.
    fn read(&mut self) {
        if self.from_leader.is_none()
            && let Ok((stream, _)) = self.listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            // The first four bytes are the leader's VMID.
            let mut vmid = [0; 4];
            let mut stream = stream;
            let end = Instant::now() + LIMIT;
            while stream.read(&mut vmid).is_err() && Instant::now() < end {
                thread::sleep(PAUSE);
            }
            self.from_leader = Some(stream);
        }
        let Some(stream) = &mut self.from_leader else {
            return;
        };
        let mut buffer = [0; 16_384];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            self.unhandled.extend(&buffer[..count]);
        }
    }

    /// Sends a request after all others, and returns the payload of its answer.
    pub(crate) fn call(&mut self, code: u8, payload: &[u8]) -> Result<Vec<u8>> {
        self.put(code, payload);
        let end = Instant::now() + LIMIT;
        loop {
            self.send()?;
            self.read();
            if let Some(answer) = self.take_answer(self.seq) {
                return Ok(answer);
            }
            if Instant::now() > end {
                bail!("the leader has not answered in {LIMIT:?}");
            }
            thread::sleep(PAUSE);
        }
    }

    /// Drops the frames that have arrived, up to the answer to that request, and returns its payload.
    fn take_answer(&mut self, seq: u64) -> Option<Vec<u8>> {
        while let Some(frame) = self.take_frame() {
            if frame.seq == seq && frame.code == 0 {
                return Some(frame.payload);
            }
        }
        None
    }

    /// Accepts a further stream of the leader.
    pub(crate) fn accept(&self) -> Option<UnixStream> {
        self.from_leader.as_ref()?;
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    }

    /// Returns the features of the leader, if its HELLO has arrived.
    pub(crate) fn leader_features(&mut self) -> Option<u32> {
        let frames = self.take_frames();
        let (_, hello) = frames.into_iter().find(|(code, _)| *code == HELLO)?;
        Some(u32::from_le_bytes(*hello.get(4..)?.first_chunk()?))
    }

    /// Returns the codes and payloads of the frames that have arrived.
    pub(crate) fn take_frames(&mut self) -> Vec<(u8, Vec<u8>)> {
        self.read();
        let mut frames = Vec::new();
        while let Some(frame) = self.take_frame() {
            frames.push((frame.code, frame.payload));
        }
        frames
    }

    /// Returns the next frame, if all of it has been read.
    fn take_frame(&mut self) -> Option<Frame> {
        let size = u64::from_le_bytes(*self.unhandled.first_chunk()?);
        let size = usize::try_from(size)
            .unwrap_or(usize::MAX)
            .max(HEADER_LENGTH);
        if self.unhandled.len() < size {
            return None;
        }
        let bytes: Vec<u8> = self.unhandled.drain(..size).collect();
        Some(Frame {
            seq: u64::from_le_bytes(*bytes[8..].first_chunk()?),
            code: bytes[HEADER_LENGTH - 1],
            payload: bytes[HEADER_LENGTH..].to_vec(),
        })
    }

    /// Waits until the leader has handled everything that was sent: it answers a request behind all
    /// others.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.flush()?;
        self.call(GET_ID_OWNER, &numbers(&[1])).map(drop)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.to_leader.shutdown(Shutdown::Both);
        let _ = std::fs::remove_file(&self.address);
    }
}

fn address(base: &Path, vmid: u32) -> PathBuf {
    PathBuf::from(format!("{}.{vmid}", base.display()))
}

/// Opens a stream to the leader that names `vmid` as its opener.
pub(crate) fn connect(base: &Path, vmid: u32) -> Result<UnixStream> {
    Raw::open(base, &vmid.to_le_bytes())
}
