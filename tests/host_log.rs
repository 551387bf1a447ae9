//! The stream of a log on the host: a ring in shared memory, whose descriptor goes over a socket.
#![cfg(feature = "std")]
#![allow(missing_docs, unsafe_code, clippy::cast_possible_truncation)]

use std::fs::File;
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use libos_ipc::host::HostStream;
use libos_ipc::pal::{LogWriterEnd, Stream, StreamError};
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// The bytes that the ring holds, and before them the page with the two indexes.
const SIZE: u32 = 1 << 18;
const PAGE: u64 = 4096;
const LENGTH: u64 = PAGE + SIZE as u64;

fn streams() -> (HostStream, HostStream) {
    let (one, other) = UnixStream::pair().unwrap();
    (
        HostStream::over(OwnedFd::from(one)),
        HostStream::over(OwnedFd::from(other)),
    )
}

/// Returns the two ends of a log.
fn log() -> (HostStream, HostStream) {
    let (mut writer, mut reader) = streams();
    assert_eq!(writer.begin_log(), Ok(SIZE as usize));
    reader.accept_log();
    (writer, reader)
}

/// Returns all that can be read until the end.
fn read_to_end(reader: &HostStream) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), [0; 1000]);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return all,
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) => assert_eq!(error, StreamError::WouldBlock),
        }
    }
}

#[test]
fn bytes_of_a_log_arrive_in_order_and_never_more_than_it_holds() {
    let (writer, reader) = log();
    let mut random = fastrand::Rng::with_seed(1);
    // The numbers of bytes that were written and that were read.
    let (mut written, mut read) = (0_u32, 0_u32);
    let byte_at = |at: u32| (at.wrapping_mul(0x9E37_79B1) >> 24) as u8;
    let mut buffer = vec![0; SIZE as usize];
    while written < 20 * SIZE {
        let most = if random.bool() { 100 } else { SIZE };
        let length = random.u32(1..=most);
        if random.bool() {
            let bytes: Vec<u8> = (written..written + length).map(byte_at).collect();
            let (first, second) = bytes.split_at(random.usize(0..=bytes.len()));
            let room = SIZE - (written - read);
            match writer.write(&[first, second]) {
                Ok(count) => {
                    assert_eq!(count as u32, length.min(room));
                    written += count as u32;
                }
                Err(error) => assert_eq!((error, room), (StreamError::WouldBlock, 0)),
            }
        } else {
            match reader.read(&mut buffer[..length as usize]) {
                Ok(count) => {
                    assert_eq!(count as u32, length.min(written - read));
                    let expected = (read..).map(byte_at);
                    assert!(
                        expected
                            .zip(&buffer[..count])
                            .all(|(one, other)| one == *other)
                    );
                    read += count as u32;
                }
                Err(error) => assert_eq!((error, written), (StreamError::WouldBlock, read)),
            }
        }
    }
}

#[test]
fn what_a_killed_writer_has_written_to_a_log_is_read_before_its_end() {
    let (one, other) = UnixStream::pair().unwrap();
    // SAFETY: The forked process makes a log, writes to it, and kills itself.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(other);
            let mut writer = HostStream::over(OwnedFd::from(one));
            let _ = writer.begin_log();
            for number in 0..1_000_u32 {
                let _ = writer.write(&[&number.to_le_bytes()]);
            }
            let _ = raise(Signal::SIGKILL);
            unreachable!();
        }
        ForkResult::Parent { child } => {
            drop(one);
            let mut reader = HostStream::over(OwnedFd::from(other));
            reader.accept_log();
            waitpid(child, None).unwrap();
            let expected: Vec<u8> = (0..1_000_u32).flat_map(u32::to_le_bytes).collect();
            assert_eq!(read_to_end(&reader), expected);
            assert_eq!(reader.end_of_log(), LogWriterEnd::Certain);
        }
    }
}

#[test]
fn the_end_of_a_log_is_certain_only_if_its_writer_has_not_revoked_it() {
    let (writer, reader) = log();
    assert_eq!(writer.write(&[b"last"]), Ok(4));
    assert_eq!(reader.read(&mut [0; 4]), Ok(4));
    // While the writer lives, nothing is known.
    assert_eq!(reader.end_of_log(), LogWriterEnd::Unknown);
    drop(writer);
    assert_eq!(read_to_end(&reader), b"");
    assert_eq!(reader.end_of_log(), LogWriterEnd::Certain);

    // The reader sees the revocation also if the writer could write nothing more.
    let (writer, reader) = log();
    assert_eq!(writer.write(&[&vec![1; SIZE as usize]]), Ok(SIZE as usize));
    writer.revoke_log();
    drop(writer);
    assert_eq!(read_to_end(&reader).len(), SIZE as usize);
    assert_eq!(reader.end_of_log(), LogWriterEnd::Revoked);
}

