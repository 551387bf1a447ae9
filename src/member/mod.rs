//! What every process of a family keeps for itself: the IDs it has and uses, its
//! children.
//!
//! A pure state machine, like [`leader`](crate::leader).

mod borrowed;
mod children;
mod ids;

pub use borrowed::{Borrowed, Decision};
pub use children::{Children, News};
pub use ids::{OwnIds, Purpose, Take};
