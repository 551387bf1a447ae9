//! The methods with which tests look into the succession.

use crate::Vmid;
use crate::leader::OpObserver;
use crate::node::Node;
use crate::pal::Pal;

/// # Tests
///
/// With the feature `testing` only.
impl<'m, P: Pal> Node<'m, P> {
    /// Returns the heir that this leader has named to the members.
    pub fn named_heir(&self) -> Option<Vmid> {
        self.log().filter(|_| self.leads())?.hot_heir()
    }

    /// Has the observer called with each operation on the tables of this process, which leads or may lead.
    pub(crate) fn observe_tables(&self, observer: &'m (dyn OpObserver + 'm)) {
        if let Some(tables) = self.leadership.tables {
            tables.lock().observe(observer);
        }
    }

    /// Returns the number of operations of the leader's tables that this process has, as the leader or its heir, and
    /// the digest of their state.
    pub fn tables_state(&self) -> Option<(u64, u64)> {
        let tables = self.leadership.tables?.lock();
        Some((tables.ops(), tables.digest()))
    }
}
