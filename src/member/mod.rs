//! What every process of a family keeps for itself: the IDs it has and uses.
//!
//! A pure state machine, like [`leader`](crate::leader).

mod ids;

pub use ids::{OwnIds, Take};
