//! The time without an answer when the leader of a family is killed, and the cost of an heir while nothing fails.
//!
//! `cargo bench --bench succession`. The figures of one row are measured alternately in one run. Arguments choose some
//! of it: `cargo bench --bench succession -- 64 cost` measures the outage with 64 members, and the cost.

#[path = "../common/mod.rs"]
mod common;
mod cost;
mod family;
mod outage;

use std::io::Result;
use std::process::ExitCode;

use libos_ipc::host::raise_descriptor_limit;

use common::REPETITIONS;
use common::process::{pin, unpin};

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().collect();
    raise_descriptor_limit()?;
    if let Some(at) = arguments.iter().position(|argument| argument == "--role") {
        family::play(&arguments[at + 1..])?;
        return Ok(ExitCode::SUCCESS);
    }
    let chosen: Vec<&String> = arguments[1..]
        .iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| *chosen == name);
    let cores = unpin()?;
    println!("{cores} cores");
    println!("\nthe leader is killed, unpinned");
    for size in outage::SIZES {
        if is_chosen(&size.members.to_string()) {
            outage::measure(size)?;
        }
    }
    if !is_chosen("cost") {
        return Ok(common::bar::finish());
    }
    println!("\nwhile nothing fails, pinned to one core, medians of {REPETITIONS}");
    pin()?;
    cost::measure(true)?;
    unpin()?;
    println!("\nwhile nothing fails, unpinned");
    cost::measure(false)?;
    Ok(common::bar::finish())
}
