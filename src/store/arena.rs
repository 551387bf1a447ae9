//! One block of memory, handed over once, cut into the tables of a node.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::mem::{self, MaybeUninit};
use core::sync::atomic::{AtomicBool, Ordering};

use super::Buffer;
use crate::error::{Error, Resource};

/// Memory for one node as a `static`: all zero, so it costs no room in the image. Its type doesn't
/// say so: once a node has lived in it, some bytes are padding between values, which nobody may
/// read.
///
/// ```
/// use libos_ipc::store::Memory;
/// static MEMORY: Memory<4096> = Memory::new();
/// assert_eq!(MEMORY.take().map(|bytes| bytes.len()), Some(4096));
/// assert!(MEMORY.take().is_none(), "only one node can live in it");
/// ```
#[repr(C, align(64))]
pub struct Memory<const BYTES: usize> {
    bytes: UnsafeCell<[MaybeUninit<u8>; BYTES]>,
    taken: AtomicBool,
}

// SAFETY: the bytes are only reached through `take`, which hands them out to one caller, once.
unsafe impl<const BYTES: usize> Sync for Memory<BYTES> {}

impl<const BYTES: usize> Memory<BYTES> {
    /// Fresh memory.
    pub const fn new() -> Self {
        Memory {
            bytes: UnsafeCell::new([MaybeUninit::zeroed(); BYTES]),
            taken: AtomicBool::new(false),
        }
    }

    /// The memory, to the first who asks; `None` to everybody after.
    #[allow(clippy::mut_from_ref)] // handed out once
    pub fn take(&'static self) -> Option<&'static mut [MaybeUninit<u8>]> {
        if self.taken.swap(true, Ordering::AcqRel) {
            return None;
        }
        // SAFETY: `taken` went from false to true for this caller alone, and never goes back, so
        // this is the only reference there will ever be.
        Some(unsafe { &mut *self.bytes.get() })
    }
}

impl<const BYTES: usize> Default for Memory<BYTES> {
    fn default() -> Self {
        Self::new()
    }
}

/// How many bytes a table of `count` things of type `T` takes at most, alignment included.
pub(crate) const fn bytes_for<T>(count: usize) -> usize {
    count
        .saturating_mul(size_of::<T>())
        .saturating_add(align_of::<T>())
}

/// What is left of a block of memory while tables are cut from it.
///
/// The memory is [`MaybeUninit`], for what the tables write into it has padding, and who gave the
/// memory gets it back with bytes that may not be read. So plain bytes are refused:
///
/// ```compile_fail
/// let mut memory = [0_u8; 64];
/// libos_ipc::store::Arena::new(&mut memory);
/// ```
/// ```
/// let mut memory = [core::mem::MaybeUninit::<u8>::uninit(); 64];
/// assert_eq!(libos_ipc::store::Arena::new(&mut memory).remaining(), 64);
/// ```
pub struct Arena<'m> {
    rest: &'m mut [MaybeUninit<u8>],
}

impl<'m> Arena<'m> {
    /// An arena of that memory. Best untouched: pages that are never used then never become real on
    /// a host.
    pub fn new(memory: &'m mut [MaybeUninit<u8>]) -> Self {
        Arena { rest: memory }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Cuts off `count` bytes, as they are.
    fn cut(&mut self, count: usize) -> Result<&'m mut [MaybeUninit<u8>], Error> {
        let rest = mem::take(&mut self.rest);
        if count > rest.len() {
            self.rest = rest;
            return Err(Error::Full(Resource::Memory));
        }
        let (cut, rest) = rest
            .split_at_mut_checked(count)
            .ok_or(Error::Full(Resource::Memory))?;
        self.rest = rest;
        Ok(cut)
    }

    /// Cuts off a buffer of `count` bytes.
    pub(crate) fn alloc_buffer(&mut self, count: usize) -> Result<Buffer<'m>, Error> {
        self.cut(count).map(Buffer::uninit)
    }

    /// Cuts off `count` bytes from the far end, as an arena of their own.
    pub(crate) fn split_off(&mut self, count: usize) -> Result<Arena<'m>, Error> {
        let rest = mem::take(&mut self.rest);
        let Some(at) = rest.len().checked_sub(count) else {
            self.rest = rest;
            return Err(Error::Full(Resource::Memory));
        };
        let (rest, end) = rest
            .split_at_mut_checked(at)
            .ok_or(Error::Full(Resource::Memory))?;
        self.rest = rest;
        Ok(Arena { rest: end })
    }

    /// Cuts off room for `count` things of type `T` that nobody has made yet.
    pub(crate) fn alloc_uninit<T>(
        &mut self,
        count: usize,
    ) -> Result<&'m mut [MaybeUninit<T>], Error> {
        let padding = self.rest.as_ptr().align_offset(align_of::<T>());
        self.cut(padding)?;
        let length = count
            .checked_mul(size_of::<T>())
            .ok_or(Error::Full(Resource::Memory))?;
        let cut = self.cut(length)?;
        // SAFETY: `cut` is exclusively ours for 'm, aligned for T by the padding cut before it, and
        // exactly `count` times T's size long. Uninitialised T may hold any bytes.
        Ok(unsafe { core::slice::from_raw_parts_mut(cut.as_mut_ptr().cast(), count) })
    }

    /// Cuts off a table of `count` things and makes each.
    pub(crate) fn alloc_table<T>(
        &mut self,
        count: usize,
        mut make: impl FnMut(usize) -> Result<T, Error>,
    ) -> Result<Table<'m, T>, Error> {
        let room = self.alloc_uninit::<T>(count)?;
        for (index, slot) in room.iter_mut().enumerate() {
            slot.write(make(index)?);
        }
        // SAFETY: every element was written by the loop above.
        Ok(Table(unsafe { room.assume_init_mut() }))
    }
}

/// A table cut from an arena: owns what is in it, not the memory.
pub(crate) struct Table<'m, T>(&'m mut [T]);

impl<T> core::ops::Deref for Table<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        self.0
    }
}

impl<T> core::ops::DerefMut for Table<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.0
    }
}

impl<T> Drop for Table<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the table owns its elements and is the only way to them; the bytes below stay
        // borrowed for 'm, but nobody reads them as `T` again.
        unsafe { core::ptr::drop_in_place(self.0) }
    }
}
