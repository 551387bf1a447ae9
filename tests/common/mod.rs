//! Two members on the host platform, in a directory of their own.
#![allow(missing_docs, dead_code)]

use std::path::PathBuf;
use std::time::Duration;

use libos_ipc::Vmid;
use libos_ipc::host::{Host, HostStream};
use libos_ipc::pal::{Deadline, Pal, ReadyList};
use tempfile::TempDir;

/// Longer than any wait that succeeds.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Returns the VMID of that number.
pub(crate) fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

/// Returns the base of the addresses in that directory.
pub(crate) fn base(dir: &TempDir) -> PathBuf {
    dir.path().join("family")
}

/// Two members, which listen in that directory.
pub(crate) struct Family {
    pub(crate) dir: TempDir,
    pub(crate) one: Host,
    pub(crate) two: Host,
}

/// Makes two members with the VMIDs 1 and 2.
pub(crate) fn family() -> Family {
    let dir = TempDir::new().unwrap();
    let one = Host::listen(&base(&dir), vmid(1)).unwrap();
    let two = Host::listen(&base(&dir), vmid(2)).unwrap();
    Family { dir, one, two }
}

impl Family {
    /// Opens a stream from the first member to the second.
    pub(crate) fn stream(&self) -> (HostStream, HostStream) {
        let out = self.one.connect(vmid(2)).unwrap();
        (out, self.two.accept().unwrap())
    }
}

/// Returns the ready streams.
pub(crate) fn poll_ready(host: &Host) -> ReadyList {
    let mut ready = ReadyList::new();
    host.wait(&mut ready, Deadline::Now);
    ready
}

/// Waits until a stream is ready, and returns the ready ones.
pub(crate) fn wait(host: &Host) -> ReadyList {
    let until = host.now() + LONG;
    let mut ready = ReadyList::new();
    while ready.is_empty() {
        assert!(host.now() < until, "nothing became ready");
        host.wait(&mut ready, Deadline::At(until));
    }
    ready
}
