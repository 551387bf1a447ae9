//! `make install` of `arch/c`, and a program that is built with the flags of pkg-config alone.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use tempfile::TempDir;

use super::{file, has, library, run};

/// Two installations at once would write the same objects.
static INSTALLING: Mutex<()> = Mutex::new(());

fn install(variables: &[String]) {
    // Other tests make the archives in the same directory, from two builds of the library that replace each other.
    super::archive::shipped();
    let _one_at_a_time = INSTALLING.lock().unwrap();
    // The library is built already, in a target directory that is not the usual one.
    let target = library().parent().and_then(Path::parent).unwrap();
    let mut make = Command::new("make");
    make.arg("-C").arg(file("arch/c")).arg("install");
    make.arg(format!("CARGO_TARGET_DIR={}", target.display()));
    make.args(variables);
    make.env("RUSTFLAGS", "").env("CARGO", env!("CARGO"));
    run(&mut make);
}

fn flags(packages: &Path, root: &Path, option: &str) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.args([option, "libos_ipc_posix"]);
    command.env("PKG_CONFIG_PATH", packages);
    command.env("PKG_CONFIG_SYSROOT_DIR", root);
    let text = run(&mut command);
    text.split_whitespace().map(str::to_owned).collect()
}

/// Builds and runs a program with what is installed below `root`, whose packages are in `packages`.
fn build_and_run(packages: &Path, root: &Path, directory: &Path) {
    let program = directory.join("program");
    let mut compile = Command::new("cc");
    compile.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]);
    compile.args(flags(packages, root, "--cflags"));
    compile.arg(file("tests/capi/installed.c"));
    compile.args(flags(packages, root, "--libs"));
    compile.arg("-o").arg(&program);
    run(&mut compile);
    let mut program = Command::new(program);
    program.arg(directory.join("family"));
    assert_eq!(run(&mut program), "installed: ok\n");
}

fn has_tools() -> bool {
    ["cc", "make", "pkg-config", "ld", "nm", "objcopy"]
        .into_iter()
        .all(has)
}

#[test]
fn a_program_is_built_with_the_flags_of_an_installed_package() {
    if !has_tools() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let prefix = directory.path().join("prefix");
    install(&[format!("PREFIX={}", prefix.display())]);
    let packages = prefix.join("lib/pkgconfig");
    build_and_run(&packages, Path::new(""), directory.path());
    assert!(prefix.join("share/libos_ipc/posix.c").exists());
}

#[test]
fn a_package_staged_below_a_directory_names_its_final_prefix() {
    if !has_tools() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let stage = directory.path().join("stage");
    let libraries = "/opt/family/lib/x86_64";
    install(&[
        format!("DESTDIR={}", stage.display()),
        "PREFIX=/opt/family".to_owned(),
        format!("LIBDIR={libraries}"),
    ]);
    let packages = stage.join(&libraries[1..]).join("pkgconfig");
    let text = std::fs::read_to_string(packages.join("libos_ipc.pc")).unwrap();
    assert!(text.contains("prefix=/opt/family\n"), "{text}");
    build_and_run(&packages, &stage, directory.path());
}
