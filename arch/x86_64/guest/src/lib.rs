//! The support of a `libos-ipc` family member on bare x86-64, for a guest under QEMU. It has no
//! operating system, one thread, fixed memory and no allocator.
//!
//! A guest's program is a function that [`program!`] names. When it is called, the processor is in
//! 64-bit mode with SSE, faults and panics are printed on the console ([`print_line!`]) and end the
//! machine, and the [clock] runs. [`VirtioChannel`] is the channel for a
//! [`MuxEndpoint`](libos_ipc::pal::mux::MuxEndpoint), which makes a platform of it. When the
//! function returns, the machine is switched off.
//!
//! # Building
//! The guest is built for the host's own target, without its libraries: the guest's package has a
//! build script with the linker's arguments (`-nostartfiles -nostdlib -static -no-pie
//! -Wl,-Tguest.ld`, as in `examples/unikernel/guest`); this package provides `guest.ld`.
//!
//! # The machine
//! The machine is QEMU's `microvm` with `acpi=off`, so that the command line names its devices;
//! with a serial port for the console, a virtio console for the channel, and `isa-debug-exit` at
//! port 0xf4 for switching it off: QEMU then exits with twice the program's code and one more.
#![no_std]
#![cfg(target_arch = "x86_64")]

mod boot;
pub mod clock;
pub mod console;
mod faults;
mod interrupts;
mod memory;
mod virtio_channel;

use x86_64::instructions::hlt;
use x86_64::instructions::port::Port;

pub use boot::{Start, image_memory};
pub use virtio_channel::{ChannelError, VirtioChannel};

/// The code of switching off after a fault or a panic.
pub const POWER_OFF_FAULT: u8 = 0x7f;

const DEBUG_EXIT: u16 = 0xf4;

/// Makes a function (`fn(Start) -> u8`) the guest's program. Its result, below 128, is the code of
/// switching off.
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
    // SAFETY: the port is that of QEMU's device, or of no device.
    unsafe { Port::new(DEBUG_EXIT).write(u32::from(code)) };
    stop()
}

/// Stops for ever, without reading or answering.
pub fn stop() -> ! {
    loop {
        // Interrupts are off.
        hlt();
    }
}
