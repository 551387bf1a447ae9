//! A stream gives the same frames in any pieces.

use crate::any::{message, one_of_each};
use crate::encoded;
use libos_ipc::wire::{FrameReader, HEADER_LENGTH, Malformed, codes};
use proptest::prelude::*;

/// The parts of a frame that are compared.
type FrameParts = (u64, u8, Vec<u8>);

/// Takes every whole frame from the reader.
fn take(reader: &mut FrameReader<'_>, seen: &mut Vec<FrameParts>) -> Result<(), Malformed> {
    while let Some(frame) = reader.peek()? {
        seen.push((frame.seq, frame.code, frame.payload.to_vec()));
        let length = frame.length();
        reader.skip(length);
    }
    Ok(())
}

/// Returns the frames that a reader with that limit finds in these pieces. Each piece is fed as far
/// as it fits.
fn read(limit: usize, pieces: &[&[u8]]) -> (Vec<FrameParts>, Result<(), Malformed>) {
    let mut buffer = vec![0; limit];
    let mut reader = FrameReader::new(&mut buffer);
    let mut seen = Vec::new();
    for mut piece in pieces.iter().copied() {
        while !piece.is_empty() {
            let space = reader.space();
            assert!(
                !space.is_empty(),
                "no whole frame waits, so there must be room"
            );
            let count = space.len().min(piece.len());
            space[..count].copy_from_slice(&piece[..count]);
            reader.mark_filled(count);
            piece = &piece[count..];
            if let Err(reason) = take(&mut reader, &mut seen) {
                return (seen, Err(reason));
            }
        }
    }
    (seen, Ok(()))
}

fn sized(size: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let known = length.min(8);
    bytes[..known].copy_from_slice(&size.to_le_bytes()[..known]);
    bytes
}

/// Returns three frames, one of them without a payload and one with a long one.
fn batch() -> (Vec<u8>, Vec<FrameParts>, usize) {
    let mut bytes = Vec::new();
    let mut seen = Vec::new();
    let mut longest = 0;
    let all = one_of_each();
    for (code, seq) in [codes::FILE_LOCK_SET, codes::ALLOC_ID_RANGE, codes::PID_KILL]
        .iter()
        .zip(1..)
    {
        let message = all.iter().find(|message| message.code() == *code).unwrap();
        let frame = encoded(message, seq);
        longest = longest.max(frame.len());
        seen.push((seq, message.code(), frame[17..].to_vec()));
        bytes.extend(frame);
    }
    (bytes, seen, longest)
}

#[test]
fn frames_split_in_two_or_three_are_read_whole() {
    let (bytes, expected, longest) = batch();
    for limit in [longest, longest + 1, bytes.len(), 4096] {
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                let (seen, result) = read(limit, &pieces);
                assert_eq!(result, Ok(()));
                assert!(
                    seen == expected,
                    "limit {limit}, split at {first} and {second}"
                );
            }
        }
    }
}

#[test]
fn frames_that_come_byte_by_byte_are_read_whole() {
    let (bytes, expected, longest) = batch();
    let pieces: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(read(longest, &pieces), (expected, Ok(())));
}

#[test]
fn frames_are_read_in_every_batch_size() {
    let frames: Vec<_> = one_of_each()
        .iter()
        .map(|message| encoded(message, 7))
        .collect();
    for count in 0..=frames.len() {
        let bytes = frames[..count].concat();
        let (seen, result) = read(bytes.len().max(HEADER_LENGTH), &[&bytes]);
        assert_eq!((seen.len(), result), (count, Ok(())));
    }
}

#[test]
fn a_frame_at_the_limit_is_read_and_a_longer_one_refused() {
    for limit in [17, 18, 64, 1000] {
        let (seen, result) = read(limit, &[&sized(limit as u64, limit)]);
        assert_eq!((seen.len(), result), (1, Ok(())));
        // The size alone is sufficient.
        let (seen, result) = read(limit, &[&sized(limit as u64 + 1, 8)]);
        assert_eq!((seen.len(), result), (0, Err(Malformed::TooLong)));
    }
}

