//! The embedder's build links into a program that has neither `std` nor `alloc`, and runs there.

use std::path::Path;
use std::process::Command;

#[test]
fn links_and_runs_without_std_and_alloc() {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        assert!(
            std::env::var_os("CI").is_none(),
            "only written for x86-64 Linux"
        );
        println!("skipped: only written for x86-64 Linux");
        return;
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/freestanding/Cargo.toml");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("freestanding");
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
        .env_remove("RUSTFLAGS")
        .status()
        .unwrap();
    assert!(built.success(), "it does not link without std and alloc");
    let program = target.join("release/freestanding");
    let output = Command::new(&program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}:\n{text}", output.status);
    assert!(text.ends_with("freestanding: ok\n"), "{text}");
    assert!(text.contains("send buffers"), "{text}");
    // Linked statically with no library, so what it has is what it needs. An allocator would be
    // asked for by these names.
    let bytes = std::fs::read(program).unwrap();
    for name in ["__rust_alloc", "__rust_no_alloc_shim", "malloc"] {
        let found = bytes
            .windows(name.len())
            .any(|window| window == name.as_bytes());
        assert!(!found, "{name} is in it");
    }
}
