//! How a child ended.

use crate::Pid;
use crate::wire::ExitReport;

/// How a child ended, in the words of [`Exit`](crate::Exit).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(not(feature = "testing"), non_exhaustive)]
pub struct ChildExit {
    /// The pid of the parent; `None` if the report names none.
    pub parent_pid: Option<Pid>,
    /// The pid of the child.
    pub pid: Pid,
    /// The child's user.
    pub uid: u32,
    /// Its exit code.
    pub code: u32,
    /// The signal that ended it; 0 if none did.
    pub signal: u32,
}

impl ChildExit {
    /// Returns the exit that a process reports; `None` if the process has no pid, and so is no child.
    pub(crate) const fn of(report: &ExitReport) -> Option<ChildExit> {
        let Some(pid) = Pid::new(report.pid) else {
            return None;
        };
        Some(ChildExit {
            parent_pid: Pid::new(report.parent_pid),
            pid,
            uid: report.uid,
            code: report.code,
            signal: report.signal,
        })
    }
}
