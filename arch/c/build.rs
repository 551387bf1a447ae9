//! Sets `cfg(static_library)` for the sources of the crate.

fn main() {
    println!("cargo::rustc-cfg=static_library");
    println!("cargo::rerun-if-changed=build.rs");
}
