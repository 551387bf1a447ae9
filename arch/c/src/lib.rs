//! `liblibos_ipc.a`: the functions of `include/libos_ipc.h`, and what a program needs around them that
//! has no Rust runtime.
#![cfg(feature = "capi")]
#![no_std]

pub use ipc::*;

#[cfg(not(feature = "std"))]
mod alone {
    use core::panic::PanicInfo;

    /// A fault of the library itself: the library OS ends.
    #[panic_handler]
    fn panic(info: &PanicInfo<'_>) -> ! {
        ipc::c_fatal(format_args!("{info}"))
    }

    /// Named by the precompiled `core`, never called: panics end the process.
    // SAFETY: nobody else defines the name in a program without Rust's runtime.
    #[unsafe(no_mangle)]
    extern "C" fn rust_eh_personality() {}
}
