//! Files whose record locks the leader has delegated to a member.

mod contention;
mod holder;
mod overdue;
mod recall;
mod table;

pub(super) use table::{Delegation, DelegationTable};
