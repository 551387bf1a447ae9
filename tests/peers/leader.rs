//! A leader like that of the C implementation: a single thread, a backlog of 1, bare bytes.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use crate::c_server::CServer;
use crate::peer::{frame, numbers, pair};

/// The backlog of the C implementation.
const BACKLOG: i32 = 1;

/// A leader in a thread of its own.
pub(crate) struct CLeader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Counts, String>>>,
}

/// The counts of the leader.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) members: usize,
    /// Frames of codes that it does not know, except HELLO.
    pub(crate) unknown: usize,
}

struct Member {
    vmid: Option<u32>,
    stream: UnixStream,
    bytes: Vec<u8>,
}

struct State {
    base: PathBuf,
    served: Counts,
    next_vmid: u32,
    next_id: u32,
    owners: HashMap<u32, u32>,
    to: HashMap<u32, UnixStream>,
    syncs: CServer,
}

impl CLeader {
    pub(crate) fn start(base: &Path) -> CLeader {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        bind(&socket, &SocketAddrUnix::new(address(base, 1)).unwrap()).unwrap();
        listen(&socket, BACKLOG).unwrap();
        let listener = UnixListener::from(socket);
        let stop = Arc::new(AtomicBool::new(false));
        let (base, stopped) = (base.to_owned(), Arc::clone(&stop));
        let thread = thread::spawn(move || serve(&listener, base, &stopped));
        CLeader {
            stop,
            thread: Some(thread),
        }
    }

    /// Ends it, and returns its counts, or the reason why it had ended before.
    pub(crate) fn end(mut self) -> Result<Counts, String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for CLeader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn address(base: &Path, vmid: u32) -> PathBuf {
    PathBuf::from(format!("{}.{vmid}", base.display()))
}

fn serve(listener: &UnixListener, base: PathBuf, stop: &AtomicBool) -> Result<Counts, String> {
    let mut state = State {
        base,
        served: Counts::default(),
        next_vmid: 2,
        next_id: 1,
        owners: HashMap::new(),
        to: HashMap::new(),
        syncs: CServer::default(),
    };
    let mut members: Vec<Member> = Vec::new();
    let soon = Timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    while !stop.load(Ordering::SeqCst) {
        let mut watched: Vec<_> = members
            .iter()
            .map(|member| PollFd::new(&member.stream, PollFlags::IN))
            .collect();
        watched.push(PollFd::new(listener, PollFlags::IN));
        poll(&mut watched, Some(&soon)).unwrap();
        let ready: Vec<_> = watched
            .iter()
            .map(|watched| !watched.revents().is_empty())
            .collect();
        drop(watched);
        let mut gone = Vec::new();
        for (at, member) in members.iter_mut().enumerate() {
            if ready[at] && !state.read(member)? {
                gone.push(at);
            }
        }
        for at in gone.into_iter().rev() {
            let member = members.remove(at);
            if let Some(vmid) = member.vmid {
                state.to.remove(&vmid);
            }
        }
        if ready[ready.len() - 1] {
            let (stream, _) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            members.push(Member {
                vmid: None,
                stream,
                bytes: Vec::new(),
            });
        }
    }
    Ok(state.served)
}

impl State {
    /// Reads the bytes of a member, and handles them. False at the end of the stream.
    fn read(&mut self, member: &mut Member) -> Result<bool, String> {
        let mut bytes = [0; 4096];
        match member.stream.read(&mut bytes) {
            Ok(0) => return Ok(false),
            Ok(count) => member.bytes.extend(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(_) => return Ok(false),
        }
        loop {
            let Some(vmid) = member.vmid else {
                let Some(vmid) = member.bytes.first_chunk() else {
                    return Ok(true);
                };
                member.vmid = Some(u32::from_le_bytes(*vmid));
                member.bytes.drain(..4);
                self.served.members += 1;
                continue;
            };
            let Some(size) = member.bytes.first_chunk() else {
                return Ok(true);
            };
            let size = usize::try_from(u64::from_le_bytes(*size)).unwrap();
            if member.bytes.len() < size {
                return Ok(true);
            }
            let whole: Vec<u8> = member.bytes.drain(..size).collect();
            let seq = u64::from_le_bytes(whole[8..16].try_into().unwrap());
            self.handle_message(vmid, seq, whole[16], &whole[17..])?;
        }
    }

    fn handle_message(
        &mut self,
        from: u32,
        seq: u64,
        code: u8,
        payload: &[u8],
    ) -> Result<(), String> {
        let answer = match code {
            1 => {
                self.next_vmid += 1;
                (self.next_vmid - 1).to_le_bytes().to_vec()
            }
            3 => {
                let start = self.next_id;
                self.next_id += 32;
                self.owners.extend((start..start + 32).map(|id| (id, from)));
                pair(start, start + 31).to_vec()
            }
            5 => {
                let numbers = numbers(payload);
                self.owners.insert(numbers[0], numbers[1]);
                Vec::new()
            }
            6 => {
                let owner = self.owners.get(&numbers(payload)[0]);
                owner.copied().unwrap_or(0).to_le_bytes().to_vec()
            }
            9 | 11 | 13 => return self.on_sync(from, code, payload),
            2 | 4 | 64 => return Ok(()),
            _ => {
                self.served.unknown += 1;
                return Ok(());
            }
        };
        self.send(from, &frame(seq, 0, &answer))
    }

    fn on_sync(&mut self, from: u32, code: u8, payload: &[u8]) -> Result<(), String> {
        let id = u64::from_le_bytes(payload[..8].try_into().unwrap());
        let state = i32::from_le_bytes(payload[16..20].try_into().unwrap());
        let data = &payload[20..payload.len() - 4];
        for message in self.syncs.on_message(from, code, id, state, data)? {
            let payload = [
                &message.id.to_le_bytes()[..],
                &(message.data.len() as u64).to_le_bytes(),
                &message.state.to_le_bytes(),
                &message.data,
                &[0; 4],
            ]
            .concat();
            self.send(message.to, &frame(0, message.code, &payload))?;
        }
        Ok(())
    }

    /// Sends bytes to a member. A failure ends the leader.
    fn send(&mut self, to: u32, bytes: &[u8]) -> Result<(), String> {
        let fault = |error: std::io::Error| format!("process {to} can't be answered: {error}");
        if !self.to.contains_key(&to) {
            let mut stream = UnixStream::connect(address(&self.base, to)).map_err(fault)?;
            stream.write_all(&1_u32.to_le_bytes()).map_err(fault)?;
            self.to.insert(to, stream);
        }
        let mut stream = &self.to[&to];
        stream.write_all(bytes).map_err(fault)
    }
}
