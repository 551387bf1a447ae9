//! Frames as bytes.

use libos_ipc::leader::{Content, Op, Outgoing};
use libos_ipc::member::KeptFrames;
use libos_ipc::shared_state::ServerMessage;
use libos_ipc::wire::{Answer, FrameReader, Message, SyncNote};

use super::system::place;

/// The longest frame, in bytes.
pub(super) const MAX_FRAME: usize = 256;

/// Returns the frame of a message.
pub(super) fn frame_of(seq: u64, message: &Message<'_>) -> Vec<u8> {
    let mut bytes = [0; MAX_FRAME];
    let length = message.encode(seq, &mut bytes).unwrap();
    bytes[..length].to_vec()
}

/// Returns the frame of an answer.
pub(super) fn answer_of(seq: u64, answer: &Answer<'_>) -> Vec<u8> {
    let mut bytes = [0; MAX_FRAME];
    let length = answer.encode(seq, &mut bytes).unwrap();
    bytes[..length].to_vec()
}

/// Returns the frame of the process that the operation applies, unless it is another operation.
pub(super) fn counted_frame(op: &Op<'_>) -> Option<(usize, Vec<u8>)> {
    match *op {
        Op::Request {
            from, seq, message, ..
        } => Some((place(from), frame_of(seq, message))),
        Op::Sync {
            from, code, sync, ..
        } => Some((place(from), frame_of(0, &Message::Sync(code, sync)))),
        _ => None,
    }
}

/// Calls `read` with the sequence number and the message of a frame.
pub(super) fn with_frame<T>(bytes: &[u8], read: impl FnOnce(u64, &Message<'_>) -> T) -> T {
    let mut buffer = [0; MAX_FRAME];
    let mut reader = FrameReader::new(&mut buffer);
    reader.space()[..bytes.len()].copy_from_slice(bytes);
    reader.mark_filled(bytes.len());
    let frame = reader.peek().unwrap().unwrap();
    read(frame.seq, &frame.message().unwrap())
}

/// Returns the frame of what the leader has to send.
pub(super) fn outgoing_frame(outgoing: &Outgoing<'_>) -> Vec<u8> {
    match outgoing.content {
        Content::Answer(seq, answer) => answer_of(seq, &answer),
        Content::Message(message) => frame_of(0, &message),
        Content::Sync(ServerMessage::Sync(code, sync)) => frame_of(0, &Message::Sync(code, sync)),
        Content::Sync(ServerMessage::OwnerDied(id)) => {
            let note = SyncNote::OwnerDied;
            frame_of(0, &Message::SyncNote { id, note })
        }
        Content::Exit(_) | Content::Signal(_) => panic!("{outgoing:?}"),
    }
}

/// Returns the frames that are to be sent again.
pub(super) fn resent(kept: &mut KeptFrames<'_>) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while !kept.next_to_resend().is_empty() {
        frames.push(kept.next_to_resend().to_vec());
        kept.mark_resent();
    }
    frames
}

/// Returns the number of frames that are proven to have arrived.
pub(super) fn proven(kept: &KeptFrames<'_>) -> u64 {
    (0..=kept.sent()).find(|taken| kept.covers(*taken)).unwrap()
}
