//! The programs of `examples/c/programs`, natively and in the library OS of `examples/c/microlibos`.

use std::path::Path;
use std::process::Command;

use super::{file, has, library, path_for, run};

#[test]
fn programs_give_the_same_output_natively_and_in_a_library_os() {
    if !["cc", "make", "timeout"].into_iter().all(has) {
        return;
    }
    // The Makefile finds the library built.
    let target = library().parent().and_then(Path::parent).unwrap();
    let mut make = Command::new("make");
    make.arg("-C").arg(file("examples/c/microlibos"));
    make.arg("check");
    make.env("CARGO_TARGET_DIR", target);
    make.env("CARGO_BUILD_BUILD_DIR", path_for("build"));
    make.env("RUSTFLAGS", "").env("CARGO", env!("CARGO"));
    let text = run(&mut make);
    let mut lines = text.lines().filter(|line| !line.starts_with("make"));
    assert_eq!(lines.next_back(), Some("microlibos: ok"), "{text}");
}