#[test]
fn a_log_whose_reader_has_gone_takes_nothing_more() {
    let (writer, reader) = log();
    assert_eq!(writer.write(&[b"before"]), Ok(6));
    assert_eq!(reader.read(&mut [0; 6]), Ok(6));
    drop(reader);
    assert_eq!(writer.write(&[b"after"]), Err(StreamError::Closed));
    // A reader that has read nothing sees the revocation, too.
    let (writer, reader) = log();
    drop(reader);
    assert_eq!(writer.write(&[b"after"]), Err(StreamError::Closed));
}

#[test]
fn a_full_log_whose_reader_has_died_is_closed() {
    let (writer, reader) = log();
    assert_eq!(writer.write(&[&vec![1; SIZE as usize]]), Ok(SIZE as usize));
    assert_eq!(writer.write(&[b"more"]), Err(StreamError::WouldBlock));
    let socket = reader.as_fd().try_clone_to_owned().unwrap();
    // The ring stays open, as with a process that was killed.
    std::mem::forget(reader);
    UnixStream::from(socket)
        .shutdown(std::net::Shutdown::Both)
        .unwrap();
    assert_eq!(writer.write(&[b"more"]), Err(StreamError::Closed));
}

#[test]
fn a_log_of_a_writer_without_memory_to_share_goes_over_the_socket() {
    let (mut one, other) = UnixStream::pair().unwrap();
    let mut reader = HostStream::over(OwnedFd::from(other));
    reader.accept_log();
    assert_eq!(reader.read(&mut [0; 9]), Err(StreamError::WouldBlock));
    one.write_all(b"records").unwrap();
    drop(one);
    assert_eq!(read_to_end(&reader), b"records");
}

/// Returns a writer that makes the ring itself, of that length and with those seals.
fn hostile(length: u64, seals: SealFlags) -> (UnixStream, File, HostStream) {
    let (one, other) = UnixStream::pair().unwrap();
    let mut reader = HostStream::over(OwnedFd::from(other));
    reader.accept_log();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = File::from(memfd_create("ring", flags).unwrap());
    memory.set_len(length).unwrap();
    fcntl_add_seals(&memory, seals).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [memory.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let bytes = [IoSlice::new(&[0])];
    assert_eq!(
        sendmsg(&one, &bytes, &mut control, SendFlags::empty()),
        Ok(1)
    );
    (one, memory, reader)
}

const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

#[test]
fn memory_that_could_become_shorter_or_has_another_length_is_refused() {
    for (length, seals) in [
        (LENGTH, SealFlags::empty()),
        (LENGTH, SealFlags::GROW | SealFlags::SEAL),
        (LENGTH - 1, SEALS),
        (LENGTH + PAGE, SEALS),
        (0, SEALS),
    ] {
        let (_socket, _memory, reader) = hostile(length, seals);
        assert_eq!(reader.read(&mut [0; 9]), Err(StreamError::Closed));
    }
}

#[test]
fn indexes_that_a_hostile_writer_makes_are_only_compared() {
    let (_socket, memory, reader) = hostile(LENGTH, SEALS);
    let mut buffer = [0; 100];
    assert_eq!(reader.read(&mut buffer), Err(StreamError::WouldBlock));
    memory.write_all_at(b"hello", PAGE).unwrap();
    memory.write_all_at(&5_u32.to_ne_bytes(), 0).unwrap();
    assert_eq!(reader.read(&mut buffer), Ok(5));
    assert_eq!(&buffer[..5], b"hello");
    for index in [4, 6 + SIZE, (1 << 31) - 1, u32::MAX, 1 << 31] {
        memory.write_all_at(&u32::to_ne_bytes(index), 0).unwrap();
        assert_eq!(reader.read(&mut buffer), Err(StreamError::Closed));
    }
    memory.write_all_at(&5_u32.to_ne_bytes(), 0).unwrap();
    assert_eq!(reader.read(&mut buffer), Err(StreamError::WouldBlock));
}

#[test]
fn indexes_that_a_hostile_reader_makes_are_only_compared() {
    let (mut writer, reader) = streams();
    assert_eq!(writer.begin_log(), Ok(SIZE as usize));
    let memory = received(&reader);
    assert_eq!(writer.write(&[b"hello"]), Ok(5));
    let block = vec![7; SIZE as usize];
    assert_eq!(writer.write(&[&block]), Ok(SIZE as usize - 5));
    // Before what was read, behind what was written.
    for index in [u32::MAX, (1 << 31) - 1, SIZE + 1] {
        memory.write_all_at(&u32::to_ne_bytes(index), 128).unwrap();
        assert_eq!(writer.write(&[b"more"]), Err(StreamError::Closed));
    }
    memory.write_all_at(&5_u32.to_ne_bytes(), 128).unwrap();
    assert_eq!(writer.write(&[b"more than that"]), Ok(5));
}

/// Returns the memory that the writer of a log has sent.
fn received(reader: &HostStream) -> File {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let (mut byte, mut space) = (
        [0],
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))],
    );
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [std::io::IoSliceMut::new(&mut byte)];
    recvmsg(reader, &mut bytes, &mut control, RecvFlags::empty()).unwrap();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            return File::from(descriptors.last().unwrap());
        }
    }
    panic!("no descriptor came");
}
