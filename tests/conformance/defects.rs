//! The planted defects, and what is found of each.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use libos_ipc::testing::conformance::{Check, Defect, Rule};

use crate::platforms::check_defect;

/// Most of a check's time goes to waits for what a defect prevents, so many run at the same time.
const AT_ONCE: usize = 8;
/// How often a defect is looked for, each time with more patience: on a busy machine another rule may seem to be broken.
const TRIES: u32 = 5;

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
                    let mut first = None;
                    for patience in (1..=TRIES).map(|tries| check.patience * tries) {
                        first = check_defect(Check { patience, ..check }, defect).first();
                        if first == Some(defect.rule()) {
                            break;
                        }
                    }
                    found.lock().expect("a list").push((defect, first));
                }
            });
        }
    });
    let mut found = found.into_inner().expect("a list");
    found.sort_by_key(|(defect, _)| Defect::ALL.iter().position(|other| other == defect));
    found
}
