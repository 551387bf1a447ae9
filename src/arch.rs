//! The one place of machine code: what differs from CPU to CPU, behind one name each.

#[cfg(target_arch = "aarch64")]
#[path = "../arch/aarch64/mod.rs"]
mod cpu;

#[cfg(target_arch = "riscv64")]
#[path = "../arch/riscv64/mod.rs"]
mod cpu;

#[cfg(target_arch = "x86_64")]
#[path = "../arch/x86_64/mod.rs"]
mod cpu;

#[cfg(not(any(
    target_arch = "aarch64",
    target_arch = "riscv64",
    target_arch = "x86_64"
)))]
mod cpu {
    /// Tells the CPU that this is a loop that waits for another one; nothing on some CPUs.
    pub(crate) fn spin_hint() {
        core::hint::spin_loop();
    }
}

pub(crate) use cpu::spin_hint;
