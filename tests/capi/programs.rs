//! Programs in C that use the library.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{file, has, library, made, run, secure_library};

/// Builds a program from files in C and the library.
fn program(name: &str, sources: &[&str], library: &Path) -> Command {
    let program = made(name);
    let mut compile = Command::new("cc");
    compile
        .args(["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"])
        .args(["-Wno-unused-parameter", "-pthread", "-I"])
        .arg(file("include"))
        .arg("-I")
        .arg(file("examples/c"))
        .arg("-o")
        .arg(&program)
        .args(sources.iter().map(|source| file(source)))
        .arg(library);
    run(&mut compile);
    Command::new(program)
}

/// Builds a program with the platform of the example, and runs it for a family of its own.
fn runs(name: &str, arguments: &[&str]) {
    if has("cc") {
        runs_with(name, arguments, library());
    }
}

fn runs_with(name: &str, arguments: &[&str], library: &Path) {
    let directory = TempDir::new().unwrap();
    let source = format!("tests/capi/{name}.c");
    let as_what = arguments.join("");
    let mut program = program(
        &format!("{name}{as_what}"),
        &[&source, "examples/c/posix.c"],
        library,
    );
    program.arg(directory.path().join("family")).args(arguments);
    print!("{}", run(&mut program));
}

#[test]
fn calls_do_what_the_header_says() {
    runs("calls", &[]);
}

#[test]
fn calls_do_so_without_threads() {
    runs("calls", &["polled"]);
}

#[test]
fn a_family_needs_no_threads() {
    runs("polled", &[]);
}

#[test]
fn a_lock_goes_with_the_last_process_that_has_the_open_file() {
    runs("open_files", &[]);
}

#[test]
fn who_has_not_the_key_is_turned_away() {
    if has("cc") {
        runs_with("secure", &[], secure_library());
    }
}

#[test]
fn a_library_without_secure_streams_takes_no_key() {
    runs("secure", &["plain"]);
}

#[test]
fn a_family_of_programs_in_c_and_rust_works() {
    if !has("cc") || !has("make") {
        return;
    }
    let mut make = Command::new("make");
    make.arg("-C").arg(file("examples/c")).arg("run");
    make.env_remove("RUSTFLAGS").env("CARGO", env!("CARGO"));
    let text = run(&mut make);
    let mut lines = text.lines().filter(|line| !line.starts_with("make"));
    assert_eq!(lines.next_back(), Some("c family: ok"), "{text}");
}
