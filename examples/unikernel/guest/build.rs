//! Links without any library, as `guest.ld` of libos-ipc-guest has it.

fn main() {
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=4096",
        "-Wl,-Tguest.ld",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
