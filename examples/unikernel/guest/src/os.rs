//! The library OS of this program: it records signals, and answers requests for metadata.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use libos_ipc::{
    Embedder, Errno, MetaCode, Metadata, MetadataReply, Node, Pid, Signal, SignalReply, Target,
};

use crate::Platform;

/// The path of the program of each participant.
const PATHS: [&CStr; 3] = [c"/boot/nobody", c"/boot/guest-1", c"/boot/guest-2"];

/// The library OS.
pub(crate) struct Os {
    participant: AtomicUsize,
    /// A bit for each signal that was delivered.
    signals: AtomicU64,
}

impl Os {
    pub(crate) const fn new() -> Os {
        Os {
            participant: AtomicUsize::new(0),
            signals: AtomicU64::new(0),
        }
    }

    pub(crate) fn set_participant(&self, participant: usize) {
        self.participant.store(participant, Ordering::Relaxed);
    }

    /// Returns true if the signal was delivered.
    pub(crate) fn has_received(&self, signal: i32) -> bool {
        self.signals.load(Ordering::Relaxed) & bit(signal) != 0
    }
}

/// Returns the bit of a signal; 0 for a number that has none.
fn bit(signal: i32) -> u64 {
    u32::try_from(signal)
        .ok()
        .and_then(|signal| 1_u64.checked_shl(signal))
        .unwrap_or(0)
}

impl Embedder<Platform> for Os {
    fn signal(&self, node: &Node<'_, Platform>, signal: &Signal, reply: SignalReply) {
        let is_for_us = match signal.target {
            Target::Process(pid) => node.pid() == Some(pid),
            Target::All => true,
            _ => false,
        };
        // Signal 0 only checks that the target exists.
        if is_for_us && signal.signal != 0 {
            self.signals.fetch_or(bit(signal.signal), Ordering::Relaxed);
        }
        let _ = reply.send(node, if is_for_us { Ok(()) } else { Err(Errno::ESRCH) });
    }

    fn metadata(&self, node: &Node<'_, Platform>, pid: Pid, what: MetaCode, reply: MetadataReply) {
        let path = PATHS.get(self.participant.load(Ordering::Relaxed));
        let metadata = match what {
            _ if node.pid() != Some(pid) => Err(Errno::ESRCH),
            MetaCode::Credentials => Ok(Metadata::Credentials { uid: 0, gid: 0 }),
            MetaCode::Executable => {
                path.map_or(Err(Errno::ENOENT), |path| Ok(Metadata::Path(path)))
            }
            _ => Ok(Metadata::Path(c"/")),
        };
        let _ = reply.send(node, metadata);
    }
}
