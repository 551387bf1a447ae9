//! A family of real processes, recorded and dissected.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use libos_ipc::wire::{Expected, codes};

use crate::example::program;
use crate::tshark::{self, Row};

const FIELDS: [&str; 16] = [
    "frame.number",
    "frame.time_delta",
    "libos_ipc.record.kind",
    "libos_ipc.record.index",
    "libos_ipc.sender",
    "libos_ipc.receiver",
    "libos_ipc.code",
    "libos_ipc.name",
    "libos_ipc.seq",
    "libos_ipc.request_in",
    "libos_ipc.response_in",
    "libos_ipc.transit",
    "libos_ipc.response_time",
    "libos_ipc.service_time",
    "libos_ipc.malformed",
    "libos_ipc.not_recorded",
];

fn number(row: &Row, field: &str) -> u64 {
    let text = &row[field];
    text.parse().unwrap_or_else(|_| panic!("{field}: {row:?}"))
}

fn seconds(row: &Row, field: &str) -> Option<f64> {
    row[field].parse().ok()
}

#[test]
fn every_frame_of_a_family_is_recorded() {
    if !tshark::is_there() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("family.pcapng");
    let output = Command::new(program("family"))
        .args(["--members", "3", "--ids", "400", "--trace"])
        .arg(&file)
        .output()
        .unwrap();
    let output_text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{output_text}");

    let rows = tshark::rows(&file, &FIELDS);
    let is_frame = |row: &&Row| row["libos_ipc.record.kind"] == "0";
    let frames: Vec<&Row> = rows.iter().filter(is_frame).collect();
    assert!(frames.len() > 500, "{} frames", frames.len());
    let mut seen = BTreeSet::new();
    for row in &rows {
        assert_eq!(row["libos_ipc.malformed"], "", "{row:?}");
        assert_eq!(row["libos_ipc.not_recorded"], "", "{row:?}");
        assert!(seconds(row, "frame.time_delta").unwrap() >= 0.0, "{row:?}");
    }
    for row in &frames {
        let code = number(row, "libos_ipc.code") as u8;
        assert!(!codes::is_unknown(code), "{row:?}");
        let ends = ["libos_ipc.sender", "libos_ipc.receiver"].map(|end| number(row, end));
        assert!(ends.iter().all(|vmid| *vmid > 0), "{row:?}");
        // No stream is opened twice, so this identifies a frame.
        assert!(
            seen.insert((ends, number(row, "libos_ipc.record.index"))),
            "twice: {row:?}"
        );
    }

    let by_number: BTreeMap<u64, &Row> = frames
        .iter()
        .map(|row| (number(row, "frame.number"), *row))
        .collect();
    let killed = killed(&output_text, &frames);
    let mut timed = 0;
    for row in &frames {
        let code = number(row, "libos_ipc.code") as u8;
        // A process that was killed does not write the end of its recording.
        let is_killed = |end: &str| killed.contains(&number(row, end));
        let concerns_killed = is_killed("libos_ipc.sender") || is_killed("libos_ipc.receiver");
        if code == codes::RESP {
            let request = by_number[&number(row, "libos_ipc.request_in")];
            assert_eq!(request["libos_ipc.response_in"], row["frame.number"]);
            assert_eq!(request["libos_ipc.seq"], row["libos_ipc.seq"]);
            assert_eq!(request["libos_ipc.sender"], row["libos_ipc.receiver"]);
            let both = ["libos_ipc.response_time", "libos_ipc.service_time"];
            if let [Some(response), Some(service)] = both.map(|time| seconds(row, time)) {
                // The requester's time includes the transport in both directions.
                assert!(response >= service && service >= 0.0, "{row:?}");
                timed += 1;
            } else {
                assert!(concerns_killed, "not seen by both sides: {row:?}");
            }
        } else if Expected::of(code).is_some() && row["libos_ipc.seq"] != "0" {
            let is_answered = !row["libos_ipc.response_in"].is_empty();
            assert!(is_answered || concerns_killed, "not answered: {row:?}");
        }
    }
    assert!(timed > 100, "{timed} answers");

    let lines = tshark::lines(&file);
    let answer = |line: &&String| line.contains("answer to ALLOC_ID_RANGE") && line.contains("µs)");
    assert!(lines.iter().any(|line| answer(&line)));
}

/// Returns the member that was killed, which the program prints, and the process of the process
/// tree that has joined and sent no exit report.
fn killed(output_text: &str, frames: &[&Row]) -> BTreeSet<u64> {
    let member = output_text
        .split_once("; member ")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
        .expect("it prints which member is going to be killed");
    let senders_of = |code: u8| {
        frames
            .iter()
            .filter(move |row| number(row, "libos_ipc.code") == u64::from(code))
            .map(|row| number(row, "libos_ipc.sender"))
            .collect::<BTreeSet<_>>()
    };
    let ended = senders_of(codes::CHILDEXIT);
    let silent = senders_of(codes::HELLO)
        .into_iter()
        .filter(|vmid| !ended.contains(vmid));
    silent.filter(|vmid| *vmid != 1).chain([member]).collect()
}

#[test]
fn a_recording_into_a_directory_that_is_not_there_fails_at_the_start() {
    let directory = tempfile::TempDir::new().unwrap();
    let to = directory.path().join("missing/f.pcapng");
    let output = std::process::Command::new(crate::example::program("family"))
        .args(["--members", "2", "--ids", "10", "--trace"])
        .arg(&to)
        .output()
        .unwrap();
    let text =
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(text.contains("a directory that is there"), "{text}");
    // No member was started.
    assert!(!text.contains("member"), "{text}");
}
