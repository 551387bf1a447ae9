//! The state of the library: the tables of the library OS and the node, in two statics that are written once.

use core::time::Duration;

use super::CNode;
use super::tables::{libos_ipc_callbacks, libos_ipc_limits, libos_ipc_platform};
use crate::store::Once;

/// The tables and limits that `libos_ipc_setup` copied.
pub(super) struct Setup {
    pub(super) platform: libos_ipc_platform,
    pub(super) callbacks: libos_ipc_callbacks,
    pub(super) call_limit: Option<Duration>,
    pub(super) limits: libos_ipc_limits,
}

// SAFETY: the pointers are only passed to functions that, as the header states, any thread may call; `memory` is used
// once, by the thread that makes the node.
unsafe impl Send for Setup {}
// SAFETY: as above.
unsafe impl Sync for Setup {}

pub(super) static SETUP: Once<Setup> = Once::new();
pub(super) static NODE: Once<CNode> = Once::new();

/// Returns the platform, from `libos_ipc_setup` on.
pub(super) fn platform() -> Option<&'static libos_ipc_platform> {
    SETUP.get().map(|setup| &setup.platform)
}
