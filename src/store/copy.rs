//! Functions that copy, move and sort the elements of slices without code for a panic, which those of `core` have: the static
//! library must have none.
#![allow(unsafe_code)]

use core::ptr;

/// Copies as many bytes as both slices have.
#[inline]
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    let count = to.len().min(from.len());
    // SAFETY: both have that many bytes, and a mutable slice overlaps no other.
    unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), count) }
}

/// Moves the bytes of `start..end` to the front. It does nothing if the range is not in the slice.
pub(crate) fn move_to_front(bytes: &mut [u8], start: usize, end: usize) {
    let Some(part) = bytes.get(start..end) else {
        return;
    };
    let count = part.len();
    let to = bytes.as_mut_ptr();
    // SAFETY: `start + count` is `end`, which is within the slice, and so is `count`.
    unsafe { ptr::copy(to.wrapping_add(start), to, count) }
}

/// Copies each element to the next place. The last element is lost; the first one is there twice, and the caller
/// overwrites its old place.
pub(crate) fn make_gap<T: Copy>(things: &mut [T]) {
    if let Some(most) = things.len().checked_sub(1) {
        let first = things.as_mut_ptr();
        // SAFETY: there are `most` elements from the first on, and as many from the second on.
        unsafe { ptr::copy(first, first.wrapping_add(1), most) }
    }
}

/// Copies each element to the place before. The first element is lost; the last one is there twice.
pub(crate) fn close_gap<T: Copy>(things: &mut [T]) {
    if let Some(most) = things.len().checked_sub(1) {
        let first = things.as_mut_ptr();
        // SAFETY: there are `most` elements from the second on, and as many from the first on.
        unsafe { ptr::copy(first.wrapping_add(1), first, most) }
    }
}

/// Sorts a few elements by insertion. Equal elements keep their order.
pub(crate) fn sort<T: Copy, K: Ord>(things: &mut [T], key: impl Fn(&T) -> K) {
    for count in 1..=things.len() {
        let Some((last, before)) = things.get_mut(..count).and_then(<[T]>::split_last_mut) else {
            return;
        };
        let thing = *last;
        let place = before.partition_point(|other| key(other) <= key(&thing));
        if let Some(behind) = things.get_mut(place..count) {
            make_gap(behind);
            if let Some(first) = behind.first_mut() {
                *first = thing;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_as_many_bytes_as_both_slices_have() {
        for (to, from) in [(0, 3), (3, 0), (3, 3), (2, 5), (5, 2)] {
            let mut copied = [0; 5];
            copy(&mut copied[..to], &[1, 2, 3, 4, 5][..from]);
            let count = to.min(from);
            assert_eq!(copied[..count], [1, 2, 3, 4, 5][..count]);
            assert_eq!(copied[count..], [0; 5][count..]);
        }
    }

    #[test]
    fn moves_the_remaining_bytes_to_the_front() {
        for (start, end) in [(0, 0), (0, 4), (1, 4), (2, 3), (4, 4), (3, 2), (2, 5)] {
            let (mut moved, mut expected) = ([1, 2, 3, 4], [1, 2, 3, 4]);
            move_to_front(&mut moved, start, end);
            if start <= end && end <= 4 {
                expected.copy_within(start..end, 0);
            }
            assert_eq!(moved, expected, "{start}..{end}");
        }
    }

    #[test]
    fn sorts_as_the_standard_library_does() {
        let mut rng = fastrand::Rng::new();
        for length in 0..100 {
            let mut things: std::vec::Vec<(u8, usize)> =
                (0..length).map(|at| (rng.u8(..20), at)).collect();
            let mut expected = things.clone();
            expected.sort_by_key(|(key, _)| *key);
            sort(&mut things, |(key, _)| *key);
            assert_eq!(things, expected);
        }
    }

    #[test]
    fn a_gap_is_opened_and_closed_at_an_index() {
        let mut things = [1, 2, 3, 4];
        make_gap(&mut things);
        assert_eq!(things, [1, 1, 2, 3]);
        close_gap(&mut things);
        assert_eq!(things, [1, 2, 3, 3]);
        for few in [&mut [][..], &mut [7]] {
            make_gap(few);
            close_gap(few);
            assert!(few.first().is_none_or(|only| *only == 7));
        }
    }
}
