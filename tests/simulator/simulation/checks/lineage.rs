//! The state of the leader and of its heir after each operation.

use libos_ipc::leader::{Leader, Op, OpObserver, Outcome};

use crate::simulation::world::with;

/// An observer of the tables of a process.
#[derive(Clone, Copy)]
pub(crate) struct Lineage {
    pub(crate) vmid: u32,
    pub(crate) place: usize,
}

impl OpObserver for Lineage {
    fn applied(&self, leader: &Leader<'_>, op: &Op<'_>, _: &Outcome) {
        with(|world| world.has_applied(self.vmid, self.place, leader, op));
    }
}
