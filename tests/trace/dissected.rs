//! The output of tshark for single messages, compared with the crate's decoding.

use libos_ipc::wire::{Answer, Expected, Frame, codes};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::any;
use crate::tape::{encoded, frame, record};
use crate::tshark::{self, Row};

const MALFORMED: &str = "libos_ipc.malformed";

fn is_malformed(row: &Row) -> bool {
    !row[MALFORMED].is_empty()
}

/// Returns the codes whose requests expect that answer.
fn asking(expected: Expected) -> Vec<u8> {
    (0..=255)
        .filter(|code| Expected::of(*code) == Some(expected))
        .collect()
}

/// Samples of all messages and answers.
fn samples<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>, count: usize) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    (0..count)
        .map(|_| strategy.new_tree(&mut runner).unwrap().current())
        .collect()
}

#[test]
fn every_code_has_a_name() {
    if !tshark::is_there() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let exchanges: Vec<_> = (0..=255).map(|code| (frame(0, code, &[]), None)).collect();
    let file = record(directory.path(), &exchanges);
    let rows = tshark::rows(&file, &["libos_ipc.name", "libos_ipc.unknown_code"]);
    assert_eq!(rows.len(), 256);
    for (code, row) in (0..=255_u8).zip(&rows) {
        let name = match code {
            codes::RESP => "answer".to_owned(),
            code => codes::CodeName(code).to_string(),
        };
        assert_eq!(row["libos_ipc.name"], name);
        let is_marked = !row["libos_ipc.unknown_code"].is_empty();
        assert_eq!(is_marked, codes::is_unknown(code), "code {code}: {row:?}");
    }
}

/// Compares the line of each, so that a change of the texts is seen.
#[test]
fn dissected_lines_have_the_fields_of_their_messages() {
    if !tshark::is_there() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let exchanges: Vec<_> = any::one_of_each()
        .iter()
        .zip(1..)
        .map(|(message, seq)| (encoded(seq, message), None))
        .collect();
    let lines = tshark::lines(&record(directory.path(), &exchanges));
    for words in [
        "member 2 → member 1",
        "GET_NEW_VMID #1",
        "CHILDEXIT #2 pid 2, by SIGTRAP",
        "RELEASE_ID_RANGE #4 1..2",
        "PID_KILL #24 SIGILL to all, from 1",
        "PID_GETMETA #7 pid 1, root directory",
        "FILE_LOCK_SET #8 write 1..2 of path, pid 3, waits",
        "FILE_LOCK_RETURN #21 delegation 1, 2 locks",
        "HELLO #22 version 1, pid 3",
        "PROCESS_CHANGE #32 session of 1: 2",
        "PROCESS_QUERY #33 pid 1, group 2, children of 3",
        "HEIRS #34 heir 4, epoch 1",
        "RESIGN #36 to member 2 after operation 3, epoch 1",
        "LEADER #37 member 3, epoch 1, standby",
        "SYNC_REQUEST_UPGRADE #48 handle 1 shared, 1 bytes",
    ] {
        assert!(
            lines.iter().any(|line| line.contains(words)),
            "{words}: {lines:#?}"
        );
    }
}

#[test]
fn a_request_and_its_answer_refer_to_each_other() {
    if !tshark::is_there() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let question = |seq| frame(seq, codes::GET_ID_OWNER, &[7, 0, 0, 0]);
    let answer = |seq| frame(seq, codes::RESP, &[3, 0, 0, 0]);
    let file = record(
        directory.path(),
        &[
            (question(64), Some(answer(64))),
            // This one is late, after another.
            (question(128), None),
            (question(192), Some(answer(192))),
            (question(256), Some(answer(128))),
            // This one has no request.
            (question(320), Some(answer(321))),
        ],
    );
    let names = [
        "libos_ipc.name",
        "libos_ipc.request_in",
        "libos_ipc.response_in",
        "libos_ipc.response_time",
        "libos_ipc.unanswered",
        "libos_ipc.unmatched",
    ];
    let rows = tshark::rows(&file, &names);
    let links: Vec<_> = rows
        .iter()
        .map(|row| names.map(|name| row[name].as_str()))
        .map(|[_, request, response, time, ..]| (request, response, time))
        .collect();
    assert_eq!(
        links,
        [
            ("", "2", ""),
            ("1", "", "0.000040000"),
            ("", "7", ""),
            ("", "5", ""),
            ("4", "", "0.000040000"),
            ("", "", ""),
            ("3", "", "0.000100000"),
            ("", "", ""),
            ("", "", ""),
        ]
    );
    let marked = |name: &str| {
        let is_marked = |row: &&Row| !row[name].is_empty();
        rows.iter().filter(is_marked).count()
    };
    assert_eq!((marked(names[4]), marked(names[5])), (2, 1));
    assert_eq!(rows[1]["libos_ipc.name"], "answer to GET_ID_OWNER");
}

