//! Links the libraries of the sanitizer's own code.

fn main() {
    for library in ["c", "m", "dl", "pthread", "rt", "gcc_s"] {
        println!("cargo::rustc-link-arg-bins=-l{library}");
    }
}
