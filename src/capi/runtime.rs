//! What a program needs that has no Rust runtime: only in the static library without `std`.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use super::state::SETUP;

/// Whether the end has begun: what happened last is said only once, should saying it fail, too.
static FATAL: AtomicBool = AtomicBool::new(false);

/// A fault of the library itself: it says what happened last, and the library OS ends the process.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if !FATAL.swap(true, Ordering::Relaxed) {
        super::events::libos_ipc_dump_events();
    }
    if let Some(setup) = SETUP.get()
        && let Some(fatal) = setup.callbacks.fatal
    {
        super::log::with_text(format_args!("{info}"), |text| {
            // SAFETY: the function does what the header says: it does not return. The text lives
            // until then.
            unsafe { fatal(setup.platform.context, text.as_ptr()) }
        });
    }
    // Nobody is there to tell, or it did return.
    loop {
        crate::arch::spin_hint();
    }
}

/// Named by the precompiled `core`, never called: panics end the process.
// SAFETY: nobody else defines the name in a program without Rust's runtime.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
