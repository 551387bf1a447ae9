//! x86-64.

/// Tells the CPU that this is a loop that waits for another one.
///
/// No machine code of our own: `spin_loop` is `pause` here, which leaves the execution units to
/// the sibling thread and spares the loop's exit a memory-order flush. `tpause` waits longer but
/// may be forbidden by the kernel, and traps in some enclaves.
#[inline]
pub(crate) fn spin_hint() {
    core::hint::spin_loop();
}
