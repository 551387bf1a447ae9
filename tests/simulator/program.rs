//! The simulator as a program: the seeds that it runs.

use std::process::Command;

use crate::example::program;

/// Returns the output of the simulator with these arguments.
fn sim(arguments: &[&str]) -> String {
    let output = Command::new(program("sim"))
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the arguments in the line that tells how to repeat the run.
fn again(output: &str) -> Vec<String> {
    let line = output.lines().next().unwrap();
    let (_, arguments) = line.split_once(" -- ").unwrap();
    arguments.split(' ').map(str::to_owned).collect()
}

/// Returns the number of events and the digest of the traces, which differ for other seeds.
fn events(output: &str) -> &str {
    let line = output
        .lines()
        .find(|line| line.contains(" events, traces "));
    line.and_then(|line| line.rsplit_once("; ")).unwrap().1
}

#[test]
fn two_sweeps_start_at_different_seeds_and_the_printed_line_runs_the_same_ones_again() {
    let arguments = ["--runs", "5", "--faults", "delay,split", "--members", "3"];
    let (one, two) = (sim(&arguments), sim(&arguments));
    let command = again(&one);
    assert_ne!(command, again(&two));
    let repeated = sim(&command.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(again(&repeated), command);
    assert_eq!(events(&repeated), events(&one));
}

#[test]
fn a_sweep_with_a_given_start_runs_from_there() {
    let output = sim(&["--from", "70", "--runs", "2"]);
    let line = output.lines().next().unwrap();
    assert!(line.starts_with("seeds from 70: "), "{line}");
}

#[test]
fn recorded_operations_are_replayed_to_the_digest_in_the_file_and_to_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ops");
    let path = path.to_str().unwrap();
    let recorded = sim(&["--seed", "7", "--record-ops", path]);
    assert!(recorded.ends_with("sim: ok\n"), "{recorded}");
    let replayed = sim(&["--replay-ops", path]);
    assert!(replayed.ends_with("sim: ok\n"), "{replayed}");
    let mut file = std::fs::read(path).unwrap();
    *file.last_mut().unwrap() ^= 1;
    std::fs::write(path, file).unwrap();
    let replayed = sim(&["--replay-ops", path]);
    assert!(
        replayed.contains("sim: FAILED: the digest in the file"),
        "{replayed}"
    );
}

#[test]
fn operations_recorded_in_a_directory_that_is_not_there_fail_before_the_seed_runs() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(program("sim"))
        .args(["--seed", "7", "--record-ops"])
        .arg(directory.path().join("missing/ops"))
        .output()
        .unwrap();
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("a directory that is there"), "{stderr}");
    assert!(output.stdout.is_empty(), "{output:?}");
}
