//! What a program needs that has no Rust runtime: only in the static library without `std`.

use core::panic::PanicInfo;

/// A fault of the library itself: the library OS ends.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    super::log::fatal(format_args!("{info}"))
}

/// Named by the precompiled `core`, never called: panics end the process.
// SAFETY: nobody else defines the name in a program without Rust's runtime.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
