//! Allows the guest's program to use `-Tguest.ld`, wherever this package is.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rustc-link-search={here}");
    println!("cargo::rerun-if-changed=guest.ld");
}
