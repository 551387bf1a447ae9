//! Links without any library, by the linker script `guest.ld` of libos-ipc-guest.

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
