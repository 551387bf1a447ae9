//! Tells the sources that they are to be the static library.

fn main() {
    println!("cargo::rustc-cfg=static_library");
    println!("cargo::rerun-if-changed=build.rs");
}
