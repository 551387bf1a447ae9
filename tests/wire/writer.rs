//! Frames are sent in order and whole, in any pieces that the stream accepts.

use crate::any::{answer, message, one_of_each};
use crate::{answered, encoded};
use libos_ipc::Errno;
use libos_ipc::wire::{Answer, FrameWriter, Message, TooSmall};
use proptest::prelude::*;

#[test]
fn many_frames_go_in_one_write() {
    let mut buffer = vec![0xEE; 4096];
    let mut writer = FrameWriter::new(&mut buffer);
    let mut expected = Vec::new();
    for (message, seq) in one_of_each().iter().zip(1..) {
        writer.push(seq, message).unwrap();
        expected.extend(encoded(message, seq));
    }
    writer
        .push_answer(99, &Answer::Status(Err(Errno::ESRCH)))
        .unwrap();
    expected.extend(answered(&Answer::Status(Err(Errno::ESRCH)), 99));
    assert_eq!(writer.unsent(), expected);
    assert_eq!(writer.room(), 4096 - expected.len());
    writer.mark_sent(expected.len());
    assert!(writer.is_empty());
    assert_eq!((writer.room(), writer.capacity()), (4096, 4096));
}

#[test]
fn frames_are_whole_after_every_partial_write() {
    let frames = [
        encoded(&Message::GetIdOwner(5), 1),
        encoded(&Message::GetNewVmid, 2),
    ]
    .concat();
    for taken in 0..=frames.len() {
        let mut buffer = vec![0xEE; frames.len()];
        let mut writer = FrameWriter::new(&mut buffer);
        writer.push(1, &Message::GetIdOwner(5)).unwrap();
        writer.push(2, &Message::GetNewVmid).unwrap();
        assert_eq!(writer.room(), 0);
        writer.mark_sent(taken);
        assert_eq!(writer.unsent(), &frames[taken..]);
        assert_eq!(writer.is_empty(), taken == frames.len());
        // The sent bytes leave room, although they are at the front.
        let fits = taken >= 17;
        assert_eq!(writer.push(3, &Message::AllocIdRange).is_ok(), fits);
        let mut rest = frames[taken..].to_vec();
        if fits {
            rest.extend(encoded(&Message::AllocIdRange, 3));
        }
        assert_eq!(writer.unsent(), rest);
    }
}

#[test]
fn a_frame_without_room_leaves_the_writer_unchanged() {
    let mut buffer = [0xEE; 40];
    let mut writer = FrameWriter::new(&mut buffer);
    writer.push(1, &Message::GetNewVmid).unwrap();
    writer.mark_sent(3);
    let before = writer.unsent().to_vec();
    assert_eq!(
        writer.push_answer(2, &Answer::Meta(Ok(&[1]))),
        Err(TooSmall)
    );
    assert_eq!(writer.push(2, &Message::Response(&[0; 24])), Err(TooSmall));
    assert_eq!(writer.push(2, &Message::Unknown(3)), Err(TooSmall));
    assert_eq!(writer.unsent(), before);
    assert_eq!(writer.room(), 26);
    writer.push(2, &Message::Response(&[0; 9])).unwrap();
    assert_eq!(writer.room(), 0);
    writer.clear();
    assert!(writer.is_empty());
    assert_eq!(writer.room(), 40);
}

#[test]
fn counts_that_are_too_high() {
    let mut buffer = [0; 40];
    let mut writer = FrameWriter::new(&mut buffer);
    writer.push(1, &Message::GetNewVmid).unwrap();
    writer.mark_sent(1);
    writer.mark_sent(usize::MAX);
    assert!(writer.is_empty() && writer.unsent().is_empty());
    assert_eq!(writer.room(), 40);
}

proptest! {
    #[test]
    fn any_frames_arrive_whole_in_any_pieces(
        steps in prop::collection::vec((message(), answer(), 0..200usize), 0..40),
        capacity in 0..400usize,
    ) {
        let mut buffer = vec![0xEE; capacity];
        let mut writer = FrameWriter::new(&mut buffer);
        let (mut expected, mut sent) = (Vec::new(), Vec::<u8>::new());
        for (seq, (message, (_, answer), take)) in (0..).zip(&steps) {
            let fits = message.length() <= writer.room();
            prop_assert_eq!(writer.push(seq, message).is_ok(), fits);
            if fits {
                expected.extend(encoded(message, seq));
            }
            let fits = answer.length() <= writer.room();
            prop_assert_eq!(writer.push_answer(seq, answer).is_ok(), fits);
            if fits {
                expected.extend(answered(answer, seq));
            }
            let count = writer.unsent().len().min(*take);
            sent.extend(&writer.unsent()[..count]);
            writer.mark_sent(count);
            prop_assert_eq!(writer.room() + writer.unsent().len(), writer.capacity());
        }
        sent.extend(writer.unsent());
        prop_assert_eq!(sent, expected);
    }
}
