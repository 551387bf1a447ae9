//! Encoded messages decode to equal ones; messages that can't be encoded are refused.

use crate::any::{answer, message};
use crate::{answered, encoded, with_frame};
use libos_ipc::wire::{
    Answer, Expected, FileLock, Frame, LockFamily, LockKind, Malformed, Message, TooSmall,
};
use proptest::prelude::*;

const EVERY_EXPECTED: [Expected; 8] = [
    Expected::Vmid,
    Expected::IdRange,
    Expected::Owner,
    Expected::Status,
    Expected::StatusOrEmpty,
    Expected::Meta,
    Expected::Lock,
    Expected::Process,
];

proptest! {
    #[test]
    fn any_message_reads_back_as_written(message in message(), seq: u64) {
        let bytes = encoded(&message, seq);
        with_frame(&bytes, |frame| {
            prop_assert_eq!(frame.seq, seq);
            prop_assert_eq!(frame.message(), Ok(message));
            Ok(())
        })?;
    }

    #[test]
    fn any_answer_reads_back_as_written((expected, answer) in answer(), seq: u64) {
        let bytes = answered(&answer, seq);
        with_frame(&bytes, |frame| {
            prop_assert_eq!(frame.seq, seq);
            prop_assert_eq!(Answer::decode(expected, frame.payload), Ok(answer));
            Ok(())
        })?;
    }

    #[test]
    fn a_buffer_too_small_stays_as_it_was(message in message(), (_, answer) in answer()) {
        let mut buffer = vec![0xEE; message.length() - 1];
        prop_assert_eq!(message.encode(1, &mut buffer), Err(TooSmall));
        prop_assert!(buffer.iter().all(|&byte| byte == 0xEE));
        let mut buffer = vec![0xEE; answer.length() - 1];
        prop_assert_eq!(answer.encode(1, &mut buffer), Err(TooSmall));
        prop_assert!(buffer.iter().all(|&byte| byte == 0xEE));
    }

    #[test]
    fn bytes_beyond_the_message_are_unchanged(message in message()) {
        let mut buffer = vec![0xEE; message.length() + 9];
        let length = message.encode(1, &mut buffer).unwrap();
        prop_assert_eq!(length, message.length());
        prop_assert!(buffer[length..].iter().all(|&byte| byte == 0xEE));
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        seq: u64,
        code in prop_oneof![0..20u8, any::<u8>()],
        payload in prop::collection::vec(prop_oneof![Just(0), 0..4u8, any::<u8>()], 0..120),
    ) {
        let frame = Frame { seq, code, payload: &payload };
        if let Ok(message) = frame.message() {
            let bytes = encoded(&message, seq);
            with_frame(&bytes, |again| {
                prop_assert_eq!(again.message(), Ok(message));
                Ok(())
            })?;
        }
        for expected in EVERY_EXPECTED {
            if let Ok(answer) = Answer::decode(expected, &payload) {
                let bytes = answered(&answer, seq);
                prop_assert_eq!(Answer::decode(expected, &bytes[17..]), Ok(answer));
            }
        }
    }
}

#[test]
fn a_path_with_a_nul_is_never_sent() {
    let mut buffer = [0xEE; 128];
    for path in [&b"\0"[..], b"a\0", b"\0b", b"a\0b"] {
        let lock = FileLock {
            family: LockFamily::Posix,
            kind: LockKind::Read,
            start: 0,
            end: 0,
            pid: 0,
            handle: 0,
            wait: false,
            path,
        };
        for message in [Message::FileLockSet(lock), Message::FileLockGet(lock)] {
            assert_eq!(message.length(), usize::MAX);
            assert_eq!(message.encode(0, &mut buffer), Err(TooSmall));
        }
    }
    assert_eq!(buffer, [0xEE; 128]);
}

#[test]
fn an_unknown_message_never_has_a_known_code() {
    for code in (0..18).chain(64..69) {
        assert_eq!(Message::Unknown(code).length(), usize::MAX);
        assert_eq!(
            Message::Unknown(code).encode(0, &mut [0; 32]),
            Err(TooSmall)
        );
    }
}

#[test]
fn the_payload_of_an_unknown_code_is_dropped() {
    let frame = Frame {
        seq: 0,
        code: 200,
        payload: b"anything",
    };
    assert_eq!(frame.message(), Ok(Message::Unknown(200)));
    assert_eq!(frame.length(), 25);
}

#[test]
fn every_malformed_reason_has_its_own_text() {
    let words: Vec<_> = Malformed::ALL.iter().map(ToString::to_string).collect();
    for (index, reason) in Malformed::ALL.iter().enumerate() {
        assert_eq!(reason.index(), index);
        assert_eq!(
            words.iter().filter(|&other| *other == words[index]).count(),
            1
        );
    }
    assert!(!TooSmall.to_string().is_empty());
}
