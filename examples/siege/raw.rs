//! A member without the library: it writes the bytes of `docs/protocol.md` to the leader, and reads
//! only what it wants to.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The time in which the leader must take what is written, and answer a request.
const LIMIT: Duration = Duration::from_secs(20);

/// The pause before a full or empty stream is tried again.
const PAUSE: Duration = Duration::from_micros(200);

/// The length of a frame without its payload.
const HEADER: usize = 17;

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

/// The features of a process that goes on with another leader, and of one that can lead: the highest 24 bits say with what
/// limits.
pub(crate) const FOLLOWS: u32 = 2;
pub(crate) const CAN_LEAD: u32 = 4;

pub(crate) const READ: u32 = 0;
pub(crate) const WRITE: u32 = 1;

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
    pub(crate) range: (u64, u64),
    pub(crate) pid: u32,
    pub(crate) kind: u32,
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

/// The member's two streams with the leader.
pub(crate) struct Raw {
    address: PathBuf,
    listener: UnixListener,
    to: UnixStream,
    /// The stream from the leader, as soon as the leader has connected.
    from: Option<UnixStream>,
    seq: u64,
    unsent: Vec<u8>,
    unread: Vec<u8>,
}

impl Raw {
    /// Connects as that process, and sends its HELLO.
    pub(crate) fn join(base: &Path, identity: Identity) -> Result<Raw> {
        Raw::join_with(base, identity, 0)
    }

    /// Like [`Raw::join`], with those features.
    pub(crate) fn join_with(base: &Path, identity: Identity, features: u32) -> Result<Raw> {
        let address = address(base, identity.vmid);
        let _ = std::fs::remove_file(&address);
        let listener = UnixListener::bind(&address).context("listening as an attacker")?;
        listener.set_nonblocking(true)?;
        let mut raw = Raw {
            address,
            listener,
            to: connect(base, identity.vmid)?,
            from: None,
            seq: 0,
            unsent: Vec::new(),
            unread: Vec::new(),
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
        let size = (HEADER + payload.len()) as u64;
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
            match self.to.write(rest) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(false),
                Err(error) => break Err(error).context("the leader has closed the stream"),
            }
        };
        self.unsent.drain(..sent);
        outcome
    }

    /// Writes everything, and reads the answers meanwhile.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while !self.send()? {
            self.read();
            self.unread.clear();
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
        self.unread.clear();
    }

    fn read(&mut self) {
        if self.from.is_none()
            && let Ok((stream, _)) = self.listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            // The first four bytes are the leader's VMID.
            let mut opener = [0; 4];
            let mut stream = stream;
            let end = Instant::now() + LIMIT;
            while stream.read(&mut opener).is_err() && Instant::now() < end {
                thread::sleep(PAUSE);
            }
            self.from = Some(stream);
        }
        let Some(from) = &mut self.from else { return };
        let mut buffer = [0; 16_384];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            self.unread.extend(&buffer[..count]);
        }
    }

    /// Sends a request after all others, and returns the payload of its answer.
    pub(crate) fn ask(&mut self, code: u8, payload: &[u8]) -> Result<Vec<u8>> {
        self.flush_and_keep()?;
        self.put(code, payload);
        let end = Instant::now() + LIMIT;
        loop {
            self.send()?;
            self.read();
            if let Some(answer) = self.answer_to(self.seq) {
                return Ok(answer);
            }
            if Instant::now() > end {
                bail!("the leader has not answered in {LIMIT:?}");
            }
            thread::sleep(PAUSE);
        }
    }

    fn flush_and_keep(&mut self) -> Result<()> {
        if self.send()? { Ok(()) } else { self.flush() }
    }

    /// Takes the frames that have arrived, up to the answer to that request.
    fn answer_to(&mut self, seq: u64) -> Option<Vec<u8>> {
        let (mut at, mut answer) = (0, None);
        while answer.is_none()
            && let Some(header) = self.unread.get(at..at + HEADER)
        {
            let number = |from: usize| u64::from_le_bytes(*header[from..].first_chunk().unwrap());
            let size = usize::try_from(number(0)).unwrap_or(usize::MAX);
            let Some(frame) = self.unread.get(at..at.saturating_add(size)) else {
                break;
            };
            if number(8) == seq && header[16] == 0 {
                answer = frame.get(HEADER..).map(<[u8]>::to_vec);
            }
            at += size;
        }
        self.unread.drain(..at);
        answer
    }

    /// Accepts a further stream of the leader.
    pub(crate) fn accept(&self) -> Option<UnixStream> {
        self.from.as_ref()?;
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
        while let Some(size) = self
            .unread
            .first_chunk()
            .map(|size| u64::from_le_bytes(*size))
            && let size = usize::try_from(size).unwrap_or(usize::MAX).max(HEADER)
            && self.unread.len() >= size
        {
            let frame: Vec<u8> = self.unread.drain(..size).collect();
            frames.push((frame[HEADER - 1], frame[HEADER..].to_vec()));
        }
        frames
    }

    /// Waits until the leader has handled everything that was sent: it answers a request behind all
    /// others.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.flush()?;
        self.ask(GET_ID_OWNER, &numbers(&[1])).map(drop)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.to.shutdown(Shutdown::Both);
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
