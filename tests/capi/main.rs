//! Tests of the C interface.
//!
//! `header` compares `include/libos_ipc.h` with the Rust code, by a C compiler and cbindgen. `archive` inspects the
//! linked static library with `nm` and `objdump`. `pointers` checks the sources of `src/capi`. `programs` builds and
//! runs C programs. `install` installs the library and uses it.
#![allow(missing_docs)]

mod archive;
#[path = "../common/example.rs"]
mod example;
mod header;
mod install;
mod microlibos;
mod pointers;
mod programs;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Returns the path of a file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Returns the path for a file that a test creates.
fn path_for(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi");
    std::fs::create_dir_all(&directory).unwrap();
    directory.join(name)
}

/// Returns true if a program is installed. If it is not, the test is skipped, or fails if `CI` is
/// set.
fn has(program: &str) -> bool {
    let is_there = Command::new(program).arg("--version").output().is_ok();
    if !is_there {
        assert!(std::env::var_os("CI").is_none(), "there is no `{program}`");
        println!("skipped: there is no `{program}`");
    }
    is_there
}

/// Runs a program, asserts that it succeeds, and returns its output.
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

/// Returns the static library, built without `std` as for an enclave.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| build("target", "capi", ""))
}

/// Returns the static library with secure streams, which a family without a key does not use, and with successions,
/// built with the flags in `docs/security.md`.
fn whole_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let flags = "--cfg aes_force_soft --cfg polyval_force_soft \
                 --cfg curve25519_dalek_backend=\"serial\"";
    LIBRARY.get_or_init(|| build("whole-target", "capi,secure,succession", flags))
}

/// Returns the static library with the check of platforms: little is optimised, because that would take longer than the
/// checks.
fn check_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let target = path_for("check-target");
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--release", "--locked", "--quiet"])
            .args(["--package", "libos-ipc-check", "--target-dir"])
            .arg(&target)
            .current_dir(file(""))
            .env("CARGO_BUILD_BUILD_DIR", path_for("build"))
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("RUSTFLAGS", "");
        run(&mut build);
        target.join("release/liblibos_ipc_check.a")
    })
}

fn build(target: &str, features: &str, flags: &str) -> PathBuf {
    let target = path_for(target);
    let mut build = Command::new(env!("CARGO"));
    build
        .args(["build", "--release", "--locked", "--quiet"])
        .args(["--package", "libos-ipc-c", "--no-default-features"])
        .args(["--features", features, "--target-dir"])
        .arg(&target)
        .current_dir(file(""))
        // The crates that the libraries have in common are built once.
        .env("CARGO_BUILD_BUILD_DIR", path_for("build"))
        .env("RUSTFLAGS", flags);
    run(&mut build);
    target.join("release/liblibos_ipc.a")
}
