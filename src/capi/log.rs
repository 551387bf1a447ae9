//! What is said to the library OS in words.

use core::ffi::{CStr, c_char, c_void};
use core::fmt::{Arguments, Write};

use heapless::String;

use super::state::SETUP;

/// A line of text, as much of it as there is room for.
struct Line(String<254>);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for character in text.chars().filter(|character| *character != '\0') {
            self.0.push(character).map_err(|_| core::fmt::Error)?;
        }
        Ok(())
    }
}

/// The text with a NUL, for as long as `use_it` runs.
pub(super) fn with_text(text: Arguments<'_>, use_it: impl FnOnce(&CStr)) {
    let mut line = Line(String::new());
    // What is too long is cut.
    let _ = line.write_fmt(text);
    let mut bytes = [0; 255];
    for (to, from) in bytes.iter_mut().zip(line.0.bytes()) {
        *to = from;
    }
    use_it(CStr::from_bytes_until_nul(&bytes).unwrap_or(c""));
}

/// Hands a line to the library OS, if it has a log.
pub(super) fn write(level: u32, text: Arguments<'_>) {
    let Some(setup) = SETUP.get() else { return };
    let Some(log) = setup.callbacks.log else {
        return;
    };
    // SAFETY: the function does what the header says; the text lives until it returns.
    with_text(text, |text| unsafe {
        log(setup.platform.context, level, text.as_ptr());
    });
}

/// Says which function of the platform is missing, before there is a log.
pub(super) fn missing(
    log: unsafe extern "C" fn(*mut c_void, u32, *const c_char),
    context: *mut c_void,
    name: &str,
) {
    with_text(
        format_args!("libos_ipc_platform.{name} is missing"),
        // SAFETY: as above.
        |text| unsafe { log(context, 0, text.as_ptr()) },
    );
}
