//! A member without the library: it sends and reads raw bytes, built by hand from the protocol,
//! over its own Unix sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// No answer takes longer, unless something is wrong.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

pub(crate) const GET_NEW_VMID: u8 = 1;
pub(crate) const ALLOC_ID_RANGE: u8 = 3;
pub(crate) const RELEASE_ID_RANGE: u8 = 4;
pub(crate) const CHANGE_ID_OWNER: u8 = 5;
pub(crate) const GET_ID_OWNER: u8 = 6;

/// Makes a frame: its length, a sequence number, a code and a payload.
pub(crate) fn frame(seq: u64, code: u8, payload: &[u8]) -> Vec<u8> {
    let size = 17 + payload.len() as u64;
    [
        &size.to_le_bytes()[..],
        &seq.to_le_bytes(),
        &[code],
        payload,
    ]
    .concat()
}

/// Makes two numbers, as in ranges and owners.
pub(crate) fn pair(first: u32, second: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_le_bytes());
    bytes[4..].copy_from_slice(&second.to_le_bytes());
    bytes
}

/// Returns the numbers of an answer.
pub(crate) fn numbers(payload: &[u8]) -> Vec<u32> {
    let (numbers, rest) = payload.as_chunks::<4>();
    assert!(rest.is_empty(), "an answer of {} bytes", payload.len());
    numbers
        .iter()
        .map(|number| u32::from_le_bytes(*number))
        .collect()
}

/// A member of the family at `base`, whose leader is member 1.
pub(crate) struct Peer {
    address: PathBuf,
    listener: UnixListener,
    /// To the leader.
    pub(crate) to: UnixStream,
    /// The stream from the leader, once it is open.
    from: Option<UnixStream>,
    seq: u64,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A program that another test is just starting has the descriptor, too, until it is
        // executed.
        let _ = self.to.shutdown(Shutdown::Both);
        let _ = std::fs::remove_file(&self.address);
    }
}

impl Peer {
    /// Joins as member `vmid`.
    pub(crate) fn join(base: &Path, vmid: u32) -> Peer {
        let address = PathBuf::from(format!("{}.{vmid}", base.display()));
        let listener = UnixListener::bind(&address).unwrap();
        listener.set_nonblocking(true).unwrap();
        Peer {
            address,
            listener,
            to: connect(base, vmid),
            from: None,
            seq: 0,
        }
    }

    /// Sends a request; returns its sequence number.
    pub(crate) fn send(&mut self, code: u8, payload: &[u8]) -> u64 {
        self.seq += 1;
        self.to.write_all(&frame(self.seq, code, payload)).unwrap();
        self.seq
    }

    /// Sends a request and reads the answer to it.
    pub(crate) fn ask(&mut self, code: u8, payload: &[u8]) -> Vec<u8> {
        let seq = self.send(code, payload);
        self.answer_to(seq)
    }

    pub(crate) fn owner_of(&mut self, id: u32) -> u32 {
        let owner = numbers(&self.ask(GET_ID_OWNER, &id.to_le_bytes()));
        assert_eq!(owner.len(), 1);
        owner[0]
    }

    /// Reads the next answer, which must be to the request `seq`.
    pub(crate) fn answer_to(&mut self, seq: u64) -> Vec<u8> {
        let from = self.from();
        let mut header = [0; 17];
        from.read_exact(&mut header).unwrap();
        let size = u64::from_le_bytes(header[..8].try_into().unwrap());
        assert_eq!(
            u64::from_le_bytes(header[8..16].try_into().unwrap()),
            seq,
            "the answers' order"
        );
        assert_eq!(header[16], 0, "the code of an answer");
        let length = usize::try_from(size.checked_sub(17).unwrap()).unwrap();
        assert!(length < 4096, "an answer of {length} bytes");
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).unwrap();
        payload
    }

    /// Returns the leader's stream to this member, after the VMID.
    pub(crate) fn from(&mut self) -> &mut UnixStream {
        if self.from.is_none() {
            self.from = Some(self.accept());
        }
        self.from.as_mut().unwrap()
    }

    /// Accepts a stream of the leader, and reads the VMID.
    pub(crate) fn accept(&self) -> UnixStream {
        self.accept_from(1)
    }

    /// Accepts a stream of that process, and reads the VMID.
    pub(crate) fn accept_from(&self, number: u32) -> UnixStream {
        let until = Instant::now() + LIMIT;
        let mut stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(
                        Instant::now() < until,
                        "the leader did not connect in {LIMIT:?}"
                    );
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut vmid = [0; 4];
        stream.read_exact(&mut vmid).unwrap();
        assert_eq!(vmid, number.to_le_bytes(), "the number of the process");
        stream
    }
}

/// Opens a stream to the leader with this `vmid`.
pub(crate) fn connect(base: &Path, vmid: u32) -> UnixStream {
    let mut stream = UnixStream::connect(format!("{}.1", base.display())).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream.write_all(&vmid.to_le_bytes()).unwrap();
    stream
}

/// Waits until the other end closes the stream, without any bytes before.
pub(crate) fn assert_closed(stream: &mut UnixStream, why: &str) {
    match stream.read(&mut [0; 1]) {
        Ok(0) => {}
        // The kernel reports this if unread bytes were left.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{why}: not closed but {other:?}"),
    }
}
