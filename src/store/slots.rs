//! Things that are made one after the other and never unmade.
#![allow(unsafe_code)]

use core::mem::MaybeUninit;

use super::arena::{Arena, bytes_for};
use crate::error::Error;

/// A fixed number of slots, each with a number. Those that were never needed stay untouched.
pub(crate) struct Slots<'m, T> {
    /// The first `made` are initialised.
    room: &'m mut [MaybeUninit<T>],
    made: usize,
}

impl<'m, T: Copy> Slots<'m, T> {
    pub(crate) const fn bytes(capacity: usize) -> usize {
        bytes_for::<T>(capacity)
    }

    pub(crate) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(Slots {
            room: arena.room(capacity)?,
            made: 0,
        })
    }

    /// How many there can be.
    pub(crate) fn capacity(&self) -> usize {
        self.room.len()
    }

    /// Makes the next one; its number, or `None` if all are made.
    pub(crate) fn push(&mut self, thing: T) -> Option<u32> {
        let number = u32::try_from(self.made).ok()?;
        self.room.get_mut(self.made)?.write(thing);
        self.made = self.made.saturating_add(1);
        Some(number)
    }

    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        let slot = self
            .room
            .get(number as usize)
            .filter(|_| (number as usize) < self.made)?;
        // SAFETY: those below `made` were written by `push`.
        Some(unsafe { slot.assume_init_ref() })
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let made = self.made;
        let slot = self
            .room
            .get_mut(number as usize)
            .filter(|_| (number as usize) < made)?;
        // SAFETY: those below `made` were written by `push`.
        Some(unsafe { slot.assume_init_mut() })
    }
}
