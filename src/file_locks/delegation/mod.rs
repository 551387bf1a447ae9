//! Files whose record locks the leader has delegated to a member.

mod contention;
mod ending;
mod holder;
mod invariants;
mod overdue;
mod recall;
mod table;

pub use table::AwaitedBy;
pub(super) use table::{Delegation, DelegationTable};
