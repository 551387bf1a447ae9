//! Makes a failing seed small: fewer members, fewer kinds of faults and fewer steps, as long as the
//! same check fails. Each try runs in a process of its own, so that a panic counts as a failure,
//! too.

use std::cell::RefCell;
use std::process::{Command, Stdio};
use std::sync::Once;

use super::simulation::{Fault, Only, Options, StepName, steps};

/// The name of the check for a seed that panics.
const PANIC: &str = "panics";

/// The command that runs the simulator.
pub(crate) const COMMAND: &str = "cargo run --release --example sim --";

thread_local! {
    static RUNS: RefCell<Option<(Options, bool)>> = const { RefCell::new(None) };
}

/// Sets the options of this thread's run: if it panics, they are reported, and the process ends.
pub(crate) fn report_panics(options: Options, shrinks: bool) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            if let Some((options, shrinks)) = RUNS.take() {
                println!("sim: FAILED: {PANIC}: {info}");
                report(&options, shrinks);
                std::process::exit(1);
            }
        }));
    });
    RUNS.set(Some((options, shrinks)));
}

/// Returns the command-line options for `options`.
fn arguments(options: &Options) -> Vec<String> {
    let mut all = vec!["--seed".to_owned(), options.seed.to_string()];
    if let Some(members) = options.members {
        all.extend(["--members".to_owned(), members.to_string()]);
    }
    all.extend(["--faults".to_owned(), options.faults.to_string()]);
    if let Some(only) = &options.only {
        all.extend(["--only".to_owned(), only.to_string()]);
    }
    all
}

/// Returns the check that fails with these options, if one does.
fn fails(options: &Options) -> Option<String> {
    let output = run(options, &[])?;
    let failed = output
        .lines()
        .find_map(|line| line.strip_prefix("sim: FAILED: "))?;
    failed.split_once(':').map(|(check, _)| check.to_owned())
}

/// Returns the output of a run with these options.
fn run(options: &Options, more: &[&str]) -> Option<String> {
    let output = Command::new(std::env::current_exe().ok()?)
        .args(arguments(options))
        .arg("--no-shrink")
        .args(more)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Prints how to repeat the seed, shrunk if requested.
pub(crate) fn report(options: &Options, shrinks: bool) {
    if !shrinks {
        println!("again: {}", again(options));
        return;
    }
    let Some(check) = fails(options) else {
        println!("it does not fail again: {}", again(options));
        return;
    };
    println!("{check}: {}", again(options));
    let small = shrink(options.clone(), &check);
    if let Some(output) = run(&small, &["--verbose"]) {
        print!("{output}");
    }
    println!("again: {}", again(&small));
}

/// Returns the command that repeats the run.
fn again(options: &Options) -> String {
    format!("{COMMAND} {}", arguments(options).join(" "))
}

/// Returns the smallest options that fail in the same way, of which no part can be omitted.
fn shrink(mut options: Options, check: &str) -> Options {
    let fails = |options: &Options| fails(options).as_deref() == Some(check);
    for members in 1..=options.members.unwrap_or(8) {
        let fewer = Options {
            members: Some(members),
            ..options.clone()
        };
        if fails(&fewer) {
            options = fewer;
            break;
        }
    }
    for (fault, ..) in Fault::ALL {
        let fewer = Options {
            faults: options.faults.without(fault),
            ..options.clone()
        };
        if fewer.faults != options.faults && fails(&fewer) {
            options = fewer;
        }
    }
    let all = steps(&options);
    let with_steps = |steps: &[StepName]| Options {
        only: Some(Only(steps.to_vec())),
        ..options.clone()
    };
    let left = leave_out(all, |steps| fails(&with_steps(steps)));
    with_steps(&left)
}

/// Omits smaller and smaller parts, as long as the rest still fails.
fn leave_out(mut all: Vec<StepName>, fails: impl Fn(&[StepName]) -> bool) -> Vec<StepName> {
    let mut length = all.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let before = all.len();
        while at < all.len() {
            let end = (at + length).min(all.len());
            let rest: Vec<_> = [&all[..at], &all[end..]].concat();
            if fails(&rest) {
                all = rest;
            } else {
                at = end;
            }
        }
        if length == 1 && all.len() == before {
            return all;
        }
        length = length.div_ceil(2);
    }
}
