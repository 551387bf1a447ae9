//! All that this program has of a platform: an entry, three system calls and five memory functions.

/// Those of the guest on bare metal.
#[path = "../../../arch/x86_64/guest/src/memory.rs"]
mod memory;

use core::arch::{asm, global_asm};
use core::fmt;
use core::panic::PanicInfo;

// The kernel enters with the stack aligned to 16; a call wants it so before the return address.
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "call begin",
    "ud2"
);

/// Standard output.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let _written: isize;
        // SAFETY: write(1, text); the kernel reads only the bytes of `text`.
        unsafe {
            asm!("syscall", inlateout("rax") 1_isize => _written, in("rdi") 1, in("rsi") text.as_ptr(),
                in("rdx") text.len(), out("rcx") _, out("r11") _);
        }
        Ok(())
    }
}

/// Random numbers, as an enclave gets them from the processor.
#[cfg(feature = "secure")]
pub fn random(buffer: &mut [u8]) -> Result<(), libos_ipc::pal::OutOfResources> {
    let mut got = 318_isize;
    // SAFETY: getrandom(buffer, length, 0); the kernel writes only the bytes of `buffer`.
    unsafe {
        asm!("syscall", inlateout("rax") got, in("rdi") buffer.as_mut_ptr(), in("rsi") buffer.len(),
            in("rdx") 0, out("rcx") _, out("r11") _);
    }
    if usize::try_from(got) == Ok(buffer.len()) {
        Ok(())
    } else {
        Err(libos_ipc::pal::OutOfResources)
    }
}

/// Ends the process.
pub fn exit(code: i32) -> ! {
    // SAFETY: exit_group doesn't come back.
    unsafe { asm!("syscall", in("rax") 231, in("rdi") code, options(noreturn)) }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(101)
}

/// Named by the precompiled `core`, never called: panics end the process.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
