//! Undoes the steps of a call that fails, or whose future is dropped.

/// Undoes a step of a call when it is dropped, unless the call succeeds.
pub(in crate::node) struct Undo<F: FnMut()> {
    undo: F,
    is_done: bool,
}

impl<F: FnMut()> Undo<F> {
    pub(in crate::node) const fn new(undo: F) -> Undo<F> {
        Undo {
            undo,
            is_done: false,
        }
    }

    /// Keeps the step, because the call has succeeded.
    pub(in crate::node) fn keep(mut self) {
        self.is_done = true;
    }
}

impl<F: FnMut()> Drop for Undo<F> {
    fn drop(&mut self) {
        if !self.is_done {
            (self.undo)();
        }
    }
}
