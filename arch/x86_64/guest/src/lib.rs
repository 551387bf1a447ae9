//! A member of a `libos-ipc` family on bare x86-64: what a guest under QEMU needs beside the family's
//! own crate. No operating system, one thread, fixed memory, no allocator.
//!
//! A guest's program is a function that [`program!`] names. When it is called, the processor is in
//! 64-bit mode with SSE, faults and panics are printed on the console ([`print_line!`]) and end the machine,
//! and the [clock] runs. [`VirtioChannel`] is the line that a
//! [`MuxEndpoint`](libos_ipc::pal::mux::MuxEndpoint) makes a platform of. When the function returns, the
//! machine is switched off.
//!
//! # Building
//! The host's own target does, linked without its libraries: the guest's package has a build script
//! with the linker's arguments (`-nostartfiles -nostdlib -static -no-pie -Wl,-Tguest.ld`, as in
//! `examples/unikernel/guest`); `guest.ld` comes from here.
//!
//! # The machine
//! QEMU's `microvm` with `acpi=off`, so that it tells its devices on the command line; a serial port
//! for the console; a virtio console for the line; and `isa-debug-exit` at port 0xf4, by which it is
//! switched off: QEMU then ends with twice the program's code and one more.
#![no_std]
#![cfg(target_arch = "x86_64")]

mod boot;
pub mod clock;
pub mod console;
mod faults;
mod interrupts;
mod virtio_channel;
mod memory;

use x86_64::instructions::hlt;
use x86_64::instructions::port::Port;

pub use boot::{Start, image_memory};
pub use virtio_channel::{ChannelError, VirtioChannel};

/// The code that a machine is switched off with after a fault or a panic.
pub const POWER_OFF_FAULT: u8 = 0x7f;

const DEBUG_EXIT: u16 = 0xf4;

/// Makes a function (`fn(Start) -> u8`) the guest's program. What it returns is the code that the
/// machine is switched off with, below 128.
#[macro_export]
macro_rules! program {
    ($program:path) => {
        const _: () = {
            // SAFETY: the name is this crate's own.
            #[unsafe(no_mangle)]
            fn libos_ipc_guest_program(start: $crate::Start) -> u8 {
                let program: fn($crate::Start) -> u8 = $program;
                program(start)
            }
        };
    };
}

/// Switches the machine off.
pub fn power_off(code: u8) -> ! {
    // SAFETY: the port is that of QEMU's device, or nobody's.
    unsafe { Port::new(DEBUG_EXIT).write(u32::from(code)) };
    stop()
}

/// Does nothing more, for ever: neither reads nor answers.
pub fn stop() -> ! {
    loop {
        // Interrupts are off.
        hlt();
    }
}
