//! A platform in memory: a few other processes, which the fuzzer controls, and a clock that
//! advances whenever it is read, so that every wait ends.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard};

use crate::c::*;

const EAGAIN: c_int = 11;
const ECONNREFUSED: c_int = 111;
/// The number of bytes that a stream accepts before it is read.
const STREAM_CAPACITY: usize = 2048;
/// The advance of the clock at each reading, in nanoseconds.
const TICK: u64 = 20_000;

/// A stream, in either direction.
#[derive(Default)]
pub struct Stream {
    /// The process that opened it, or to which it was opened.
    pub peer: u32,
    /// Bytes for the library to read, or bytes that the library wrote and no process has read.
    pub bytes: VecDeque<u8>,
    is_incoming: bool,
    is_ended: bool,
    /// The token and the interest, if the stream is watched.
    watched: Option<(u64, u32)>,
}

/// The streams, the other processes and the clock.
#[derive(Default)]
pub struct Network {
    /// The streams, by the number that the library has in place of a pointer.
    pub streams: BTreeMap<usize, Stream>,
    last_number: usize,
    /// The streams that the library has not accepted yet.
    unaccepted: VecDeque<usize>,
    /// Whether the library waits for new streams.
    is_listening: bool,
    /// The state of each event.
    events: Vec<bool>,
    /// In nanoseconds.
    time: u64,
    /// The processes that listen, as bits.
    pub listening: u32,
    /// The memory that the library has and must release, by address.
    pub allocated: BTreeMap<usize, Vec<u8>>,
}

static NETWORK: Mutex<Option<Network>> = Mutex::new(None);

