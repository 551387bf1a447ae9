//! One block of memory for a node, from which the node's tables are allocated.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::mem::{self, MaybeUninit};
use core::sync::atomic::{AtomicBool, Ordering};

use super::Buffer;
use crate::error::{Error, Resource};

/// Memory for one node as a `static`. It is all zero, so it takes no room in the image. It is not a
/// `[u8]`, since a node that has used it leaves padding bytes, which must not be read.
///
/// ```
/// use libos_ipc::Memory;
/// static MEMORY: Memory<4096> = Memory::new();
/// assert_eq!(MEMORY.take().map(|bytes| bytes.len()), Some(4096));
/// assert!(MEMORY.take().is_none(), "only one node can live in it");
/// ```
#[repr(C, align(64))]
pub struct Memory<const BYTES: usize> {
    bytes: UnsafeCell<[MaybeUninit<u8>; BYTES]>,
    taken: AtomicBool,
}

// SAFETY: only `take` gives access to the bytes, to one caller, once.
unsafe impl<const BYTES: usize> Sync for Memory<BYTES> {}

impl<const BYTES: usize> Memory<BYTES> {
    /// Makes memory that is all zero.
    pub const fn new() -> Self {
        Memory {
            bytes: UnsafeCell::new([MaybeUninit::zeroed(); BYTES]),
            taken: AtomicBool::new(false),
        }
    }

    /// Returns the memory to the first caller; `None` to each later one.
    #[allow(clippy::mut_from_ref)] // handed out once
    pub fn take(&'static self) -> Option<&'static mut [MaybeUninit<u8>]> {
        if self.taken.swap(true, Ordering::AcqRel) {
            return None;
        }
        // SAFETY: `taken` went from false to true for this caller alone and never goes back, so
        // this is the only reference that ever exists.
        Some(unsafe { &mut *self.bytes.get() })
    }
}

impl<const BYTES: usize> Default for Memory<BYTES> {
    fn default() -> Self {
        Self::new()
    }
}

/// The greatest number of bytes that a table of `count` elements of type `T` takes, alignment
/// included.
pub(crate) const fn bytes_for<T>(count: usize) -> usize {
    count
        .saturating_mul(size_of::<T>())
        .saturating_add(align_of::<T>())
}

/// The sum of some lengths. A sum that is too large is more than any memory or frame has room for.
macro_rules! total {
    ($first:expr $(, $length:expr)* $(,)?) => {
        $first$(.saturating_add($length))*
    };
}

pub(crate) use total;

/// The part of a block of memory that is not allocated yet.
///
/// The memory is [`MaybeUninit`], since the tables leave padding bytes in it, and its owner gets it
/// back with bytes that must not be read. So plain bytes are refused:
///
#[cfg_attr(
    feature = "testing",
    doc = "```compile_fail
let mut memory = [0_u8; 64];
libos_ipc::store::Arena::new(&mut memory);
```
```
let mut memory = [core::mem::MaybeUninit::<u8>::uninit(); 64];
assert_eq!(libos_ipc::store::Arena::new(&mut memory).remaining(), 64);
```"
)]
pub struct Arena<'m> {
    rest: &'m mut [MaybeUninit<u8>],
}

impl<'m> Arena<'m> {
    /// Makes an arena of this memory. The memory is best untouched: on a host, pages that are never
    /// used are never allocated.
    pub fn new(memory: &'m mut [MaybeUninit<u8>]) -> Self {
        Arena { rest: memory }
    }

    /// Returns the number of bytes that are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Cuts off `count` bytes without changing them.
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

    /// Cuts off `count` bytes at the end, as an arena of their own.
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

    /// Cuts off memory for `count` elements of type `T`, which are not initialised.
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
        // SAFETY: `cut` is exclusively this call's for 'm, aligned for T by the padding cut before
        // it, and exactly `count` times T's size long. Uninitialised T may hold any bytes.
        Ok(unsafe { core::slice::from_raw_parts_mut(cut.as_mut_ptr().cast(), count) })
    }

    /// Cuts off memory for one value, which `make` makes with memory of the same arena. The value is
    /// never dropped.
    // Not inlined: else the stack frame of a caller would have room for each value that it allocates.
    #[inline(never)]
    pub(crate) fn alloc_with<T>(
        &mut self,
        make: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<&'m mut T, Error> {
        let room = self.alloc_uninit::<T>(1)?.first_mut();
        let room = room.ok_or(Error::Full(Resource::Memory))?;
        Ok(room.write(make(self)?))
    }

    /// Cuts off a table of `count` elements and initialises each.
    pub(crate) fn alloc_table<T>(
        &mut self,
        count: usize,
        mut make: impl FnMut(usize) -> Result<T, Error>,
    ) -> Result<Table<'m, T>, Error> {
        let room = self.alloc_uninit::<T>(count)?;
        for (index, slot) in room.iter_mut().enumerate() {
            slot.write(make(index)?);
        }
        let room: *mut [MaybeUninit<T>] = room;
        // SAFETY: every element was written by the loop above, and `MaybeUninit<T>` has the layout of `T`.
        Ok(Table(unsafe { &mut *(room as *mut [T]) }))
    }
}

/// A table from an arena. It owns its elements, but not the memory.
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
        // SAFETY: the table owns its elements and is the only access to them; the bytes below stay
        // borrowed for 'm, but are never read as `T` again.
        unsafe { core::ptr::drop_in_place(self.0) }
    }
}
