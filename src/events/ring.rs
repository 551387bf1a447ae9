//! The last events of a node, in a ring of words to which any thread writes without waiting.
//!
//! A thread that adds an event takes a number, which determines the slot, and stores three words
//! there. Each word has the low bits of the lap, that is of how often the ring has wrapped, so a
//! reader sees whether words belong together: it leaves out a slot whose words do not all have the
//! lap of the expected number, since the slot is being written. Nothing depends on the order of
//! stores. A reader takes words of two events for one only if a thread sleeps in the middle of an event for
//! exactly a multiple of 256 laps.

use crate::pal::Time;
use crate::parts;
use crate::store::{Arena, Table, bytes_for};
use crate::sync::{AtomicU64, Ordering};

/// The number of bits of a word without those of its lap.
const VALUE_BITS: u32 = 56;
/// The bits of a word without those of its lap.
pub(super) const VALUE_MASK: u64 = (1 << VALUE_BITS) - 1;

/// The words of an event without its time.
pub(super) type Words = [u64; 2];

type Slot = [AtomicU64; 3];

/// The ring of the last events. Each slot has three words: the time and the two words of an event.
pub(crate) struct EventRing<'m> {
    slots: Table<'m, Slot>,
    /// The number of the next event.
    next: AtomicU64,
    /// The time at which the node last read its clock.
    clock: AtomicU64,
}

impl<'m> EventRing<'m> {
    /// Returns the number of slots: a power of two, so that the slot is cheap to compute.
    const fn length(capacity: usize) -> usize {
        match capacity.checked_next_power_of_two() {
            Some(length) if parts::EVENTS && capacity > 0 => length,
            _ => 0,
        }
    }

    pub(crate) const fn bytes(capacity: usize) -> usize {
        bytes_for::<Slot>(Self::length(capacity))
    }

