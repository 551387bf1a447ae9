//! Bytes that are not exactly right are refused, for the right reason.

use crate::any::one_of_each;
use crate::encoded;
use libos_ipc::wire::{
    Answer, Expected, Frame, Heartbeat, Malformed, Message, ProcessState, codes,
};

fn refused(code: u8, payload: &[u8]) -> Malformed {
    match (Frame {
        seq: 0,
        code,
        payload,
    })
    .message()
    {
        Ok(message) => panic!("code {code}, {} bytes: read as {message:?}", payload.len()),
        Err(reason) => reason,
    }
}

fn answer_refused(expected: Expected, payload: &[u8]) -> Malformed {
    match Answer::decode(expected, payload) {
        Ok(answer) => panic!("{} bytes: read as {answer:?}", payload.len()),
        Err(reason) => reason,
    }
}

/// Returns the payload of a message, with another number at this offset.
fn with(message: &Message<'_>, offset: usize, number: u32) -> Vec<u8> {
    let mut payload = encoded(message, 0).split_off(17);
    payload[offset..offset + 4].copy_from_slice(&number.to_le_bytes());
    payload
}

fn one(code: u8) -> Message<'static> {
    one_of_each()
        .into_iter()
        .find(|message| message.code() == code)
        .unwrap()
}

#[test]
fn every_truncated_or_extended_message_is_malformed() {
    for message in one_of_each() {
        let payload = encoded(&message, 0).split_off(17);
        for length in 0..payload.len() {
            let reason = refused(message.code(), &payload[..length]);
            assert!(
                matches!(
                    reason,
                    Malformed::PayloadLength | Malformed::LengthsDisagree | Malformed::NoTerminator
                ),
                "{message:?} cut to {length}: {reason:?}"
            );
        }
        // A later version may add limits.
        if matches!(message, Message::Limits(_)) {
            continue;
        }
        for byte in [0, 1, 255] {
            let longer = [&payload[..], &[byte]].concat();
            let reason = refused(message.code(), &longer);
            assert!(matches!(
                reason,
                Malformed::PayloadLength | Malformed::LengthsDisagree
            ));
        }
    }
}

#[test]
fn every_truncated_or_extended_answer_is_malformed() {
    let mut meta = [0; 12 + 3];
    meta[0] = 3;
    let rows: [(Expected, &[u8]); 8] = [
        (Expected::Vmid, &[1; 4]),
        (Expected::IdRange, &[1; 8]),
        (Expected::Owner, &[1; 4]),
        (Expected::Status, &[1; 4]),
        (Expected::Meta, &meta),
        (Expected::Lock, &[1; 48]),
        (Expected::Rejoin, &[0; 16]),
        (Expected::Leader, &[1, 0, 0, 0].repeat(4)),
    ];
    for (expected, payload) in rows {
        assert!(Answer::decode(expected, payload).is_ok());
        for length in 0..payload.len() {
            answer_refused(expected, &payload[..length]);
        }
        for byte in [0, 1, 255] {
            answer_refused(expected, &[payload, &[byte]].concat());
        }
    }
    for length in [1, 2, 3, 5, 8] {
        let reason = answer_refused(Expected::StatusOrEmpty, &[0; 8][..length]);
        assert_eq!(reason, Malformed::PayloadLength);
    }
}

#[test]
fn choices_out_of_range_are_malformed() {
    let rows = [
        (codes::PID_KILL, 16, 0..=3),
        (codes::PID_GETMETA, 4, 0..=3),
        (codes::SYNC_REQUEST_UPGRADE, 16, 0..=3),
        (codes::SYNC_CONFIRM_CLOSE, 16, 0..=3),
        (codes::FILE_LOCK_SET, 0, 1..=2),
        (codes::FILE_LOCK_SET, 4, 0..=2),
        (codes::FILE_LOCK_GET, 0, 1..=2),
        (codes::FILE_LOCK_GET, 4, 0..=2),
        (codes::FILE_LOCK_OFD_SET, 0, 3..=3),
        (codes::FILE_LOCK_OFD_GET, 0, 3..=3),
        (codes::FILE_HANDLE, 8, 0..=1),
        (codes::PROCESS_CHANGE, 0, 0..=4),
        (codes::PID_KILL_ORDERED, 16, 0..=1),
        (codes::PID_KILL_ORDERED, 20, 0..=1),
        (codes::PID_KILL_PASSED, 16, 0..=3),
        (codes::PROCESS_NOTE, 0, 1..=4),
        (codes::FENCING_BLOCK, 0, 0..=1),
        (codes::LEADER, 12, 1..=2),
        (codes::DISMISS, 0, 1..=5),
    ];
    let edges = [255, 256, 0x0100_0000, 0x7FFF_FFFF, 0x8000_0000, u32::MAX];
    for (code, offset, good) in rows {
        for number in (0..6).chain(edges) {
            let payload = with(&one(code), offset, number);
            if good.contains(&number) {
                assert!(
                    Frame {
                        seq: 0,
                        code,
                        payload: &payload
                    }
                    .message()
                    .is_ok()
                );
            } else {
                assert_eq!(
                    refused(code, &payload),
                    Malformed::BadValue,
                    "{code}: {number}"
                );
            }
        }
    }
}

