//! The numbers of a family: process numbers ([`Vmid`]), and PIDs and TIDs ([`Id`]).

use core::fmt;
use core::num::NonZeroU32;

/// A PID or TID of the family: a valid one is not 0 and at most [`ID_MAX`].
pub type Id = u32;

/// The highest ID.
pub const ID_MAX: Id = 4_194_303;

/// The number of a process in the family. It is never 0 and never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vmid(NonZeroU32);

impl Vmid {
    /// The first process of a family, its leader.
    pub const LEADER: Vmid = Vmid(NonZeroU32::MIN);

    /// Returns the VMID with that number; `None` for 0, which is no VMID.
    pub const fn new(number: u32) -> Option<Vmid> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Vmid(number)),
            None => None,
        }
    }

    /// Returns the number, as on the wire.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vmid {}", self.0)
    }
}