/// The network, locked.
pub struct LockedNetwork(MutexGuard<'static, Option<Network>>);

impl std::ops::Deref for LockedNetwork {
    type Target = Network;
    fn deref(&self) -> &Network {
        self.0.as_ref().expect("it was made")
    }
}

impl std::ops::DerefMut for LockedNetwork {
    fn deref_mut(&mut self) -> &mut Network {
        self.0.get_or_insert_with(Network::default)
    }
}

/// Locks the network.
pub fn network() -> LockedNetwork {
    let mut network = NETWORK.lock().expect("one thread");
    network.get_or_insert_with(Network::default);
    LockedNetwork(network)
}

impl Network {
    fn add(&mut self, stream: Stream) -> usize {
        self.last_number += 1;
        self.streams.insert(self.last_number, stream);
        self.last_number
    }

    /// Returns the stream that a process has opened to the library, and opens it if there is none.
    pub fn stream_of(&mut self, peer: u32) -> &mut Stream {
        let is_open =
            |stream: &Stream| stream.is_incoming && !stream.is_ended && stream.peer == peer;
        let open = self.streams.iter().find(|(_, stream)| is_open(stream));
        let number = match open.map(|(number, _)| *number) {
            Some(number) => number,
            None => {
                let number = self.add(Stream {
                    peer,
                    is_incoming: true,
                    bytes: peer.to_le_bytes().into(),
                    ..Stream::default()
                });
                self.unaccepted.push_back(number);
                number
            }
        };
        self.streams.get_mut(&number).expect("it is there")
    }

    /// Ends all streams of a process, in both directions; its bytes can still be read.
    pub fn end(&mut self, peer: u32) {
        for stream in self
            .streams
            .values_mut()
            .filter(|stream| stream.peer == peer)
        {
            stream.is_ended = true;
        }
    }

    /// The process reads all bytes that were sent to it.
    pub fn read_all(&mut self, peer: u32) {
        let outgoing = |stream: &&mut Stream| !stream.is_incoming && stream.peer == peer;
        for stream in self.streams.values_mut().filter(outgoing) {
            stream.bytes.clear();
        }
    }

    /// Resets the platform before the next input: no call waits, and no process listens.
    pub fn reset(&mut self) {
        let streams = &self.streams;
        assert!(
            streams
                .keys()
                .all(|number| self.unaccepted.contains(number)),
            "streams were not closed"
        );
        assert!(self.allocated.is_empty(), "a result was not given back");
        self.streams.clear();
        self.unaccepted.clear();
        self.listening = 0;
    }
}

extern "C" fn allocate(_: Pointer, size: usize) -> Pointer {
    let mut bytes = vec![0; size];
    let at = bytes.as_mut_ptr();
    network().allocated.insert(at as usize, bytes);
    at.cast()
}

pub extern "C" fn release(_: Pointer, memory: Pointer) {
    let was = network().allocated.remove(&(memory as usize));
    assert!(was.is_some(), "nobody has allocated that");
}

extern "C" fn now(_: Pointer) -> u64 {
    let mut network = network();
    network.time += TICK;
    network.time
}

extern "C" fn listen(_: Pointer, _: u32) -> c_int {
    network().is_listening = true;
    0
}

extern "C" fn connect(_: Pointer, peer: u32, stream: *mut Pointer) -> c_int {
    let mut network = network();
    if peer >= 32 || network.listening & 1 << peer == 0 {
        return -ECONNREFUSED;
    }
    if network.streams.len() > 64 {
        return -EAGAIN;
    }
    let number = network.add(Stream {
        peer,
        ..Stream::default()
    });
    unsafe { *stream = number as Pointer };
    0
}

extern "C" fn accept(_: Pointer, stream: *mut Pointer) -> c_int {
    match network().unaccepted.pop_front() {
        Some(number) => {
            unsafe { *stream = number as Pointer };
            0
        }
        None => -EAGAIN,
    }
}

extern "C" fn read(_: Pointer, stream: Pointer, buffer: Pointer, size: usize) -> i64 {
    let mut network = network();
    let stream = network
        .streams
        .get_mut(&(stream as usize))
        .expect("it is open");
    assert!(stream.is_incoming);
    let count = size.min(stream.bytes.len());
    for (at, byte) in stream.bytes.drain(..count).enumerate() {
        unsafe { buffer.cast::<u8>().add(at).write(byte) };
    }
    if count == 0 && !stream.is_ended {
        -i64::from(EAGAIN)
    } else {
        count as i64
    }
}

extern "C" fn write(_: Pointer, stream: Pointer, data: *const c_void, size: usize) -> i64 {
    let mut network = network();
    let stream = network
        .streams
        .get_mut(&(stream as usize))
        .expect("it is open");
    assert!(!stream.is_incoming);
    if stream.is_ended {
        return -32;
    }
    let count = size.min(STREAM_CAPACITY - stream.bytes.len());
    if count == 0 {
        return -i64::from(EAGAIN);
    }
    stream
        .bytes
        .extend((0..count).map(|at| unsafe { data.cast::<u8>().add(at).read() }));
    count as i64
}

extern "C" fn close(_: Pointer, stream: Pointer) {
    let was = network().streams.remove(&(stream as usize));
    assert!(
        was.is_some_and(|stream| stream.watched.is_none()),
        "it is watched"
    );
}

extern "C" fn watch(_: Pointer, stream: Pointer, token: u64, interest: u32) -> c_int {
    rewatch(std::ptr::null_mut(), stream, token, interest);
    0
}

extern "C" fn rewatch(_: Pointer, stream: Pointer, token: u64, interest: u32) {
    let mut network = network();
    let stream = network
        .streams
        .get_mut(&(stream as usize))
        .expect("it is open");
    stream.watched = Some((token, interest));
}

extern "C" fn unwatch(_: Pointer, stream: Pointer) {
    let mut network = network();
    let stream = network
        .streams
        .get_mut(&(stream as usize))
        .expect("it is open");
    stream.watched = None;
}

extern "C" fn watch_listener(_: Pointer, on: bool) {
    network().is_listening = on;
}

extern "C" fn wait(_: Pointer, ready: *mut libos_ipc_ready, most: usize, _: u64) -> usize {
    let mut network = network();
    network.time += TICK;
    let mut found = Vec::new();
    if network.is_listening && !network.unaccepted.is_empty() {
        found.push((u64::MAX, 1));
    }
    for stream in network.streams.values() {
        let Some((token, interest)) = stream.watched else {
            continue;
        };
        let is_readable = stream.is_incoming && (!stream.bytes.is_empty() || stream.is_ended);
        let is_writable = !stream.is_incoming && stream.bytes.len() < STREAM_CAPACITY;
        let ready_for = u32::from(is_readable) | u32::from(is_writable) << 1;
        let readiness = ready_for & interest | u32::from(stream.is_ended) << 2;
        if readiness != 0 {
            found.push((token, readiness));
        }
    }
    found.truncate(most);
    for (at, &(token, readiness)) in found.iter().enumerate() {
        let entry = libos_ipc_ready {
            token,
            readiness,
            reserved: 0,
        };
        unsafe { ready.add(at).write(entry) };
    }
    found.len()
}

extern "C" fn wake(_: Pointer) {}

extern "C" fn event_create(_: Pointer, event: *mut Pointer) -> c_int {
    let mut network = network();
    network.events.push(false);
    unsafe { *event = network.events.len() as Pointer };
    0
}

extern "C" fn event_set(_: Pointer, event: Pointer) {
    network().events[event as usize - 1] = true;
}

extern "C" fn event_clear(_: Pointer, event: Pointer) {
    network().events[event as usize - 1] = false;
}

extern "C" fn event_is_set(_: Pointer, event: Pointer) -> bool {
    network().events[event as usize - 1]
}

extern "C" fn event_wait(_: Pointer, _: Pointer, _: u64) {}

extern "C" fn signal(_: Pointer, kill: *const libos_ipc_pid_kill) -> c_int {
    let number = unsafe { (*kill).signum };
    [0, -3, -1][number.unsigned_abs() as usize % 3]
}

extern "C" fn metadata(_: Pointer, pid: u32, _: u32, data: Pointer, size: usize) -> i64 {
    match pid % 4 {
        0 => -3,
        1 => {
            unsafe { data.cast::<u8>().write_bytes(1, 8) };
            8
        }
        2 => {
            unsafe { data.copy_from_nonoverlapping(c"/bin/sh".as_ptr().cast(), 8) };
            8
        }
        // A size beyond the buffer is a fault of the library OS.
        _ => size as i64 + 1,
    }
}

extern "C" fn is_zombie(_: Pointer, pid: u32) -> bool {
    pid == 3
}

extern "C" fn this_process(_: Pointer, this: *mut libos_ipc_self) {
    let own = libos_ipc_self {
        pid: 1,
        ppid: 0,
        uid: 7,
    };
    unsafe { this.write(own) };
}

extern "C" fn log(_: Pointer, _: u32, line: *const c_char) {
    let line = unsafe { CStr::from_ptr(line) };
    assert!(line.to_bytes().len() < 4096, "a line is short");
}

extern "C" fn fatal(_: Pointer, _: *const c_char) {
    panic!("the library has found a fault of its own");
}

pub fn platform(memory: &'static mut [u128]) -> libos_ipc_platform {
    libos_ipc_platform {
        context: std::ptr::null_mut(),
        memory_size: size_of_val(memory),
        memory: memory.as_mut_ptr().cast(),
        allocate: Some(allocate),
        release: Some(release),
        now: Some(now),
        listen: Some(listen),
        connect: Some(connect),
        accept: Some(accept),
        read: Some(read),
        write: Some(write),
        close: Some(close),
        watch: Some(watch),
        rewatch: Some(rewatch),
        unwatch: Some(unwatch),
        watch_listener: Some(watch_listener),
        wait: Some(wait),
        wake: Some(wake),
        event_create: Some(event_create),
        event_set: Some(event_set),
        event_clear: Some(event_clear),
        event_is_set: Some(event_is_set),
        event_wait: Some(event_wait),
        wait_readable: None,
        thread_create: None,
        r#yield: None,
    }
}

pub fn callbacks() -> libos_ipc_callbacks {
    libos_ipc_callbacks {
        signal: Some(signal),
        metadata: Some(metadata),
        child_died: None,
        disconnected: None,
        is_zombie: Some(is_zombie),
        this_process: Some(this_process),
        file_key: None,
        log: Some(log),
        fatal: Some(fatal),
        parent_ended: None,
        cut_off: None,
        leader_changed: None,
    }
}
