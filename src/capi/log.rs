//! Messages to the log callback of the library OS.

use core::ffi::{CStr, c_char, c_void};
use core::fmt::{Arguments, Write};

use heapless::String;

use super::state::SETUP;
use crate::invariant::OrBroken;

/// A line of text, cut to its capacity.
struct Line(String<254>);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for character in text.chars().filter(|character| *character != '\0') {
            self.0.push(character).map_err(|_| core::fmt::Error)?;
        }
        Ok(())
    }
}

/// Formats the text as a C string and passes it to `then`.
pub(super) fn with_text(text: Arguments<'_>, then: impl FnOnce(&CStr)) {
    let mut line = Line(String::new());
    // A text that is too long is cut.
    let _ = line.write_fmt(text);
    let mut bytes = [0; 255];
    for (to, from) in bytes.iter_mut().zip(line.0.bytes()) {
        *to = from;
    }
    then(CStr::from_bytes_until_nul(&bytes).or_broken(c""));
}

/// Writes a line to the log callback, if the library OS has one.
pub(super) fn write_line(level: u32, text: Arguments<'_>) {
    let Some(setup) = SETUP.get() else { return };
    let Some(log) = setup.callbacks.log else {
        return;
    };
    // SAFETY: `libos_ipc_setup` requires a function that does what the header states; the text lives until it returns.
    with_text(text, |text| unsafe {
        log(setup.platform.context, level, text.as_ptr());
    });
}

/// Logs which function of the platform is missing, before `SETUP` has a log callback.
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
