//! The state of a platform with a defect.

use core::sync::atomic::{AtomicBool, AtomicUsize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use super::Defect;
use crate::pal::{Interest, Token};
use crate::sync::UncheckedAtomicU64 as AtomicU64;

pub(super) struct State {
    pub(super) defect: Defect,
    pub(super) is_waiting: AtomicBool,
    pub(super) is_woken: AtomicBool,
    pub(super) listens: AtomicBool,
    /// Held during a wait.
    pub(super) wait: Mutex<()>,
    /// The state of all events.
    pub(super) is_set: Arc<Mutex<bool>>,
    pub(super) calls: AtomicU64,
    /// The clock's first time.
    pub(super) first: AtomicU64,
    pub(super) streams: AtomicUsize,
    /// The number of the stream that is full; 0 for none.
    pub(super) full: AtomicUsize,
    pub(super) watches: Mutex<BTreeMap<u64, Interest>>,
    pub(super) reported: Mutex<BTreeSet<u64>>,
    /// Streams that were full once.
    pub(super) muted: Mutex<BTreeSet<u64>>,
    pub(super) old: Mutex<Option<Token>>,
    pub(super) buffer: Mutex<Vec<u8>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => PoisonError::into_inner(poisoned),
    }
}
