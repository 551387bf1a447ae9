//! C programs that use the library. Each program checks its own results and fails with an exit code.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::{Config, Error, Exit, Identity, Target, Vmid, Wait};
use tempfile::TempDir;

use super::{check_library, example, file, has, library, path_for, run, whole_library};

/// Builds a program from C files and the library.
fn program(name: &str, sources: &[&str], library: &Path) -> Command {
    let program = path_for(name);
    let mut compile = Command::new("cc");
    compile
        .args(["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"])
        .args(["-Wno-unused-parameter", "-pthread", "-I"])
        .arg(file("include"))
        .arg("-I")
        .arg(file("examples/c"))
        .arg("-o")
        .arg(&program)
        .args(sources.iter().map(|source| file(source)))
        .arg(library);
    run(&mut compile);
    Command::new(program)
}

/// Builds a program with the stock platform and the archive that is shipped, and runs it with a family of its own.
fn run_program(name: &str, arguments: &[&str]) {
    if has("cc") && super::archive::has_tools() {
        let archive = super::archive::shipped().join("liblibos_ipc.a");
        run_program_with(name, arguments, &archive);
    }
}

fn run_program_with(name: &str, arguments: &[&str], library: &Path) {
    let directory = TempDir::new().unwrap();
    let source = format!("tests/capi/{name}.c");
    let suffix = arguments.join("");
    let mut program = program(
        &format!("{name}{suffix}"),
        &[&source, "arch/c/posix.c"],
        library,
    );
    program.arg(directory.path().join("family")).args(arguments);
    print!("{}", run(&mut program));
}

/// Checks the stock platform, with a defect.
fn check_platform(defect: &str) -> String {
    let directory = TempDir::new().unwrap();
    let sources = ["tests/capi/conformance.c", "arch/c/posix.c"];
    let mut program = program(&format!("conformance-{defect}"), &sources, check_library());
    program.arg(directory.path().join("family")).arg(defect);
    run(&mut program)
}

#[test]
fn the_stock_platform_keeps_the_rules() {
    if has("cc") {
        let report = check_platform("none");
        assert!(report.starts_with("0 broken\n"), "{report}");
        assert!(report.contains("39 checks passed"), "{report}");
    }
}

#[test]
fn the_check_of_a_platform_in_c_finds_defects() {
    if !has("cc") {
        return;
    }
    for (defect, rule) in [
        ("wake", "wake-before"),
        ("set", "event-wakes-all"),
        ("hang-up", "hang-up"),
        ("long-read", "read-count"),
        ("long-report", "ready-count"),
        ("clock", "clock-stands"),
    ] {
        let report = check_platform(defect);
        let first = report.lines().nth(2).unwrap_or_default();
        assert!(first.trim_start().starts_with(rule), "{defect}: {report}");
    }
}

#[test]
fn an_event_of_the_stock_platform_never_loses_a_wake_up() {
    run_program("posix", &["events"]);
}

#[test]
fn a_wake_of_the_stock_platform_ends_a_wait() {
    run_program("posix", &["wakes"]);
}

#[test]
fn events_of_the_stock_platform_survive_interrupting_signals() {
    run_program("posix", &["signals"]);
}

#[test]
fn sockets_of_the_stock_platform_ignore_the_umask_and_close_on_exec() {
    run_program("posix", &["sockets"]);
}

#[test]
fn abstract_sockets_of_the_stock_platform_leave_no_file() {
    run_program("posix", &["abstract"]);
}

#[test]
fn calls_with_a_worker_thread_return_what_the_header_states() {
    run_program("calls", &[]);
}

#[test]
fn calls_without_threads_return_what_the_header_states() {
    run_program("calls", &["polled"]);
}

#[test]
fn functions_of_the_seed_header_work_with_the_archive_that_has_no_others() {
    if has("cc") && super::archive::has_tools() {
        let archive = super::archive::shipped().join("liblibos_ipc_seed.a");
        run_program_with("seed", &[], &archive);
    }
}

