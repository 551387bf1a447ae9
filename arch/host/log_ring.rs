//! A ring in shared memory, in which a leader writes its log for its heir: a write takes no system call, and wakes
//! nobody.
//!
//! The writer makes the memory and sends its descriptor over the socket of the stream. The socket stays open, so that
//! its end shows the end of the other process; nothing else is sent over it. What the writer has published in the ring
//! outlives it, as what a socket has taken does.
//!
//! Neither side trusts what the other one can write: each keeps its own index outside of the ring as well, takes places in
//! the ring from that copy only, and compares it with the index of the other side.
#![allow(
    unsafe_code,
    clippy::cast_ptr_alignment,
    reason = "places are aligned by their numbers, which the compiler does not see"
)]

use std::io::{IoSlice, IoSliceMut};
use std::mem::{MaybeUninit, size_of};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat,
    memfd_create,
};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};

use super::creator::Creator;
use super::errors::stream_error;
use crate::invariant::OrBroken;
use crate::pal::StreamError;

/// The bytes that the ring holds: a power of two.
pub(super) const SIZE: u32 = 1 << 18;

/// The place of the writer's index, the tail of the ring, in bytes.
const TAIL: usize = 0;
/// The place of the reader's index, the head of the ring: so far from the tail that they share no cache line, even if the
/// processor reads two lines at once.
const HEAD: usize = 128;
/// The place of a number that is not 0 once the writer has revoked the log.
const REVOKED: usize = 256;
/// The place of the first byte of the log.
const BYTES: usize = 4096;
/// The length of the shared memory.
const LENGTH: usize = BYTES + SIZE as usize;

/// The bit of the writer's index that the reader sets when it reads no more. An index is counted modulo this number.
const CLOSED: u32 = 1 << 31;

const WORD: usize = size_of::<usize>();

/// The shared memory.
#[derive(Debug)]
struct Mapping(NonNull<u8>);

// SAFETY: The memory is used through atomic and volatile accesses only, and stays mapped as long as this lives.
unsafe impl Send for Mapping {}
// SAFETY: As above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(memory: BorrowedFd<'_>) -> Result<Mapping, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // Pages that are there already: an access to the ring never waits for one.
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: The kernel chooses a place that nothing else uses.
        let start = unsafe { mmap(null_mut(), LENGTH, access, flags, memory, 0) }?;
        NonNull::new(start.cast()).map(Mapping).ok_or(Errno::NOMEM)
    }

    fn at(&self, place: usize) -> *mut u8 {
        // SAFETY: Each place that this module uses is within the mapping, also with the length of a word.
        unsafe { self.0.as_ptr().add(place) }
    }

    fn index(&self, place: usize) -> &AtomicU32 {
        // SAFETY: It is aligned, mapped as long as `self` lives, and used by atomic accesses only.
        unsafe { AtomicU32::from_ptr(self.at(place).cast()) }
    }

    /// Returns the number that counts the published bytes, with [`CLOSED`].
    fn tail(&self) -> &AtomicU32 {
        self.index(TAIL)
    }

    /// Returns the number that counts the bytes that were read.
    fn head(&self) -> &AtomicU32 {
        self.index(HEAD)
    }

    /// Returns the number that is not 0 once the writer has revoked the log.
    fn revoked(&self) -> &AtomicU32 {
        self.index(REVOKED)
    }

    /// Copies bytes into the ring, from the place of that index on.
    fn store(&self, index: u32, bytes: &[u8]) {
        let place = (index & (SIZE - 1)) as usize;
        let (first, second) = bytes.split_at(bytes.len().min((SIZE as usize).wrapping_sub(place)));
        self.store_at(BYTES.wrapping_add(place), first);
        self.store_at(BYTES, second);
    }

    /// Copies bytes to the place, behind which there is room for them.
    fn store_at(&self, place: usize, bytes: &[u8]) {
        let mut to = self.at(place);
        let (first, rest) = bytes.split_at(bytes.len().min(to.align_offset(WORD)));
        let (words, last) = rest.as_chunks::<WORD>();
        for byte in first {
            // SAFETY: The place is within the mapping.
            to = unsafe {
                to.write_volatile(*byte);
                to.add(1)
            };
        }
        for word in words {
            // SAFETY: The place is within the mapping, and aligned, since the bytes before end at a word.
            to = unsafe {
                to.cast::<usize>()
                    .write_volatile(usize::from_ne_bytes(*word));
                to.add(WORD)
            };
        }
        for byte in last {
            // SAFETY: The place is within the mapping.
            to = unsafe {
                to.write_volatile(*byte);
                to.add(1)
            };
        }
    }

    /// Copies bytes from the ring, from the place of that index on.
    fn load(&self, index: u32, bytes: &mut [u8]) {
        let place = (index & (SIZE - 1)) as usize;
        let (first, second) =
            bytes.split_at_mut(bytes.len().min((SIZE as usize).wrapping_sub(place)));
        self.load_from(BYTES.wrapping_add(place), first);
        self.load_from(BYTES, second);
    }

    /// Copies the bytes that begin at the place.
    fn load_from(&self, place: usize, bytes: &mut [u8]) {
        let mut from = self.at(place);
        let (first, rest) = bytes.split_at_mut(bytes.len().min(from.align_offset(WORD)));
        let (words, last) = rest.as_chunks_mut::<WORD>();
        for byte in first {
            // SAFETY: The place is within the mapping.
            (*byte, from) = unsafe { (from.read_volatile(), from.add(1)) };
        }
        for word in words {
            // SAFETY: The place is within the mapping, and aligned, since the bytes before end at a word.
            let value = unsafe { from.cast::<usize>().read_volatile() };
            *word = value.to_ne_bytes();
            // SAFETY: As above.
            from = unsafe { from.add(WORD) };
        }
        for byte in last {
            // SAFETY: The place is within the mapping.
            (*byte, from) = unsafe { (from.read_volatile(), from.add(1)) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: It was mapped with this length, and nothing refers to it any more.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), LENGTH) };
    }
}

