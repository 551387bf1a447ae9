//! Sync handles: state that several processes share coherently.
#![allow(missing_docs)]

mod c_peers;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../common/c_server.rs"]
mod c_server;
mod checked;
mod client;
#[path = "../common/host_family.rs"]
mod host_family;
mod no_room;
mod owner_death;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../serve/peer.rs"]
mod peer;
mod primitives;
mod protocol_violations;
mod revocation;
mod server;
mod shared;
mod threads;
mod values;
#[path = "../common/walk.rs"]
mod walk;
