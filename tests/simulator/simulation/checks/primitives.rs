//! **queues**: each item that was pushed is popped once, and those of one thread in the order of
//! their pushes. **semaphores**: no more threads have a permit than there are permits.
//! **condvars**: no more threads are inside a monitor than it has places, and none waits for ever.
//! **barriers**: every second arrival opens the barrier, and no thread passes before. A process that
//! dies may take its last changes with it, so after a death only items that were pushed are popped.

use std::collections::{BTreeMap, BTreeSet};

use super::values::Caller;

/// The permits of the semaphore. The barrier has as many parties, and the queue and the monitor have as much room.
pub(crate) const PLACES: u32 = 2;

#[derive(Default)]
pub(crate) struct Primitives {
    /// The leader keeps the values; else no process uses them.
    are_kept: bool,
    /// A process has died.
    has_died: bool,
    /// The items, and the threads that pushed them.
    items: BTreeMap<u64, Caller>,
    not_popped: BTreeSet<u64>,
    last_popped: BTreeMap<Caller, u64>,
    /// The threads that have a permit.
    inside: u32,
    /// The permits that could not be released.
    lost: u32,
    /// The threads inside of the monitor, and those that could not record that they have left.
    entered: u32,
    not_left: u32,
    /// The arrivals at the barrier, and the number of times that it has opened.
    arrived: u32,
    opened: u32,
}

impl Primitives {
    pub(crate) fn mark_kept(&mut self) {
        self.are_kept = true;
    }

    pub(crate) fn are_kept(&self) -> bool {
        self.are_kept
    }

    pub(crate) fn record_death(&mut self) {
        self.has_died = true;
    }

    /// Checks what holds unless a process has died.
    fn check(&self, holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
        if holds || self.has_died {
            Ok(())
        } else {
            Err(what())
        }
    }

    /// Returns a new item for a thread to push.
    pub(crate) fn new_item(&mut self, caller: Caller) -> u64 {
        let item = self.items.len() as u64 + 1;
        self.items.insert(item, caller);
        self.not_popped.insert(item);
        item
    }

    /// Records that the push has failed.
    pub(crate) fn record_failed_push(&mut self, item: u64) {
        self.not_popped.remove(&item);
    }

    /// Checks `queues`.
    pub(crate) fn record_pop(&mut self, item: u64) -> Result<(), String> {
        let Some(caller) = self.items.get(&item) else {
            return Err(format!("{item} is popped, and no process has pushed it"));
        };
        let was_left = self.not_popped.remove(&item);
        let last = self.last_popped.insert(*caller, item);
        let in_order = last.is_none_or(|last| last < item);
        self.check(was_left, || {
            format!("{item} is popped twice, or without a push")
        })?;
        self.check(in_order, || format!("{item} is popped after {last:?}"))
    }

    /// Checks `queues` at the end.
    pub(crate) fn check_all_popped(&self) -> Result<(), String> {
        self.check(self.not_popped.is_empty(), || {
            format!("{:?} are lost", self.not_popped)
        })
    }

    /// Checks `semaphores`.
    pub(crate) fn record_acquire(&mut self) -> Result<(), String> {
        self.inside += 1;
        let inside = self.inside;
        self.check(inside <= PLACES, || {
            format!("{inside} threads have a permit")
        })
    }

    pub(crate) fn begin_release(&mut self) {
        self.inside -= 1;
    }

    pub(crate) fn record_failed_release(&mut self) {
        self.lost += 1;
    }

    /// Checks `semaphores` at the end.
    pub(crate) fn check_all_released(&self, free: u32) -> Result<(), String> {
        let expected = PLACES.checked_sub(self.lost);
        self.check(expected == Some(free), || {
            format!(
                "{free} permits are free, and {} were not released",
                self.lost
            )
        })
    }

    /// Checks `condvars`.
    pub(crate) fn record_entry(&mut self) -> Result<(), String> {
        self.entered += 1;
        let entered = self.entered;
        self.check(entered <= PLACES, || {
            format!("{entered} threads are inside of the monitor")
        })
    }

    pub(crate) fn begin_leave(&mut self) {
        self.entered -= 1;
    }

    pub(crate) fn record_failed_leave(&mut self) {
        self.not_left += 1;
    }

    /// Checks `condvars` at the end.
    pub(crate) fn check_all_left(&self, inside: u32) -> Result<(), String> {
        self.check(inside == self.not_left, || {
            format!(
                "{inside} are inside of the monitor at the end, and not {}",
                self.not_left
            )
        })
    }

    /// Checks `barriers` at an arrival. Returns the number of times that the barrier had opened.
    pub(crate) fn record_arrival(&mut self, is_last: bool) -> Result<u32, String> {
        let opened = self.opened;
        self.arrived += 1;
        self.opened += u32::from(is_last);
        let opens = self.arrived.is_multiple_of(PLACES);
        self.check(is_last == opens, || {
            format!("arrival {} opens the barrier: {is_last}", self.arrived)
        })?;
        Ok(opened)
    }

    /// Checks `barriers` when a thread passes.
    pub(crate) fn check_pass(&self, opened_at_arrival: u32) -> Result<(), String> {
        self.check(self.opened > opened_at_arrival, || {
            "a thread passes the closed barrier".to_owned()
        })
    }
}
