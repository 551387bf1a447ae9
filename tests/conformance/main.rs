//! Checks all platforms of the crate, and that the checks find planted defects.
//!
//! ```sh
//! cargo run --release --example conformance
//! cargo run --release --example conformance -- secure mux     # these platforms, no defects
//! ```

mod defects;
mod mux;
mod platforms;
#[path = "../../examples/tiny_pal.rs"]
#[allow(dead_code, reason = "only its platform is used")]
mod tiny_pal;

use std::process::ExitCode;

use libos_ipc::testing::conformance::{Check, Defect};

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let platforms = match platforms::named(&names) {
        Ok(platforms) => platforms,
        Err(error) => {
            eprintln!("conformance: {error}");
            return ExitCode::from(2);
        }
    };
    let mut is_ok = true;
    println!("platforms:");
    for platform in platforms {
        match platform.check(Check::default()) {
            Ok(report) => {
                is_ok &= report.is_ok();
                println!("  {}: {report}", platform.name);
            }
            Err(reason) => println!("  {}: skipped, {reason}", platform.name),
        }
    }
    if names.is_empty() {
        is_ok &= check_defects();
    }
    if is_ok {
        println!("conformance: ok");
        ExitCode::SUCCESS
    } else {
        println!("conformance: FAILED");
        ExitCode::FAILURE
    }
}

/// Prints what the kit says of each planted defect. Returns false if it does not name the rule that is
/// broken.
fn check_defects() -> bool {
    let mut is_ok = true;
    println!(
        "{} planted defects, over the host sockets:",
        Defect::ALL.len()
    );
    for (defect, finding) in defects::findings() {
        let is_found = finding == Some(defect.rule());
        is_ok &= is_found;
        let seen = match finding {
            Some(rule) if is_found => format!("found: {rule}"),
            Some(rule) => format!("WRONG RULE: {rule} instead of {}", defect.rule()),
            None => String::from("NOT FOUND"),
        };
        println!("  {defect}: {seen}");
    }
    is_ok
}
