//! What every process of a family keeps for itself: the IDs it has and uses, its
//! children.
//!
//! A pure state machine, like [`leader`](crate::leader).

mod children;
mod delegated_files;
mod ids;

pub use children::{Children, News, Unborn};
pub use delegated_files::{Borrowed, Decision};
pub use ids::{OwnIds, Purpose, Take};
