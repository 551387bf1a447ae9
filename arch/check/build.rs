//! This build script turns on the features of the crate that the conformance kit needs.

fn main() {
    for feature in ["std", "testing", "capi", "secure"] {
        println!("cargo::rustc-cfg=feature=\"{feature}\"");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
