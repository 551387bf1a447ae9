//! What every process of a family keeps for itself: the IDs it has and uses, its
//! children.
//!
//! A pure state machine, like [`leader`](crate::leader).

mod children;
mod delegated_files;
mod ids;

pub use children::{AbandonedChild, Children, ExitOutcome};
pub use delegated_files::{Decision, DelegatedFiles};
pub use ids::{Allocation, OwnIds, Purpose};
