//! The bytes on the wire: what they are, that all of them are checked, and that any pieces of a
//! stream give the same frames.

mod any;
mod document;
mod edges;
mod golden;
mod malformed;
mod reader;
mod round_trip;
mod writer;

use libos_ipc::wire::{Answer, Frame, FrameReader, Message};

/// The frame that a message is sent as. The buffer is dirty before, so that a byte left out shows.
fn encoded(message: &Message<'_>, seq: u64) -> Vec<u8> {
    let mut buffer = vec![0xEE; message.length()];
    assert_eq!(message.encode(seq, &mut buffer), Ok(buffer.len()));
    buffer
}

/// The frame that an answer is sent as.
fn answered(answer: &Answer<'_>, seq: u64) -> Vec<u8> {
    let mut buffer = vec![0xEE; answer.length()];
    assert_eq!(answer.encode(seq, &mut buffer), Ok(buffer.len()));
    buffer
}

/// Takes a whole frame apart, with a reader that has room for exactly that frame.
fn with_frame<T>(bytes: &[u8], look: impl FnOnce(Frame<'_>) -> T) -> T {
    let mut buffer = bytes.to_vec();
    let mut reader = FrameReader::new(&mut buffer);
    reader.mark_filled(bytes.len());
    let frame = reader
        .peek()
        .expect("a good header")
        .expect("a whole frame");
    assert_eq!(frame.length(), bytes.len());
    look(frame)
}
