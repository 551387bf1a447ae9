//! Messages to the log callback of the library OS.

use core::ffi::{c_char, c_void};
use core::fmt::{Arguments, Write};

use super::state::SETUP;
use crate::invariant::Count;
use crate::log::Text;

/// The length of the longest line, without the NUL.
const LONGEST: usize = 254;

/// A line of text as a C string, which is cut at its capacity.
struct Line {
    /// The bytes behind the text are 0.
    bytes: [u8; LONGEST + 1],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let mut end = LONGEST.minus(self.length).min(text.len());
        while !text.is_char_boundary(end) {
            end.decrement();
        }
        let room = self.bytes.iter_mut().skip(self.length);
        let bytes = text.bytes().take(end).filter(|byte| *byte != 0);
        for (to, from) in room.zip(bytes) {
            *to = from;
            self.length.increment();
        }
        if end < text.len() {
            Err(core::fmt::Error)
        } else {
            Ok(())
        }
    }
}

/// Formats the text as a C string and passes it to `then`.
#[inline(never)]
pub(super) fn with_text(text: Arguments<'_>, then: &mut dyn FnMut(*const c_char)) {
    let mut line = Line {
        bytes: [0; LONGEST + 1],
        length: 0,
    };
    // A text that is too long is cut.
    let _ = line.write_fmt(text);
    then(line.bytes.as_ptr().cast());
}

/// Writes a line to the log callback, if the library OS has one.
pub(super) fn write_line(level: u32, text: Arguments<'_>) {
    let Some(setup) = SETUP.get() else { return };
    let Some(log) = setup.callbacks.log else {
        return;
    };
    // SAFETY: `libos_ipc_setup` requires a function that does what the header states; the text lives until it returns.
    with_text(text, &mut |text| unsafe {
        log(setup.platform.context, level, text);
    });
}

/// Logs which function of the platform is missing, before `SETUP` has a log callback.
pub(super) fn missing(
    log: unsafe extern "C" fn(*mut c_void, u32, *const c_char),
    context: *mut c_void,
    name: &str,
) {
    with_text(
        format_args!("libos_ipc_platform.{} is missing", Text(name)),
        // SAFETY: as above.
        &mut |text| unsafe { log(context, 0, text) },
    );
}