/// The end of the ring at which bytes are written. One thread at a time writes.
#[derive(Debug)]
pub(super) struct RingWriter {
    mapping: Mapping,
    tail: AtomicU32,
    /// The reader's index as it was seen last.
    head: AtomicU32,
}

/// The end of the ring at which bytes are read. One thread at a time reads.
#[derive(Debug)]
pub(super) struct RingReader {
    mapping: Mapping,
    head: AtomicU32,
    creator: Creator,
}

/// Returns the number of bytes from one index to a later one.
fn distance(head: u32, tail: u32) -> u32 {
    tail.wrapping_sub(head) & !CLOSED
}

/// Returns the free bytes of the ring.
fn free(head: u32, tail: u32) -> usize {
    SIZE.wrapping_sub(distance(head, tail)) as usize
}

/// Returns the index so many bytes later, which are at most those of the ring.
fn after(index: u32, bytes: usize) -> u32 {
    index.wrapping_add(u32::try_from(bytes).or_broken(SIZE)) & !CLOSED
}

impl RingWriter {
    /// Makes a ring, and sends it with a byte to the process at the other end of the socket. `None` if the system has
    /// no memory for it: then nothing was sent, and the log goes over the socket.
    pub(super) fn send(socket: BorrowedFd<'_>) -> Result<Option<RingWriter>, StreamError> {
        let made = make_memory().and_then(|memory| {
            let mapping = Mapping::new(memory.as_fd())?;
            Ok((memory, mapping))
        });
        let Ok((memory, mapping)) = made else {
            return Ok(None);
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [memory.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = sendmsg(socket, &[IoSlice::new(&[0])], &mut control, flags);
        if sent != Ok(1) {
            return Err(StreamError::Closed);
        }
        Ok(Some(RingWriter {
            mapping,
            tail: AtomicU32::new(0),
            head: AtomicU32::new(0),
        }))
    }

    /// Revokes what was written: the reader must not act upon it.
    pub(super) fn revoke(&self) {
        // The end of the socket, by which the reader notices it, comes later.
        self.mapping.revoked().store(1, Ordering::Release);
    }

    /// Writes as much as there is room for, all parts in order.
    pub(super) fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        let tail = self.tail.load(Ordering::Relaxed);
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let mut head = self.head.load(Ordering::Relaxed);
        if free(head, tail) < length {
            // The acquire makes the writer overwrite bytes only after the reader has copied them.
            let now = self.mapping.head().load(Ordering::Acquire);
            if distance(now, tail) > distance(head, tail) {
                return Err(StreamError::Closed);
            }
            head = now;
            self.head.store(head, Ordering::Relaxed);
        }
        let mut room = free(head, tail);
        if room == 0 {
            return Err(StreamError::WouldBlock);
        }
        let mut next = tail;
        for part in parts {
            let (taken, _) = part.split_at(part.len().min(room));
            self.mapping.store(next, taken);
            next = after(next, taken.len());
            room = room.wrapping_sub(taken.len());
        }
        // The release publishes the bytes before the index. If the reader has closed the ring, the index has another value.
        self.mapping
            .tail()
            .compare_exchange(tail, next, Ordering::Release, Ordering::Relaxed)
            .map_err(|_| StreamError::Closed)?;
        self.tail.store(next, Ordering::Relaxed);
        Ok(distance(tail, next) as usize)
    }
}

impl RingReader {
    /// Receives what [`RingWriter::send`] has sent: `None` if that was nothing, and the bytes come over the socket. Then
    /// none of them was taken.
    pub(super) fn receive(socket: BorrowedFd<'_>) -> Result<Option<RingReader>, StreamError> {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT | RecvFlags::PEEK;
        let buffers = &mut [IoSliceMut::new(&mut byte)];
        let received = recvmsg(socket, buffers, &mut control, flags);
        if received.map_err(stream_error)?.bytes == 0 {
            return Err(StreamError::Closed);
        }
        let mut memory = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                memory = descriptors.last();
            }
        }
        let Some(memory) = memory else {
            return Ok(None);
        };
        // The byte goes with the descriptor, of which this process has a copy now.
        recv(socket, &mut byte, RecvFlags::DONTWAIT).map_err(stream_error)?;
        if !is_ring(memory.as_fd()) {
            return Err(StreamError::Closed);
        }
        let mapping = Mapping::new(memory.as_fd()).map_err(|_| StreamError::Closed)?;
        Ok(Some(RingReader {
            mapping,
            head: AtomicU32::new(0),
            creator: Creator::this(),
        }))
    }

    /// Returns true if the writer has revoked what it has written.
    pub(super) fn is_revoked(&self) -> bool {
        self.mapping.revoked().load(Ordering::Acquire) != 0
    }

    /// Reads as many published bytes as there are and fit: 0 if there are none.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let head = self.head.load(Ordering::Relaxed);
        let tail = self.mapping.tail().load(Ordering::Acquire);
        let published = distance(head, tail);
        if published > SIZE {
            return Err(StreamError::Closed);
        }
        let length = (published as usize).min(buffer.len());
        let Some(bytes) = buffer.get_mut(..length).filter(|_| length > 0) else {
            return Ok(0);
        };
        self.mapping.load(head, bytes);
        let next = after(head, length);
        self.head.store(next, Ordering::Relaxed);
        // The writer may reuse the place from now on.
        self.mapping.head().store(next, Ordering::Release);
        Ok(length)
    }
}

impl Drop for RingReader {
    /// From now on each write fails, even of a writer that had stopped in the middle of one. What was published
    /// before can't be read any more.
    fn drop(&mut self) {
        // A forked process has a copy, which must not close the ring.
        if self.creator.is_this() {
            self.mapping.tail().fetch_or(CLOSED, Ordering::AcqRel);
        }
    }
}

/// Makes memory that can't be made shorter: an access beyond its end would kill the process.
fn make_memory() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create("libos-ipc log", flags)?;
    // All pages are taken now: later there may be none.
    fallocate(&memory, FallocateFlags::empty(), 0, LENGTH as u64)?;
    fcntl_add_seals(&memory, SEALS)?;
    Ok(memory)
}

const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

fn is_ring(memory: BorrowedFd<'_>) -> bool {
    let has_length = fstat(memory).is_ok_and(|stat| i64::try_from(LENGTH) == Ok(stat.st_size));
    has_length && fcntl_get_seals(memory).is_ok_and(|seals| seals.contains(SEALS))
}
