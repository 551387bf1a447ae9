//! Fencing numbers: numbers that only grow, by which what a lock protects can refuse a holder that has lost its
//! lock and does not know it.
//!
//! The leader makes each number from the number of the operation that asks for it, so it needs no memory for
//! them, and a replica makes the same ones. A member that decides by itself, with a delegation or a lease, gets
//! a block of numbers and takes them one by one.

/// The numbers that one operation of the leader gives out.
pub(crate) const BLOCK: u64 = 1 << 20;

/// Returns the first of the numbers that belong to an operation of the leader; `None` when no numbers are left.
pub(crate) fn first_of(op: u64) -> Option<u64> {
    op.checked_mul(BLOCK)
}

/// The numbers that a member may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    next: u64,
    left: u64,
}

impl Numbers {
    /// No number.
    pub(crate) const NONE: Numbers = Numbers { next: 0, left: 0 };

    /// A block of the leader.
    pub(crate) const fn block(first: u64) -> Numbers {
        Numbers {
            next: first,
            left: BLOCK,
        }
    }

    /// Takes the next number.
    pub(crate) fn take(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let number = self.next;
        self.next = number.wrapping_add(1);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_block_are_below_those_of_the_next_operation() {
        let first = first_of(7).unwrap();
        let mut numbers = Numbers::block(first);
        let mut last = first_of(6).unwrap() + BLOCK - 1;
        let mut count = 0;
        while let Some(number) = numbers.take() {
            assert!(number > last);
            last = number;
            count += 1;
        }
        assert_eq!(count, BLOCK);
        assert!(last < first_of(8).unwrap());
        assert_eq!(first_of(u64::MAX), None);
        let mut none = Numbers::NONE;
        assert_eq!(none.take(), None);
    }
}