#[test]
fn impossible_sizes_are_refused() {
    for size in 0..17 {
        assert_eq!(read(64, &[&sized(size, 7)]).1, Ok(()));
        assert_eq!(read(64, &[&sized(size, 8)]).1, Err(Malformed::TooShort));
    }
    let huge = [
        u64::MAX,
        u64::MAX - 16,
        u64::MAX - 17,
        1 << 63,
        1 << 32,
        (1 << 32) + 17,
    ];
    for size in huge {
        assert_eq!(read(64, &[&sized(size, 7)]).1, Ok(()));
        assert_eq!(read(64, &[&sized(size, 8)]).1, Err(Malformed::TooLong));
    }
}

#[test]
fn frames_before_a_bad_frame_are_read() {
    let (bytes, expected, longest) = batch();
    let stream = [&bytes[..], &sized(16, 8)].concat();
    for limit in [longest, stream.len()] {
        let (seen, result) = read(limit, &[&stream]);
        assert_eq!((seen, result), (expected.clone(), Err(Malformed::TooShort)));
    }
}

#[test]
fn a_buffer_too_short_for_any_frame_refuses_the_first_byte() {
    for limit in 0..HEADER_LENGTH {
        let mut buffer = vec![0; limit];
        let mut reader = FrameReader::new(&mut buffer);
        assert_eq!(reader.peek(), Ok(None));
        reader.mark_filled(1);
        let expected = if limit == 0 {
            Ok(None)
        } else {
            Err(Malformed::TooLong)
        };
        assert_eq!(reader.peek(), expected);
    }
}

#[test]
fn counts_that_are_too_high() {
    let mut buffer = sized(17, 17);
    let mut reader = FrameReader::new(&mut buffer);
    reader.mark_filled(usize::MAX);
    assert_eq!(reader.buffered(), 17);
    assert!(reader.space().is_empty());
    reader.mark_filled(usize::MAX);
    assert_eq!(reader.buffered(), 17);
    reader.skip(16);
    reader.skip(usize::MAX);
    assert!(reader.is_empty());
    assert_eq!(reader.space().len(), 17);
}

#[test]
fn a_whole_frame_is_not_moved_and_a_piece_is_kept() {
    let mut buffer = vec![0; 40];
    let frame = sized(17, 17);
    let mut reader = FrameReader::new(&mut buffer);
    reader.space()[..40].copy_from_slice(&[&frame[..], &frame, &frame[..6]].concat());
    reader.mark_filled(40);
    reader.skip(17);
    assert!(reader.space().is_empty(), "a whole frame waits");
    reader.skip(17);
    assert_eq!((reader.buffered(), reader.space().len()), (6, 34));
    reader.clear();
    assert!(reader.is_empty());
    assert_eq!(reader.peek(), Ok(None));
}

proptest! {
    #[test]
    fn any_stream_reads_alike_in_any_pieces(
        messages in prop::collection::vec((message(), any::<u64>()), 0..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        slack in 0..100usize,
    ) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        let mut longest = HEADER_LENGTH;
        for (message, seq) in &messages {
            let frame = encoded(message, *seq);
            longest = longest.max(frame.len());
            expected.push((*seq, message.code(), frame[17..].to_vec()));
            bytes.extend(frame);
        }
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
        prop_assert_eq!(read(longest + slack, &pieces), (expected, Ok(())));
    }

    #[test]
    fn any_bytes_are_read_or_refused_by_the_reader(
        limit in 1..80usize,
        bytes in prop::collection::vec(prop_oneof![Just(0), 0..40u8, any::<u8>()], 0..200),
        cut in any::<prop::sample::Index>(),
    ) {
        let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
        prop_assert_eq!(read(limit, &[first, second]), read(limit, &[&bytes]));
    }
}
