//! The event of a platform on which no thread sleeps.

use core::sync::atomic::{AtomicBool, Ordering};

use super::Event;

/// An [`Event`] that no thread sleeps on: it is set or clear, and setting it wakes no thread.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

impl Event for Flag {
    fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn clear(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
