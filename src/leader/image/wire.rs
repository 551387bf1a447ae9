//! The bytes of what the tables have from messages.

use crate::store::{ImageEntry, ImageReader, ImageWriter, MalformedImage, codes, entry};
use crate::wire::{
    ExitReport, HeldLock, KillTarget, LockFamily, LockKind, PidKill, ProcessFlags, SyncState,
};

codes!(KillTarget {
    Thread = 0,
    Process = 1,
    Group = 2,
    All = 3
});

codes!(SyncState {
    None = 0,
    Invalid = 1,
    Shared = 2,
    Exclusive = 3
});

codes!(LockKind {
    Read = 0,
    Write = 1,
    Unlock = 2
});

codes!(LockFamily {
    Posix = 0,
    Ofd = 1,
    Flock = 2
});

entry!(PidKill {
    sender,
    pid,
    id,
    signal,
    target
});

entry!(ExitReport {
    parent_pid,
    pid,
    uid,
    code,
    signal
});

entry!(HeldLock {
    family,
    write,
    start,
    end,
    pid,
    handle
});

impl ImageEntry for ProcessFlags {
    const SIZE: usize = 4;

    fn save(&self, to: &mut ImageWriter<'_>) {
        self.bits().save(to);
    }

    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        ProcessFlags::from_bits(u32::load(from)?).ok_or(MalformedImage)
    }
}
