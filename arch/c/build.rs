//! Sets `cfg(static_library)`, and `cfg(seed_archive)` with the feature `seed`, for the sources of the crate.

fn main() {
    println!("cargo::rustc-cfg=static_library");
    if std::env::var_os("CARGO_FEATURE_SEED").is_some() {
        println!("cargo::rustc-cfg=seed_archive");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
