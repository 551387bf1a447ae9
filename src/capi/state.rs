//! What the library stands on: two statics that are written once, the tables of the library OS and the
//! node.

use core::time::Duration;

use super::CNode;
use super::tables::{libos_ipc_callbacks, libos_ipc_platform};
use crate::Config;
use crate::store::Once;

/// What the library stands on.
pub(super) struct Setup {
    pub(super) platform: libos_ipc_platform,
    pub(super) callbacks: libos_ipc_callbacks,
    pub(super) call_limit: Option<Duration>,
    pub(super) config: Config,
}

// SAFETY: the pointers are only given back to functions that, the header says, any thread may call;
// `memory` is used once, by whoever makes the node.
unsafe impl Send for Setup {}
// SAFETY: as above.
unsafe impl Sync for Setup {}

pub(super) static SETUP: Once<Setup> = Once::new();
pub(super) static NODE: Once<CNode> = Once::new();

pub(super) fn platform() -> Option<&'static libos_ipc_platform> {
    SETUP.get().map(|setup| &setup.platform)
}
