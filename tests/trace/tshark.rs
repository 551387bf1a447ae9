//! tshark with the dissector.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Returns true if tshark is installed.
pub(crate) fn is_there() -> bool {
    let found = Command::new("tshark").arg("--version").output().is_ok();
    if !found {
        assert!(std::env::var_os("CI").is_none(), "there is no `tshark`");
        println!("skipped: there is no `tshark`");
    }
    found
}

/// One entry of a file: the requested fields, by name. A missing field is empty.
pub(crate) type Row = BTreeMap<&'static str, String>;

/// Returns tshark's fields of every entry, after two passes.
pub(crate) fn rows(file: &Path, fields: &[&'static str]) -> Vec<Row> {
    let mut tshark = dissecting(file);
    tshark.args([
        "-2",
        "-T",
        "fields",
        "-E",
        "separator=/t",
        "-E",
        "occurrence=a",
    ]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    let row = |line: &str| {
        let values = line.split('\t').map(str::to_owned);
        fields.iter().copied().zip(values).collect()
    };
    run(tshark).lines().map(row).collect()
}

/// Returns tshark's own lines.
pub(crate) fn lines(file: &Path) -> Vec<String> {
    run(dissecting(file)).lines().map(str::to_owned).collect()
}

fn dissecting(file: &Path) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/wireshark/libos_ipc.lua");
    let mut tshark = Command::new("tshark");
    tshark
        .arg("-X")
        .arg(format!("lua_script:{}", script.display()))
        .arg("-r")
        .arg(file);
    tshark
}

fn run(mut tshark: Command) -> String {
    let output = tshark.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(!stderr.contains("Lua"), "{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
