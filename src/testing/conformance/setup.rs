//! The parts that all checks of a platform have in common.

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use spin::Mutex;

use super::rules::Rule;
use super::violation::Violation;
use crate::Vmid;
use crate::pal::Pal;

/// The call of the platform under way: the watchdog reports it if it does not return.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "std"),
    allow(dead_code, reason = "there is no watchdog")
)]
pub(super) struct CheckStep {
    pub(super) rule: Rule,
    pub(super) call: &'static str,
}

impl CheckStep {
    pub(super) const NONE: CheckStep = CheckStep {
        rule: Rule::Connect,
        call: "a function that makes a platform",
    };
}

/// The source of a check's platforms, and the settings of the checks.
#[cfg_attr(not(feature = "std"), allow(dead_code, reason = "there is no family"))]
pub(super) struct CheckSetup<'a, P: Pal> {
    pub(super) make: &'a (dyn Fn(Vmid) -> P + Sync),
    pub(super) step: &'a Mutex<CheckStep>,
    /// The violation of a wait whose report no wait may make.
    pub(super) bad_report: &'a Mutex<Option<Violation>>,
    pub(super) next: &'a AtomicU32,
    pub(super) patience: Duration,
    /// Whether several threads use a platform.
    pub(super) has_threads: bool,
    /// Whether a node's process ends for its peers when its platform is dropped.
    pub(super) drop_ends: bool,
    /// Whether both nodes of a pair have the same platform.
    pub(super) is_only_one: bool,
}

impl<P: Pal> CheckSetup<'_, P> {
    /// Returns a VMID that no other check has.
    pub(super) fn vmid(&self) -> Vmid {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Vmid::new(number).map_or(Vmid::LEADER, |vmid| vmid)
    }
}
