//! The parts of the Rust runtime that the static library provides itself when it is built without `std`.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use super::state::SETUP;

/// True from the first panic on. A second panic, while the events are logged, does not log them again.
static FATAL: AtomicBool = AtomicBool::new(false);

/// Handles a fault of the library: it logs the last events, and the `fatal` callback ends the process.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if !FATAL.swap(true, Ordering::Relaxed) {
        super::diagnostics::libos_ipc_dump_events();
    }
    if let Some(setup) = SETUP.get()
        && let Some(fatal) = setup.callbacks.fatal
    {
        super::log::with_text(format_args!("{info}"), &mut |text| {
            // SAFETY: `libos_ipc_setup` requires a function that does what the header states. The text lives until it
            // returns, which the header forbids.
            unsafe { fatal(setup.platform.context, text) }
        });
    }
    // The library OS provides no `fatal`, or it returned.
    loop {
        core::hint::spin_loop();
    }
}

/// The precompiled `core` refers to this symbol. It is never called, because a panic ends the process.
// SAFETY: a program without the Rust runtime has no other definition of the symbol.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
