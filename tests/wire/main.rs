//! The wire protocol: the encoded bytes, complete checks of received bytes, and the same frames
//! from any pieces of a stream.

mod any;
mod document;
mod edges;
mod golden;
mod malformed;
mod reader;
mod round_trip;
mod writer;

use libos_ipc::wire::{Answer, Frame, FrameReader, Message};

/// Encodes a message to a frame. The buffer is filled before, so that a byte that is not written
/// shows.
fn encoded(message: &Message<'_>, seq: u64) -> Vec<u8> {
    let mut buffer = vec![0xEE; message.length()];
    assert_eq!(message.encode(seq, &mut buffer), Ok(buffer.len()));
    buffer
}

/// Encodes an answer to a frame.
fn answered(answer: &Answer<'_>, seq: u64) -> Vec<u8> {
    let mut buffer = vec![0xEE; answer.length()];
    assert_eq!(answer.encode(seq, &mut buffer), Ok(buffer.len()));
    buffer
}

/// Parses a whole frame, with a reader that has room for exactly that frame.
fn with_frame<T>(bytes: &[u8], read: impl FnOnce(Frame<'_>) -> T) -> T {
    let mut buffer = bytes.to_vec();
    let mut reader = FrameReader::new(&mut buffer);
    reader.mark_filled(bytes.len());
    let frame = reader
        .peek()
        .expect("a good header")
        .expect("a whole frame");
    assert_eq!(frame.length(), bytes.len());
    read(frame)
}
