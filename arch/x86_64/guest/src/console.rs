//! The console: text on the first serial port.

use core::fmt::{self, Write};

use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550};

const PORT: u16 = 0x3f8;

/// Writes a line to the console.
#[macro_export]
macro_rules! print_line {
    ($($text:tt)*) => { $crate::console::line(format_args!($($text)*)) };
}

struct Console(Uart16550<PioBackend>);

/// Returns the port without a lock, since the report of a fault must not wait for another writer.
fn console() -> Option<Console> {
    // SAFETY: the port is the machine's first serial port, or of no device. There is one thread.
    unsafe { Uart16550::new_port(PORT) }.ok().map(Console)
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.send_bytes_exact(text.as_bytes());
        Ok(())
    }
}

pub(crate) fn init() {
    if let Some(Console(mut port)) = console() {
        // A machine without the port prints nothing.
        let _ = port.init(Config::default());
    }
}

/// Like [`print_line!`](crate::print_line).
pub fn line(text: fmt::Arguments<'_>) {
    if let Some(mut console) = console() {
        let _ = writeln!(console, "{text}");
    }
}