/// Starts a process of a family with the seed archive; none without the tools.
fn seed_process(base: &Path, role: &str) -> Option<Child> {
    if !has("cc") || !super::archive::has_tools() {
        return None;
    }
    let archive = super::archive::shipped().join("liblibos_ipc_seed.a");
    let sources = ["tests/capi/seed.c", "arch/c/posix.c"];
    let mut process = program(&format!("seed-{role}"), &sources, &archive)
        .arg(base)
        .arg(role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(process.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Some(process)
}

#[test]
fn leader_with_the_seed_archive_serves_a_member_in_rust_as_one_in_c_does() {
    let directory = TempDir::new().unwrap();
    let base = directory.path().join("family");
    let Some(mut leader) = seed_process(&base, "lead") else {
        return;
    };
    let wait = Wait::at_most(Duration::from_secs(20));
    let identity = Identity::child(Vmid::new(5).unwrap(), Vmid::LEADER);
    let member = HostNode::start(&base, identity, Config::DEFAULT).unwrap();
    let pid = member.join(wait).unwrap();
    let owner = member.owner_of(pid.get(), wait).unwrap();
    assert_eq!(owner, Some(identity.vmid));
    *member.share::<u64>(Some(7)).unwrap().write(wait).unwrap() += 5;
    assert_eq!(
        member.process(Some(pid), wait).unwrap_err(),
        Error::Unsupported
    );
    member.exit(Exit::default(), wait).unwrap();
    assert!(member.shut_down(Duration::from_secs(20)));
    drop(leader.stdin.take());
    assert!(leader.wait().unwrap().success());
}

#[test]
fn member_with_the_seed_archive_gets_a_signal_that_another_member_sends_to_all() {
    let directory = TempDir::new().unwrap();
    let base = directory.path().join("family");
    let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT).unwrap();
    let Some(mut in_c) = seed_process(&base, "follow") else {
        return;
    };
    let wait = Wait::at_most(Duration::from_secs(20));
    let identity = Identity::child(Vmid::new(5).unwrap(), Vmid::LEADER);
    let member = HostNode::start(&base, identity, Config::DEFAULT).unwrap();
    member.join(wait).unwrap();
    member.kill(Target::All, 10, wait).unwrap();
    assert!(in_c.wait().unwrap().success());
    assert!(member.shut_down(Duration::from_secs(20)));
    assert!(leader.shut_down(Duration::from_secs(20)));
}

#[test]
fn a_release_succeeds_while_many_threads_wait() {
    run_program("releases", &[]);
}

#[test]
fn a_limit_that_is_reached_is_named_in_the_log() {
    run_program("limits", &[]);
}

#[test]
fn a_child_is_abandoned_while_backlog_and_table_are_full() {
    run_program("members", &["busy"]);
}

#[test]
fn a_process_for_which_a_leader_in_c_has_no_room_is_told_so() {
    run_program("members", &["full"]);
}

#[test]
fn a_call_ends_as_its_limit_states_while_the_leader_is_stopped() {
    run_program("members", &["stopped"]);
}

#[test]
fn a_lock_request_takes_few_calls_of_the_platform() {
    run_program("host_calls", &[]);
}

#[test]
fn a_family_without_threads_makes_progress_by_polling() {
    run_program("polled", &[]);
}

#[test]
fn a_lock_is_released_when_the_last_process_closes_the_open_file() {
    run_program("open_files", &[]);
}

#[test]
fn processes_in_c_are_waited_for_grouped_and_inherited_as_in_posix() {
    run_program("processes", &[]);
}

#[test]
fn a_waiting_call_ends_when_its_interrupt_is_raised_or_its_time_is_over() {
    run_program("interrupts", &[]);
}

#[test]
fn a_family_in_c_goes_on_when_its_leader_is_killed() {
    if has("cc") {
        run_program_with("succession", &["goes-on"], whole_library());
    }
}

#[test]
fn a_process_in_c_whose_leader_is_killed_before_it_joins_asks_the_heir() {
    if has("cc") {
        run_program_with("succession", &["newcomer"], whole_library());
    }
}

#[test]
fn a_process_without_the_family_key_is_refused() {
    if has("cc") {
        run_program_with("secure", &[], whole_library());
    }
}

#[test]
fn a_library_without_secure_streams_refuses_a_key() {
    run_program("secure", &["plain"]);
}

#[test]
fn programs_in_c_and_rust_form_one_family() {
    if !has("cc") || !has("make") {
        return;
    }
    // The Makefile finds both built.
    let target = library().parent().and_then(Path::parent).unwrap();
    let mut make = Command::new("make");
    make.arg("-C").arg(file("examples/c")).arg("run");
    make.env("CARGO_TARGET_DIR", target);
    make.env("CARGO_BUILD_BUILD_DIR", path_for("build"));
    make.env("MEMBER", example::program("c_member"));
    make.env("RUSTFLAGS", "").env("CARGO", env!("CARGO"));
    let text = run(&mut make);
    let mut lines = text.lines().filter(|line| !line.starts_with("make"));
    assert_eq!(lines.next_back(), Some("c family: ok"), "{text}");
}
