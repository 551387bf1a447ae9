//! All platforms of the crate keep the rules, and each planted defect is found.

mod defects;
mod mux;
mod platforms;
#[path = "../../examples/tiny_pal.rs"]
#[allow(dead_code, reason = "only its platform is used")]
mod tiny_pal;

use std::time::Duration;

use libos_ipc::testing::conformance::{Check, Defect, check_in_one_thread};

/// Checks the platform of that name.
fn conforms(name: &str) {
    let platform = platforms::named(&[String::from(name)]).expect("a platform of the list")[0];
    // A busy machine needs longer than the default.
    let check = Check {
        patience: Duration::from_secs(30),
        ..Check::default()
    };
    match platform.check(check) {
        Ok(report) => assert!(report.is_ok(), "{name}: {report}"),
        Err(reason) => println!("skipped: {reason}"),
    }
}

#[test]
fn the_name_of_no_platform_is_refused() {
    let error = platforms::named(&[String::from("TCP"), String::from("hosts")]).err();
    let error = error.expect("a refusal");
    assert!(
        error.contains("\"hosts\"") && error.contains("host sockets"),
        "{error}"
    );
    assert_eq!(
        platforms::named(&[]).map(|all| all.len()).ok(),
        Some(platforms::ALL.len())
    );
}

#[test]
fn host_sockets_keep_the_rules() {
    conforms("host sockets");
}

#[test]
fn the_network_in_memory_keeps_the_rules() {
    conforms("loopback");
}

#[test]
fn streams_over_one_channel_keep_the_rules() {
    conforms("mux");
}

#[test]
fn secure_streams_keep_the_rules() {
    conforms("secure");
}

#[test]
fn streams_over_tcp_keep_the_rules() {
    conforms("TCP");
    conforms("secure over TCP");
}

#[test]
fn streams_between_virtual_machines_keep_the_rules() {
    conforms("vsock");
}

#[test]
fn the_fault_injector_keeps_the_rules() {
    conforms("host with faults");
}

#[test]
fn the_platform_of_the_guide_keeps_the_rules() {
    conforms("tiny platform");
}

/// As on a platform without `std`.
#[test]
fn the_checks_in_one_thread_pass_without_a_watchdog() {
    let directory = tempfile::tempdir().expect("a directory for sockets");
    let host = platforms::host(&directory.path().join("family"));
    let checks = check_in_one_thread(host, |violation| panic!("{violation}"));
    assert!(checks > 30, "{checks} checks");
}

#[test]
fn each_planted_defect_is_found_by_the_rule_that_it_breaks() {
    assert!(Defect::ALL.len() >= 20);
    for (defect, found) in defects::findings() {
        assert_eq!(found, Some(defect.rule()), "{defect}");
    }
}
