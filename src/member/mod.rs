//! The state that every process of a family keeps for itself: its IDs, its children and its
//! delegated files.
//!
//! It consists of deterministic state machines, like [`leader`](crate::leader).

mod children;
mod delegated_files;
mod ids;
mod kept_frames;

pub use children::{AbandonedChild, ChildExit, Children, ExitOutcome};
pub use delegated_files::{Decision, DelegatedFiles, Fencing};
pub use ids::{Allocation, OwnIds, Purpose};
pub use kept_frames::KeptFrames;
