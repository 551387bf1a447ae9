//! The event of a platform with a defect.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::Defect;
use super::state::lock;
use crate::pal::{Event, OutOfResources, Pal};

/// An event of a [`Defective`] platform.
pub struct DefectiveEvent<P: Pal> {
    pub(super) inner: P::Event,
    pub(super) defect: Defect,
    pub(super) is_set: Arc<Mutex<bool>>,
    pub(super) changed: Condvar,
    pub(super) was_set: AtomicBool,
}

impl<P: Pal> Event for DefectiveEvent<P> {
    fn prepare(&self) -> Result<(), OutOfResources> {
        self.inner.prepare()
    }

    fn set(&self) {
        *lock(&self.is_set) = true;
        let was_set = self.was_set.swap(true, Ordering::SeqCst);
        match self.defect {
            Defect::SetWakesNobody => {}
            Defect::SetWakesOnce if was_set => {}
            Defect::SetWakesOne => self.changed.notify_one(),
            _ => self.inner.set(),
        }
    }

    fn clear(&self) {
        *lock(&self.is_set) = false;
        self.inner.clear();
    }

    fn is_set(&self) -> bool {
        *lock(&self.is_set)
    }
}
