//! The embedder's build links into a program that has neither `std` nor `alloc`, and runs there.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the program and runs it. Returns its path; `None` if it can't be built.
fn build_and_run(name: &str, flags: &str, features: &[&str]) -> Option<PathBuf> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        assert!(
            std::env::var_os("CI").is_none(),
            "only written for x86-64 Linux"
        );
        println!("skipped: only written for x86-64 Linux");
        return None;
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("freestanding/Cargo.toml");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--manifest-path",
        ])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target)
        .args(features)
        .env("RUSTFLAGS", flags)
        .status()
        .unwrap();
    assert!(built.success(), "it does not link without std and alloc");
    let program = target.join("release/freestanding");
    let output = Command::new(&program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}:\n{text}", output.status);
    assert!(text.ends_with("freestanding: ok\n"), "{text}");
    assert!(text.contains("send buffers"), "{text}");
    // The program is linked statically without a library, so it has all that it needs. An allocator
    // would appear under these names.
    let bytes = std::fs::read(&program).unwrap();
    for name in ["__rust_alloc", "__rust_no_alloc_shim", "malloc"] {
        let found = bytes
            .windows(name.len())
            .any(|window| window == name.as_bytes());
        assert!(!found, "{name} is in it");
    }
    Some(program)
}

#[test]
fn links_and_runs_without_std_and_alloc() {
    build_and_run("freestanding", "", &[]);
}

/// With the flags in `docs/security.md`, it has no instruction that an enclave can't execute.
#[test]
fn secure_streams_link_without_std_and_alloc() {
    let flags = "-C target-feature=+aes,+pclmulqdq --cfg curve25519_dalek_backend=\"serial\"";
    let features = ["--features", "secure"];
    let Some(program) = build_and_run("freestanding-secure", flags, &features) else {
        return;
    };
    let Ok(output) = Command::new("objdump").arg("-d").arg(program).output() else {
        assert!(std::env::var_os("CI").is_none(), "there is no objdump");
        println!("skipped: there is no objdump to look for cpuid with");
        return;
    };
    let code = String::from_utf8_lossy(&output.stdout);
    assert!(code.contains("aesenc"), "not the processor's AES");
    for instruction in ["cpuid", "xgetbv"] {
        assert!(!code.contains(instruction), "{instruction} is in it");
    }
}
