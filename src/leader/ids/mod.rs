//! Which process owns which IDs.

mod pending_grants;
mod ranges;

pub(super) use pending_grants::Promised;
pub use ranges::{Alloc, Ranges, Reclaim};
