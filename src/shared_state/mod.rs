//! Values that several processes share coherently.
//!
//! A sync handle is a number that names a value: some bytes. Each process that uses the handle has
//! a [`Client`] for it; the leader's [`Server`] records which clients hold a *lease*. Any number of
//! clients may hold a lease to read (`SHARED`), or one client a lease to change the value
//! (`EXCLUSIVE`); the value travels with the lease. A client keeps its lease until the server
//! revokes it, so repeated use costs no message.
//!
//! Both are deterministic state machines without I/O. An outgoing message stays in the machine
//! until the caller marks it as sent.

mod client;
mod server;

pub use client::{Acquisition, Client, ClientMessage};
pub use server::{RequestError, Server, ServerMessage};

use crate::wire::SyncState;

/// A message that a correct peer does not send in the current state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolViolation;

/// Returns the strength of a lease: 0 allows nothing, 1 reading, 2 changing.
const fn strength(state: SyncState) -> u8 {
    match state {
        SyncState::None | SyncState::Invalid => 0,
        SyncState::Shared => 1,
        SyncState::Exclusive => 2,
    }
}

/// The limits of the leader for shared values.
///
/// A new version may add fields, so a value is built from another: `LeaseLimits { handles: 16,
/// ..Capacities::DEFAULT.leases }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseLimits {
    /// The largest number of handles in use in the whole family.
    pub handles: usize,
    /// The largest number of clients. Each process has one client for each handle it uses.
    pub clients: usize,
}
