//! How long a family has no answer when its leader is killed, and what an heir costs while nothing fails.
//!
//! `cargo bench --bench succession`. The figures of one row are measured alternately in one run.

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
    let cores = unpin()?;
    println!("{cores} cores");
    println!("\nthe leader is killed, unpinned");
    for size in outage::SIZES {
        outage::measure(size)?;
    }
    println!("\nwhile nothing fails, pinned to one core, medians of {REPETITIONS}");
    pin()?;
    cost::measure(true)?;
    unpin()?;
    println!("\nwhile nothing fails, unpinned");
    cost::measure(false)?;
    Ok(common::bar::finish())
}
