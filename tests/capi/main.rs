//! The functions of `include/libos_ipc.h`, as a library OS in C has them: the header, what is linked
//! in, what the calls do.
#![allow(missing_docs)]

mod archive;
mod header;
mod pointers;
mod programs;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Where what is built here goes.
fn made(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi");
    std::fs::create_dir_all(&directory).unwrap();
    directory.join(name)
}

/// Whether there is that program. It says so if not; where everything has to be there, the test
/// fails.
fn has(program: &str) -> bool {
    let is_there = Command::new(program).arg("--version").output().is_ok();
    if !is_there {
        assert!(std::env::var_os("CI").is_none(), "there is no `{program}`");
        println!("skipped: there is no `{program}`");
    }
    is_there
}

/// Runs a program to its end, which must be a good one, and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The static library, built as an enclave would: without `std`.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| build("target", "capi", ""))
}

/// The same with secure streams, and built as `docs/secure.md` says.
fn secure_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let flags = "--cfg aes_force_soft --cfg polyval_force_soft \
                 --cfg curve25519_dalek_backend=\"serial\"";
    LIBRARY.get_or_init(|| build("secure-target", "capi,secure", flags))
}

fn build(target: &str, features: &str, flags: &str) -> PathBuf {
    let target = made(target);
    let mut build = Command::new(env!("CARGO"));
    build
        .args(["build", "--release", "--locked", "--quiet"])
        .args(["--package", "libos-ipc-c", "--no-default-features"])
        .args(["--features", features, "--target-dir"])
        .arg(&target)
        .current_dir(file(""))
        .env("RUSTFLAGS", flags);
    run(&mut build);
    target.join("release/liblibos_ipc.a")
}