#[test]
fn a_wait_flag_other_than_0_or_1_is_malformed() {
    for code in [codes::FILE_LOCK_SET, codes::FILE_LOCK_GET] {
        let mut payload = encoded(&one(code), 0).split_off(17);
        for wait in 2..=255 {
            payload[40] = wait;
            assert_eq!(refused(code, &payload), Malformed::BadValue);
        }
    }
}

#[test]
fn choices_out_of_range_in_a_lock_answer_are_malformed() {
    let mut payload = [0; 48];
    for (family, kind, good) in [
        (1, 0, true),
        (2, 1, true),
        (0, 2, true),
        (0, 0, false),
        (3, 1, false),
        (1, 3, false),
    ] {
        payload[4] = family;
        payload[8] = kind;
        let answer = Answer::decode(Expected::Lock, &payload);
        assert_eq!(answer.is_ok(), good, "family {family}, kind {kind}");
        assert!(good || answer == Err(Malformed::BadValue));
    }
}

#[test]
fn a_process_without_a_pid_a_group_or_a_session_is_malformed() {
    for (offset, is_needed) in [(4, true), (8, false), (12, false), (16, true), (20, true)] {
        let mut payload = [1; 40];
        payload[..4].fill(0);
        payload[24..28].copy_from_slice(&ProcessState::Running.number().to_le_bytes());
        payload[offset..offset + 4].fill(0);
        let answer = Answer::decode(Expected::Process, &payload);
        if is_needed {
            assert_eq!(answer, Err(Malformed::BadValue), "offset {offset}");
        } else {
            assert!(answer.is_ok(), "offset {offset}");
        }
    }
}

#[test]
fn data_sizes_that_disagree_with_the_payload_are_malformed() {
    for data_size in [
        0,
        1,
        3,
        5,
        28,
        1 << 32,
        u64::MAX - 24,
        u64::MAX - 3,
        u64::MAX,
    ] {
        let mut payload = [0; 24 + 4];
        payload[8..16].copy_from_slice(&data_size.to_le_bytes());
        let reason = refused(codes::SYNC_CONFIRM_UPGRADE, &payload);
        assert_eq!(reason, Malformed::LengthsDisagree);
        let mut payload = [0; 12 + 4];
        payload[0..8].copy_from_slice(&data_size.to_le_bytes());
        assert_eq!(
            answer_refused(Expected::Meta, &payload),
            Malformed::LengthsDisagree
        );
    }
}

#[test]
fn paths_without_terminating_nul_are_malformed() {
    let mut payload = [b'x'; 60];
    payload[..41].fill(0);
    payload[0] = 1;
    assert_eq!(
        refused(codes::FILE_LOCK_SET, &payload),
        Malformed::NoTerminator
    );
    // The path's length would be 11 bytes; its first NUL counts.
    for terminator in 41..60 {
        let mut payload = payload;
        payload[terminator] = 0;
        if terminator == 52 {
            assert!(
                Frame {
                    seq: 0,
                    code: 15,
                    payload: &payload
                }
                .message()
                .is_ok()
            );
        } else {
            assert_eq!(refused(15, &payload), Malformed::LengthsDisagree);
        }
    }
}

#[test]
fn padding_and_reserved_bytes_are_ignored() {
    for message in one_of_each() {
        let mut payload = encoded(&message, 0).split_off(17);
        let length = payload.len();
        match message {
            Message::Sync(..) => payload[length - 4..].fill(0xAA),
            Message::FileLockSet(_) | Message::FileLockGet(_) => {
                payload[28..32].fill(0xAA);
                payload[length - 7..].fill(0xAA);
            }
            _ => {}
        }
        let frame = Frame {
            seq: 0,
            code: message.code(),
            payload: &payload,
        };
        assert_eq!(frame.message(), Ok(message));
    }
}

#[test]
fn a_list_of_heirs_with_a_wrong_count_is_malformed() {
    // The list has two heirs.
    for count in [2, 3, 4] {
        let payload = with(&one(codes::HEIRS), 12, count);
        let (seq, code) = (0, codes::HEIRS);
        let message = Frame {
            seq,
            code,
            payload: &payload,
        };
        assert_eq!(message.message(), Ok(one(codes::HEIRS)), "{count}");
    }
    for count in [0, 1] {
        let payload = with(&one(codes::HEIRS), 12, count);
        assert_eq!(refused(codes::HEIRS, &payload), Malformed::LengthsDisagree);
    }
    for count in [5, 255, 1 << 31, u32::MAX] {
        let payload = with(&one(codes::HEIRS), 12, count);
        assert_eq!(refused(codes::HEIRS, &payload), Malformed::BadValue);
    }
}

#[test]
fn heartbeat_with_a_limit_that_is_too_long_is_malformed() {
    for (limit, is_good) in [(Heartbeat::LONGEST, true), (Heartbeat::LONGEST + 1, false)] {
        let payload = [[0; 8], limit.to_le_bytes()].concat();
        let frame = Frame {
            seq: 0,
            code: codes::HEARTBEAT,
            payload: &payload,
        };
        assert_eq!(frame.message().is_ok(), is_good);
    }
}