    pub(crate) fn new(arena: &mut Arena<'m>, capacity: usize) -> Self {
        EventRing {
            slots: arena.alloc_table(Self::length(capacity), |_| {
                [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)]
            }),
            next: AtomicU64::new(0),
            clock: AtomicU64::new(0),
        }
    }

    /// Returns true if events are kept.
    #[inline]
    pub(crate) fn is_enabled(&self) -> bool {
        parts::EVENTS && !self.slots.is_empty()
    }

    /// Sets the time of further events.
    #[inline]
    pub(crate) fn set_time(&self, now: Time) {
        if self.is_enabled() {
            self.clock.store(now.0, Ordering::Relaxed);
        }
    }

    /// Returns the time of further events.
    #[inline]
    pub(crate) fn time(&self) -> Time {
        Time(self.clock.load(Ordering::Relaxed))
    }

    /// Returns the lap of an event, in its place in a word, and its slot.
    #[inline]
    fn lap_and_slot(&self, number: u64) -> Option<(u64, &Slot)> {
        let length = self.slots.len() as u64;
        // Laps begin at 1, since an unused slot has 0.
        let lap = number.wrapping_shr(length.trailing_zeros()).wrapping_add(1) << VALUE_BITS;
        let place = usize::try_from(number & length.wrapping_sub(1)).ok()?;
        Some((lap, self.slots.get(place)?))
    }

    /// Adds an event. The words have [`VALUE_BITS`].
    #[inline]
    pub(super) fn add(&self, words: Words) {
        if !self.is_enabled() {
            return;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let time = self.clock.load(Ordering::Relaxed) & VALUE_MASK;
        let Some((lap, [first, second, third])) = self.lap_and_slot(number) else {
            return;
        };
        let [a, b] = words;
        first.store(lap | time, Ordering::Relaxed);
        second.store(lap | a, Ordering::Relaxed);
        third.store(lap | b, Ordering::Relaxed);
    }

    /// Returns the numbers of the events that may be in the ring, from the oldest on.
    pub(super) fn numbers(&self) -> core::ops::Range<u64> {
        let next = self.next.load(Ordering::Acquire);
        next.saturating_sub(self.slots.len() as u64)..next
    }

    /// Returns the event with that number: the low bits of its time, and its words. `None` if it is
    /// being written, or was overwritten.
    pub(super) fn get(&self, number: u64) -> Option<(u64, Words)> {
        let (lap, place) = self.lap_and_slot(number)?;
        let mut values = [0; 3];
        for (value, word) in values.iter_mut().zip(place) {
            let word = word.load(Ordering::Relaxed);
            if word & !VALUE_MASK != lap {
                return None;
            }
            *value = word & VALUE_MASK;
        }
        let [time, a, b] = values;
        Some((time, [a, b]))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;
    use std::vec::Vec;

    use core::mem::MaybeUninit;

    use super::*;

    fn ring(memory: &mut [MaybeUninit<u8>], capacity: usize) -> EventRing<'_> {
        EventRing::new(&mut Arena::new(memory), capacity)
    }

    fn all(ring: &EventRing<'_>) -> Vec<(u64, Words)> {
        ring.numbers()
            .filter_map(|number| ring.get(number))
            .collect()
    }

    #[test]
    fn the_ring_keeps_the_last_events_in_order() {
        let mut memory = [MaybeUninit::uninit(); 1024];
        let ring = ring(&mut memory, 5);
        assert!(all(&ring).is_empty());
        // These are more laps than the bits of a lap can count.
        for number in 1..=8 * 300_u64 {
            ring.set_time(Time(number * 10));
            ring.add([number, VALUE_MASK - number]);
            // The capacity 5 is rounded up to 8.
            let first = number.saturating_sub(7).max(1);
            let expected: Vec<_> = (first..=number)
                .map(|number| (number * 10, [number, VALUE_MASK - number]))
                .collect();
            assert_eq!(all(&ring), expected);
        }
    }

    #[test]
    fn a_ring_without_slots_keeps_nothing() {
        let mut memory = [MaybeUninit::uninit(); 64];
        let ring = ring(&mut memory, 0);
        ring.add([1, 2]);
        assert!(!ring.is_enabled() && all(&ring).is_empty());
        assert_eq!(ring.numbers(), 0..0);
    }

    /// Threads add events while one reads: no event that it reads mixes words of two events.
    #[test]
    fn no_event_mixes_words_of_two_events() {
        let mut memory = [MaybeUninit::uninit(); 1024];
        let ring = ring(&mut memory, 8);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let adding: Vec<_> = (1..=3_u64)
                .map(|thread| {
                    let ring = &ring;
                    scope.spawn(move || {
                        for number in 0..100_000 {
                            let word = thread << 40 | number;
                            ring.add([word, word ^ VALUE_MASK]);
                        }
                    })
                })
                .collect();
            let reading = scope.spawn(|| {
                let mut seen = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    for (_, [a, b]) in all(&ring) {
                        assert_eq!(a ^ b, VALUE_MASK);
                        seen += 1;
                    }
                }
                seen
            });
            for thread in adding {
                thread.join().unwrap();
            }
            over.store(true, Ordering::Relaxed);
            reading.join().unwrap();
        });
        // A thread that slept in the middle of one of its last events has overwritten a newer one.
        (0..8).for_each(|number| ring.add([number, number ^ VALUE_MASK]));
        assert_eq!(all(&ring).len(), 8);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::boxed::Box;

    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Two threads add an event to the same slot while a third reads: it reads whole events or
    /// none.
    #[test]
    fn loom_a_read_event_is_whole() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(2);
        builder.check(|| {
            let memory = Box::leak(Box::new_uninit_slice(EventRing::bytes(1)));
            let ring = Arc::new(EventRing::new(&mut Arena::new(memory), 1));
            let adding = [1_u64, 2].map(|word| {
                let ring = Arc::clone(&ring);
                thread::spawn(move || ring.add([word, word ^ VALUE_MASK]))
            });
            for number in ring.numbers() {
                if let Some((_, [a, b])) = ring.get(number) {
                    assert_eq!(a ^ b, VALUE_MASK);
                }
            }
            for thread in adding {
                thread.join().unwrap();
            }
            let last = ring.get(ring.numbers().start);
            // One of two concurrent events may overwrite the other, but not partly.
            assert!(last.is_none_or(|(_, [a, b])| a ^ b == VALUE_MASK));
        });
    }
}
