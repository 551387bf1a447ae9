//! One block of memory for a node, from which the node's tables are allocated.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::convert::Infallible;
use core::mem::{self, MaybeUninit};
use core::sync::atomic::{AtomicBool, Ordering};

use super::Buffer;
use crate::error::{Error, Resource};

/// Memory for one node as a `static`. It is all zero, so it takes no room in the program's file. It is not a
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

/// Returns the greatest number of bytes that a table of `count` elements of type `T` takes,
/// alignment included.
#[cfg(not(static_library))]
pub(crate) const fn bytes_for<T>(count: usize) -> usize {
    count
        .saturating_mul(size_of::<T>())
        .saturating_add(align_of::<T>())
}

// With the limits of entries and lengths that `Config::check` demands, no sum of memory comes near to 64 bits, and the arena
// checks each allocation besides. So the static library saves the code for sums that are too large.
#[cfg(static_library)]
pub(crate) const fn bytes_for<T>(count: usize) -> usize {
    count
        .wrapping_mul(size_of::<T>())
        .wrapping_add(align_of::<T>())
}

/// The sum of some lengths. A sum that is too large is more than any memory or frame has room for.
macro_rules! total {
    ($first:expr $(, $length:expr)* $(,)?) => {
        $first$(.saturating_add($length))*
    };
}

/// The sum of the memory of several parts in bytes.
macro_rules! memory_sum {
    ($first:expr $(, $part:expr)* $(,)?) => {{
        #[cfg(not(static_library))]
        let sum = $crate::store::total!($first $(, $part)*);
        #[cfg(static_library)]
        let sum = $first$(.wrapping_add($part))*;
        sum
    }};
}

pub(crate) use {memory_sum, total};

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
    /// An allocation has found too little memory.
    is_exhausted: bool,
}

/// An allocation itself returns no error: if too little memory is left, it returns a table without
/// elements, and `Arena::check` returns the error once, after all allocations. So a machine is made in
/// its final place, without copies for errors.
impl<'m> Arena<'m> {
    /// Makes an arena of this memory. The memory is best untouched: on a host, pages that are never
    /// used are never allocated.
    pub fn new(memory: &'m mut [MaybeUninit<u8>]) -> Self {
        Arena {
            rest: memory,
            is_exhausted: false,
        }
    }

