//! The numbers of a family: process numbers ([`Vmid`]), and PIDs and TIDs ([`Id`], [`Pid`]).

use core::fmt;
use core::num::NonZeroU32;

use crate::number::Number;

/// A PID or TID of the family: a valid one is not 0 and at most [`ID_MAX`].
pub type Id = u32;

/// The highest ID.
pub const ID_MAX: Id = 4_194_303;

/// The pid of a process, or the ID of a process group or session, which is the pid of its first process. It is never 0:
/// where there may be no pid the type is an `Option<Pid>`, and `None` stands for what 0 is in the system call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(NonZeroU32);

impl Pid {
    /// Returns the pid with that number; `None` for 0.
    pub const fn new(number: Id) -> Option<Pid> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Pid(number)),
            None => None,
        }
    }

    /// Returns the number.
    pub const fn get(self) -> Id {
        self.0.get()
    }

    /// Returns the number that stands for the pid in a message and in C: 0 for none.
    pub(crate) const fn number(pid: Option<Pid>) -> Id {
        match pid {
            Some(pid) => pid.get(),
            None => 0,
        }
    }
}

impl From<Pid> for Id {
    fn from(pid: Pid) -> Id {
        pid.get()
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}", self.0)
    }
}

/// The number of a process in the family. It is never 0 and never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vmid(NonZeroU32);

impl Vmid {
    /// The first process of a family, its leader.
    pub const LEADER: Vmid = Vmid(NonZeroU32::MIN);

    /// The highest number: the leader gives it to no process.
    pub(crate) const HIGHEST: Vmid = Vmid(NonZeroU32::MAX);

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

    /// Returns the number that stands for the process in a message and in C: 0 for none.
    pub(crate) const fn number(vmid: Option<Vmid>) -> u32 {
        match vmid {
            Some(vmid) => vmid.get(),
            None => 0,
        }
    }
}

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if cfg!(static_library) {
            return Number(self.get().into()).fmt(f);
        }
        self.0.fmt(f)
    }
}

impl fmt::Debug for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vmid {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn a_pid_is_not_0_and_prints_its_number() {
        assert_eq!(Pid::new(0), None);
        let pid = Pid::new(77).unwrap();
        assert_eq!((pid.get(), Id::from(pid)), (77, 77));
        assert_eq!(pid.to_string(), "77");
        assert_eq!(size_of::<Option<Pid>>(), size_of::<Id>());
    }
}
