//! The state of the leader and of its heir after each operation.

use libos_ipc::leader::{Leader, Op, OpObserver, Outcome};

use crate::simulation::world::with;

/// Reports each operation on the tables of a process to the checks.
#[derive(Clone, Copy)]
pub(crate) struct TableObserver {
    pub(crate) vmid: u32,
    pub(crate) place: usize,
}

impl OpObserver for TableObserver {
    fn applied(&self, leader: &Leader<'_>, op: &Op<'_>, _: &Outcome) {
        with(|world| world.record_op(self.vmid, self.place, leader, op));
    }
}
