//! The programs of the examples.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

/// Returns the program of the one example that a test uses. It is beside the tests, where all
/// targets are built together.
pub(crate) fn program(example: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    let deps = std::env::current_exe().unwrap();
    let profile = deps.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples").join(example);
    BUILT.call_once(|| {
        // The program is missing if only this test was built.
        if !program.exists() {
            let mut cargo = Command::new(env!("CARGO"));
            cargo
                .args(["build", "--workspace", "--example", example, "--target-dir"])
                .arg(profile.parent().unwrap())
                // As tests are built, so that the library is not built again.
                .env("CARGO_PROFILE_DEV_PANIC", "unwind");
            if profile.ends_with("release") {
                cargo.arg("--release");
            }
            assert!(
                cargo.status().unwrap().success(),
                "the example can't be built"
            );
        }
    });
    program
}
