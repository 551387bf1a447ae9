//! All that this program has of a platform: an entry, three system calls and five memory functions.

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

/// # Safety
/// As the C function says.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both; `rep movsb` touches nothing else.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _);
    }
    to
}

/// # Safety
/// As the C function says.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: copied upwards nothing is overwritten before it was read.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: downwards, from the last byte on; the direction flag is put back.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") count => _,
            inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _);
    }
    to
}

/// # Safety
/// As the C function says.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the bytes written.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") value as u8);
    }
    to
}

/// # Safety
/// As the C function says.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    for at in 0..count {
        // SAFETY: the caller vouches for `count` bytes of each.
        let (left, right) =
            unsafe { (left.add(at).read_volatile(), right.add(at).read_volatile()) };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}

/// # Safety
/// As the C function says.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: as the caller vouches for.
    unsafe { memcmp(left, right, count) }
}
