//! AArch64.

/// Tells the CPU that this is a loop that waits for another one.
///
/// No machine code of our own: `spin_loop` is `isb` here, which empties the pipeline and so
/// costs about what `pause` does on x86. (`yield`, the obvious one, is a no-op on most cores.)
#[inline]
pub(crate) fn spin_hint() {
    core::hint::spin_loop();
}
