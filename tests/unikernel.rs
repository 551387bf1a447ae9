//! Two guests without an operating system, under QEMU, in a family on this host: the example
//! `unikernel`, with and without a guest that fails.
#![allow(missing_docs)]
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::process::Command;

/// Runs the example, and returns its output; none if there is no QEMU.
fn run_output(arguments: &[&str]) -> Option<String> {
    const QEMU: &str = "qemu-system-x86_64";
    if Command::new(QEMU).arg("--version").output().is_err() {
        let why = "there is no QEMU: install the package qemu-system-x86";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        println!("skipped: {why}");
        return None;
    }
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--locked", "--example", "unikernel"]);
    // As `cargo test` builds the examples, so that it is not built again.
    command.env("CARGO_PROFILE_DEV_PANIC", "unwind");
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .arg("--")
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.ends_with("\nunikernel: ok\n"), "{text}");
    Some(text)
}

/// Returns the output lines of one process.
fn lines_of<'t>(run_output: &'t str, guest: &str) -> Vec<&'t str> {
    let begin = format!(" s  {guest:<8} ");
    let lines = run_output
        .lines()
        .filter_map(|line| line.split_once(&begin));
    lines.map(|(_, line)| line).collect()
}

#[track_caller]
fn in_order(run_output: &str, guest: &str, expected: &[&str]) {
    let lines = lines_of(run_output, guest);
    let mut rest = lines.iter();
    for expected in expected {
        assert!(
            rest.any(|line| line.contains(expected)),
            "{guest} has not printed {expected:?}, or not in this place:\n{run_output}"
        );
    }
}

#[test]
fn both_guests_finish_their_work() {
    let Some(run_output) = run_output(&[]) else {
        return;
    };
    for (guest, pid, code) in [("guest 1", 3, 41), ("guest 2", 4, 42)] {
        let i_am = format!("I am process {pid}, VMID {pid}");
        let ended = format!("ended with {code}");
        in_order(
            &run_output,
            guest,
            &[
                "no operating system",
                &i_am,
                "Running",
                "requests to the leader",
                "the ledger is locked by process 2",
                "got the ledger",
                "signal 10 came",
                &ended,
            ],
        );
        // Three activities at once: they may end in any order.
        for activity in [
            "took 40 IDs",
            "counted 200 times",
            "locked the ledger 20 times",
        ] {
            in_order(&run_output, guest, &["signal 10 came", activity, &ended]);
        }
        in_order(&run_output, "leader", &[&format!("process {pid} {ended}")]);
    }
    let met = "is /boot/guest-2 of user 0, and has locks";
    in_order(
        &run_output,
        "member",
        &["has locked the ledger", met, "signal 12 came"],
    );
}

/// Checks that the family sees the guest die, and continues.
#[track_caller]
fn dies(run_output: &str) {
    in_order(run_output, "leader", &["process 4 died of signal 30"]);
    in_order(run_output, "leader", &["process 3 ended with 41"]);
    in_order(run_output, "member", &["got the bytes of guest 2"]);
}

#[test]
fn a_panic_is_printed_and_reported_as_a_death() {
    let Some(run_output) = run_output(&["--fault", "panic"]) else {
        return;
    };
    in_order(&run_output, "guest 2", &["PANIC at "]);
    assert!(run_output.contains("fault.rs:"), "{run_output}");
    dies(&run_output);
}

#[test]
fn a_cpu_fault_is_printed_and_reported_as_a_death() {
    for (how, where_to) in [
        ("null", "writing the address 0000000000000000"),
        ("stack", "writing"),
    ] {
        let Some(run_output) = run_output(&["--fault", how]) else {
            return;
        };
        let texts = ["FAULT: page fault", "rip 0000", where_to, "rax"];
        in_order(&run_output, "guest 2", &texts);
        dies(&run_output);
    }
}

#[test]
fn a_guest_that_stops_reading_does_not_block_other_members() {
    let Some(run_output) = run_output(&["--fault", "unresponsive"]) else {
        return;
    };
    in_order(
        &run_output,
        "leader",
        &[
            "process 4 is unresponsive",
            "process 2 answered after",
            "pulled the plug",
        ],
    );
    dies(&run_output);
}
