//! Links what the sanitizer's own code stands on.

fn main() {
    for library in ["c", "m", "dl", "pthread", "rt", "gcc_s"] {
        println!("cargo::rustc-link-arg-bins=-l{library}");
    }
}
