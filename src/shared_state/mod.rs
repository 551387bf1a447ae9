//! Sync handles: state that several processes share coherently.
//!
//! A handle is a number that names some bytes. A process that uses it has a [`Client`]; the leader's
//! [`Server`] says which clients have a *lease*: any number to read (`SHARED`), or one to change
//! the data (`EXCLUSIVE`), which travels with the lease. A client keeps what it has until the
//! server asks for it back, so using it again costs no message.
//!
//! Both are pure state machines: what they have to say stays with them until it is taken.

mod client;
mod server;

pub use client::{Acquisition, Client, ClientMessage};
pub use server::{RequestError, Server, ServerMessage};

use crate::wire::SyncState;

/// A message that an honest peer does not send as things stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolViolation;

/// How much a state allows: nothing, reading, or changing.
const fn strength(state: SyncState) -> u8 {
    match state {
        SyncState::None | SyncState::Invalid => 0,
        SyncState::Shared => 1,
        SyncState::Exclusive => 2,
    }
}

/// The limits of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseLimits {
    /// Handles that any process uses.
    pub handles: usize,
    /// Clients: one for each process and handle it uses.
    pub clients: usize,
}