    /// Returns the number of bytes that are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Returns [`Error::Full`] if an allocation has found too little memory. The tables that were allocated from the arena must not be
    /// used then.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.is_exhausted {
            return Err(Error::Full(Resource::Memory));
        }
        Ok(())
    }

    /// Makes a machine, and checks that the memory was sufficient.
    pub(crate) fn checked<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Result<T, Error> {
        let machine = make(self);
        self.check().map(|()| machine)
    }

    /// Cuts off memory for `count` elements of that size and alignment, without changing it. Returns its first
    /// byte and `count`; 0 elements if too little memory is left.
    // Not generic, and not inlined: it is called for each table.
    #[inline(never)]
    fn cut(&mut self, count: usize, (size, align): (usize, usize)) -> (*mut u8, usize) {
        let rest = mem::take(&mut self.rest);
        let padding = rest.as_ptr().addr().wrapping_neg() & align.wrapping_sub(1);
        let cut = count.checked_mul(size).and_then(|length| {
            let (_, aligned) = rest.split_at_mut_checked(padding)?;
            aligned.split_at_mut_checked(length)
        });
        let Some((cut, rest)) = cut else {
            self.is_exhausted = true;
            return (core::ptr::without_provenance_mut(align), 0);
        };
        self.rest = rest;
        (cut.as_mut_ptr().cast(), count)
    }

    /// Cuts off a buffer of `count` bytes.
    // Always: a buffer in registers takes less code than one that is returned in memory.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    pub(crate) fn alloc_buffer(&mut self, count: usize) -> Buffer<'m> {
        Buffer::uninit(self.alloc_uninit(count))
    }

    /// Cuts off `count` bytes at the end, as an arena of their own.
    pub(crate) fn split_off(&mut self, count: usize) -> Arena<'m> {
        let rest = mem::take(&mut self.rest);
        let at = rest.len().checked_sub(count);
        let Some((rest, end)) = at.and_then(|at| rest.split_at_mut_checked(at)) else {
            self.is_exhausted = true;
            return Arena::new(&mut []);
        };
        self.rest = rest;
        Arena::new(end)
    }

    /// Cuts off memory for `count` elements of type `T`, which are not initialised.
    pub(crate) fn alloc_uninit<T>(&mut self, count: usize) -> &'m mut [MaybeUninit<T>] {
        let (first, count) = self.cut(count, (size_of::<T>(), align_of::<T>()));
        // SAFETY: the memory is exclusively this call's for 'm, aligned for T, and `count` times T's size long.
        // Uninitialised T may hold any bytes.
        unsafe { core::slice::from_raw_parts_mut(first.cast(), count) }
    }

    /// Cuts off a table of `count` elements that are all `value`.
    pub(crate) fn alloc_filled<T: Copy>(&mut self, count: usize, value: &T) -> Table<'m, T> {
        let layout = (size_of::<T>(), align_of::<T>());
        // SAFETY: `value` has this size.
        let (first, count) = unsafe { self.cut_filled(count, layout, (&raw const *value).cast()) };
        // SAFETY: the memory is exclusively this call's for 'm, aligned for T, and has `count` copies of `value`.
        Table(unsafe { core::slice::from_raw_parts_mut(first.cast(), count) })
    }

    /// Cuts off a table of `count` elements that are all what `make` returns, which is made in its place.
    pub(crate) fn alloc_made<T: Copy>(
        &mut self,
        count: usize,
        make: impl FnOnce() -> T,
    ) -> Table<'m, T> {
        let room = self.alloc_uninit::<T>(count);
        if let Some(first) = room.first_mut() {
            write(first, make);
        }
        let length = size_of_val(room);
        // SAFETY: these are the bytes of `room`, and the first element was written, if there is one.
        unsafe { repeat(room.as_mut_ptr().cast(), size_of::<T>(), length) };
        let room: *mut [MaybeUninit<T>] = room;
        // SAFETY: every element is a copy of the first one, and `MaybeUninit<T>` has the layout of `T`.
        Table(unsafe { &mut *(room as *mut [T]) })
    }

    /// Cuts off memory as [`Arena::cut`] does, and fills it with copies of the value.
    ///
    /// # Safety
    /// The value must have this size.
    // Not generic, and not inlined: it is called for each table.
    #[inline(never)]
    unsafe fn cut_filled(
        &mut self,
        count: usize,
        layout: (usize, usize),
        value: *const MaybeUninit<u8>,
    ) -> (*mut u8, usize) {
        let (first, count) = self.cut(count, layout);
        let (size, _) = layout;
        if count > 0 {
            // SAFETY: there is room for `count` values, and each copy is within it: the first one comes from the value, and
            // the others double what is there.
            unsafe {
                core::ptr::copy_nonoverlapping(value, first.cast(), size);
                repeat(first, size, size.wrapping_mul(count));
            }
        }
        (first, count)
    }

    /// Cuts off memory for one value, which `make` makes with memory of the same arena. The value is
    /// never dropped.
    ///
    /// # Errors
    /// [`Error::Full`] if too little memory is left.
    pub(crate) fn alloc_with<T>(
        &mut self,
        make: impl FnOnce(&mut Self) -> T,
    ) -> Result<&'m mut T, Error> {
        let [room] = self.alloc_uninit::<T>(1) else {
            return Err(Error::Full(Resource::Memory));
        };
        Ok(write(room, || make(self)))
    }

    /// Cuts off a table of `count` elements and initialises each.
    pub(crate) fn alloc_table<T>(
        &mut self,
        count: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Table<'m, T> {
        let Ok(table) = self.try_alloc_table(count, |index| Ok::<T, Infallible>(make(index)));
        table
    }

    /// Like [`Arena::alloc_table`], with a `make` that may fail.
    ///
    /// # Errors
    /// The first error of `make`.
    #[inline]
    pub(crate) fn try_alloc_table<T, E>(
        &mut self,
        count: usize,
        mut make: impl FnMut(usize) -> Result<T, E>,
    ) -> Result<Table<'m, T>, E> {
        let room = self.alloc_uninit::<T>(count);
        for (index, slot) in room.iter_mut().enumerate() {
            slot.write(make(index)?);
        }
        let room: *mut [MaybeUninit<T>] = room;
        // SAFETY: every element was written by the loop above, and `MaybeUninit<T>` has the layout of `T`.
        Ok(Table(unsafe { &mut *(room as *mut [T]) }))
    }
}

/// Fills `length` bytes with copies of the first `filled` ones.
///
/// # Safety
/// The `length` bytes from `first` on must be the caller's. They need not be initialised: an uninitialised one is copied as such.
unsafe fn repeat(first: *mut u8, mut filled: usize, length: usize) {
    while filled < length {
        let count = filled.min(length.wrapping_sub(filled));
        // SAFETY: both parts are within the bytes, and the second one begins at the end of the first one or behind it.
        unsafe {
            core::ptr::copy_nonoverlapping(
                first.cast::<MaybeUninit<u8>>(),
                first.add(filled).cast(),
                count,
            );
        };
        filled = filled.wrapping_add(count);
    }
}

/// Makes a value in the memory where it stays.
// Not inlined: the compiler makes a value directly in the place that is an argument, and the stack frame of the caller has no
// room for it.
#[inline(never)]
fn write<T>(room: &mut MaybeUninit<T>, make: impl FnOnce() -> T) -> &mut T {
    room.write(make())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_for_which_too_little_memory_is_left_is_empty_and_the_arena_says_so() {
        let mut memory = [MaybeUninit::uninit(); 64];
        let mut arena = Arena::new(&mut memory);
        assert_eq!(arena.alloc_filled(3, &7_u32).to_vec(), [7, 7, 7]);
        assert_eq!(arena.check(), Ok(()));
        assert!(arena.alloc_filled(64, &7_u32).is_empty());
        assert!(arena.alloc_table(usize::MAX, |index| index).is_empty());
        assert!(arena.split_off(64).alloc_filled(1, &0_u8).is_empty());
        assert_eq!(arena.check(), Err(Error::Full(Resource::Memory)));
        assert_eq!(
            arena.checked(|_| ()),
            Err(Error::Full(Resource::Memory)),
            "later allocations do not hide the first failure"
        );
    }
}
