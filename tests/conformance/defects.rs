//! The planted defects, and what is found of each.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use libos_ipc::testing::conformance::{Check, Defect, Rule};

use crate::platforms::check_defect;

/// Most of a check's time goes to waits for what a defect prevents, so many run at the same time.
const AT_ONCE: usize = 8;

/// Checks a platform with each defect, and returns the first rule that is reported for each.
pub(crate) fn findings() -> Vec<(Defect, Option<Rule>)> {
    let check = Check {
        patience: Duration::from_secs(2),
        ends_at_first: true,
        has_family: false,
        ..Check::default()
    };
    let left = Mutex::new(Defect::ALL.iter().rev().copied().collect::<Vec<_>>());
    let found = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(defect) = left.lock().expect("a list").pop() else {
                        break;
                    };
                    let report = check_defect(check, defect);
                    let result = (defect, report.first());
                    found.lock().expect("a list").push(result);
                }
            });
        }
    });
    let mut found = found.into_inner().expect("a list");
    found.sort_by_key(|(defect, _)| Defect::ALL.iter().position(|other| other == defect));
    found
}
