//! A stream of any bytes gives the same frames and ends with the same error, whether it is read in
//! one piece or in many.

#![no_main]

use libfuzzer_sys::fuzz_target;
use libos_ipc::wire::{FrameReader, Malformed};

/// All frames: sequence number, code and payload.
type Frames = Vec<(u64, u8, Vec<u8>)>;

/// Feeds the stream to a reader, in pieces of these lengths in turn, or as one piece.
fn read(limit: usize, lengths: &[u8], mut stream: &[u8]) -> (Frames, Result<usize, Malformed>) {
    let mut buffer = vec![0; limit];
    let mut reader = FrameReader::new(&mut buffer);
    let mut frames = Frames::new();
    let mut lengths = lengths.iter().cycle();
    while !stream.is_empty() {
        let space = reader.space();
        assert!(
            !space.is_empty(),
            "no whole frame waits, so there must be room"
        );
        let piece = lengths
            .next()
            .map_or(stream.len(), |&length| usize::from(length) + 1);
        let count = piece.min(space.len()).min(stream.len());
        space[..count].copy_from_slice(&stream[..count]);
        reader.mark_filled(count);
        stream = &stream[count..];
        loop {
            match reader.peek() {
                Ok(Some(frame)) => {
                    frames.push((frame.seq, frame.code, frame.payload.to_vec()));
                    let length = frame.length();
                    reader.skip(length);
                }
                Ok(None) => break,
                Err(reason) => return (frames, Err(reason)),
            }
        }
    }
    (frames, Ok(reader.buffered()))
}

fuzz_target!(|input: &[u8]| {
    // The input has the limit, the number of pieces, their lengths, then the stream.
    let [limit, count, rest @ ..] = input else {
        return;
    };
    let limit = usize::from(*limit) + 1;
    let (lengths, stream) = rest.split_at(usize::from(count % 8).min(rest.len()));
    let in_one_piece = read(stream.len().max(limit), &[], stream);
    let in_pieces = read(stream.len().max(limit), lengths, stream);
    assert_eq!(in_one_piece, in_pieces);
    // With a limit shorter than the stream the reader has to move its bytes.
    assert_eq!(read(limit, &[], stream), read(limit, lengths, stream));
});
