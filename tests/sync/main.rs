//! Sync handles: state that several processes share coherently.
#![allow(missing_docs)]

#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../common/c_server.rs"]
mod c_server;
mod checked;
mod client;
mod conversation;
mod full;
mod orphans;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../serve/peer.rs"]
mod peer;
mod server;
mod shared;
mod threads;
mod unfitting;
#[path = "../common/walk.rs"]
mod walk;
mod wanted_back;
