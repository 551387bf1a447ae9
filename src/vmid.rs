//! The numbers of a family: which process ([`Vmid`]), which PID or TID ([`Id`]).

use core::fmt;
use core::num::NonZeroU32;

/// A PID or TID of the family: never 0 and at most [`ID_MAX`] where it names something.
pub type Id = u32;

/// The highest ID there is.
pub const ID_MAX: Id = 4_194_303;

/// A process's number in the family. Never 0, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vmid(NonZeroU32);

impl Vmid {
    /// The first process of a family, its leader.
    pub const LEADER: Vmid = Vmid(NonZeroU32::MIN);

    /// The VMID with that number; `None` for 0, which names nobody.
    pub const fn new(number: u32) -> Option<Vmid> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Vmid(number)),
            None => None,
        }
    }

    /// The number, as it stands on the wire.
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
