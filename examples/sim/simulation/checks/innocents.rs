//! **innocents**: a connection of two honest members is closed by a fault, at the end of one, or
//! never. Whatever a hostile member sends costs nobody else anything.

use super::super::faults::{Fault, Faults};

pub(crate) struct Innocents {
    pub(crate) may_close: bool,
}

impl Innocents {
    pub(crate) fn new(faults: Faults) -> Innocents {
        Innocents {
            // Whoever is not heard for too long, or for whom there is no room, is given up.
            may_close: faults.hold_up() || faults.has(Fault::Capacity),
        }
    }

    pub(crate) fn closed(&self, one: u32, other: u32) -> Result<(), String> {
        if self.may_close {
            return Ok(());
        }
        Err(format!("v{one} has closed its connection with v{other}"))
    }
}
