//! 64-bit RISC-V.

/// Tells the CPU that this is a loop that waits for another one.
///
/// No machine code of our own: `spin_loop` is the `pause` hint here whether or not the target
/// has Zihintpause. It is encoded as a `fence` without effect, so CPUs without it take it for a
/// no-op.
#[inline]
pub(crate) fn spin_hint() {
    core::hint::spin_loop();
}