/// Thousands of messages, whole or damaged: tshark and the crate agree on the malformed ones.
#[test]
fn only_malformed_frames_are_marked_malformed() {
    if !tshark::is_there() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    let (mut exchanges, mut expected) = (Vec::new(), Vec::new());
    for message in samples(any::message(), 1500) {
        let payload = damaged(&encoded(0, &message)[17..], &mut random);
        let code = message.code();
        if code == codes::RESP {
            continue;
        }
        expected.push(is_refused(code, &payload));
        exchanges.push((frame(0, code, &payload), None));
    }
    for (seq, (shape, answer)) in (1..).zip(samples(any::answer(), 1500)) {
        let Some(code) = random.choice(asking(shape)) else {
            continue;
        };
        let mut bytes = vec![0; answer.length()];
        answer.encode(seq, &mut bytes).unwrap();
        let payload = damaged(&bytes[17..], &mut random);
        let question = any::one_of_each()
            .into_iter()
            .find(|message| message.code() == code)
            .unwrap();
        expected.extend([false, Answer::decode(shape, &payload).is_err()]);
        let reply = frame(seq, codes::RESP, &payload);
        exchanges.push((encoded(seq, &question), Some(reply)));
    }
    assert!(expected.iter().filter(|refused| **refused).count() > 500);
    let file = record(directory.path(), &exchanges);
    let rows = tshark::rows(
        &file,
        &[MALFORMED, "libos_ipc.code", "data.data", "frame.len"],
    );
    let lines = tshark::lines(&file);
    assert_eq!(rows.len(), expected.len());
    for ((row, refused), line) in rows.iter().zip(&expected).zip(&lines) {
        assert_eq!(is_malformed(row), *refused, "{line}");
    }
}

fn is_refused(code: u8, payload: &[u8]) -> bool {
    (Frame {
        seq: 0,
        code,
        payload,
    })
    .message()
    .is_err()
}

/// Returns the payload unchanged, or with one change.
fn damaged(payload: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut payload = payload.to_vec();
    match random.u8(0..4) {
        0 => payload.truncate(random.usize(0..=payload.len())),
        1 => payload.push(random.u8(0..2)),
        2 if !payload.is_empty() => {
            let at = random.usize(..payload.len());
            payload[at] = payload[at].wrapping_add(random.u8(1..4));
        }
        _ => {}
    }
    payload
}

#[test]
fn a_stream_that_is_not_made_of_frames_is_shown_as_bytes() {
    if !tshark::is_there() {
        return;
    }
    assert!(is_refused(codes::GET_ID_OWNER, &[1, 2, 3]));
    let directory = tempfile::tempdir().unwrap();
    let mut too_short = frame(1, codes::GET_NEW_VMID, &[]);
    too_short[0] = 16;
    let file = record(
        directory.path(),
        &[
            (frame(1, codes::GET_NEW_VMID, &[]), None),
            (frame(2, codes::GET_ID_OWNER, &[1, 2, 3]), None),
            (too_short, None),
            (b"whatever comes then".to_vec(), None),
        ],
    );
    let rows = tshark::rows(&file, &[MALFORMED, "libos_ipc.name", "libos_ipc.raw"]);
    let marks: Vec<_> = rows.iter().map(is_malformed).collect();
    // Bytes that are no frame are reported in one or more pieces.
    assert_eq!(marks[..2], [false, true]);
    assert!(marks.len() >= 4 && marks[2..].iter().all(|marked| *marked));
    assert_eq!(rows[1]["libos_ipc.name"], "GET_ID_OWNER");
    let last = &rows.last().unwrap()["libos_ipc.raw"];
    assert!(
        last.replace(':', "").starts_with("7768617465766572"),
        "{last}"
    );
}
