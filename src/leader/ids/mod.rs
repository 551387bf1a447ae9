//! The owners of IDs, and the VMIDs.

mod grants;
mod pending_grants;
mod quotas;
mod ranges;
mod reclaim;
mod vmids;

pub(super) use pending_grants::PendingGrants;
pub use ranges::{Alloc, Ranges};
pub(super) use vmids::Vmids;
