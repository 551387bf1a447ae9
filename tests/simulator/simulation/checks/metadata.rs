//! **metadata**: the metadata of a pid are those of its process.

use libos_ipc::Id;
use libos_ipc::wire::MetaCode;

/// Returns the user ID of a pid. The group ID is one more.
pub(crate) fn uid_of(pid: Id) -> u32 {
    1000 + pid
}

/// Returns a path of a pid, if there is one.
pub(crate) fn path_of(pid: Id, what: MetaCode) -> Option<String> {
    match what {
        MetaCode::Executable if pid.is_multiple_of(3) => None,
        MetaCode::Root => Some("/".repeat(1 + pid as usize % 700)),
        _ => Some(format!("/{}/{pid}", what.number())),
    }
}

/// Checks the reported user and group ID of a pid.
pub(crate) fn check_credentials(pid: Id, reported: (u32, u32)) -> Result<(), String> {
    if reported == (uid_of(pid), uid_of(pid) + 1) {
        return Ok(());
    }
    Err(format!("the process entry of {pid} is {reported:?}"))
}

/// Checks the reported path of a pid.
pub(crate) fn check_path(pid: Id, what: MetaCode, reported: Option<&[u8]>) -> Result<(), String> {
    let path = path_of(pid, what);
    if reported == path.as_ref().map(String::as_bytes) {
        return Ok(());
    }
    let reported = reported.map(String::from_utf8_lossy);
    Err(format!("{what:?} of {pid} is {reported:?}"))
}
