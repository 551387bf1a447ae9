//! A fixed number of things to link into trees and lists, and to give back.

use core::mem::{self, MaybeUninit};

use intrusive_collections::linked_list::{AtomicLinkOps, LinkedList};
use intrusive_collections::{Adapter, DefaultPointerOps};

use super::arena::{Arena, bytes_for};
use crate::error::Error;

/// A pool of `T`. What is taken from it is a plain reference that lives as long as the memory, so
/// links in trees need no counting; whoever unlinks a thing gives it back.
///
/// Free things hang on one of their own links, the one that `A` names. Things that were never
/// taken are not made yet: their memory is untouched.
pub(crate) struct Pool<'m, T, A>
where
    A: Adapter<LinkOps = AtomicLinkOps, PointerOps = DefaultPointerOps<&'m T>>,
{
    fresh: &'m mut [MaybeUninit<T>],
    free: LinkedList<A>,
    capacity: usize,
    taken: usize,
    most_taken: usize,
}

impl<'m, T, A> Pool<'m, T, A>
where
    T: Default,
    A: Adapter<LinkOps = AtomicLinkOps, PointerOps = DefaultPointerOps<&'m T>>,
{
    /// The memory that a pool of `capacity` things takes.
    pub(crate) const fn bytes(capacity: usize) -> usize {
        bytes_for::<T>(capacity)
    }

    /// A pool of `capacity` things, cut from `arena`.
    pub(crate) fn new(arena: &mut Arena<'m>, capacity: usize, adapter: A) -> Result<Self, Error> {
        Ok(Pool {
            fresh: arena.room(capacity)?,
            free: LinkedList::new(adapter),
            capacity,
            taken: 0,
            most_taken: 0,
        })
    }

    /// Takes a thing, in whatever state it was given back; `None` when all are taken.
    pub(crate) fn take(&mut self) -> Option<&'m T> {
        let thing = if let Some(thing) = self.free.pop_front() {
            thing
        } else {
            let (first, rest) = mem::take(&mut self.fresh).split_first_mut()?;
            self.fresh = rest;
            first.write(T::default())
        };
        self.taken = self.taken.saturating_add(1);
        self.most_taken = self.most_taken.max(self.taken);
        Some(thing)
    }

    /// Gives a thing back. It must come from this pool and be in no tree or list.
    pub(crate) fn give(&mut self, thing: &'m T) {
        self.free.push_front(thing);
        self.taken = self.taken.saturating_sub(1);
    }

    /// How many more can be taken.
    pub(crate) fn left(&self) -> usize {
        self.capacity.saturating_sub(self.taken)
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// The most that were ever taken at once.
    pub(crate) fn most_taken(&self) -> usize {
        self.most_taken
    }
}
