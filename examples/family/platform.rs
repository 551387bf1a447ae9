//! The platform of each process of this program: the host, with secure streams and recording if
//! requested. Frames are recorded before they are encrypted.

use std::fs::read_dir;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use libos_ipc::host::HostNode;
use libos_ipc::host::trace::{Recorder, TracedPal, merge};
use libos_ipc::{Config, Embedder, Identity};

use crate::key::{Key, Streams};

/// The platform of a process.
pub(crate) type Platform = TracedPal<Streams>;

/// A member and its recorder.
pub(crate) struct FamilyNode {
    // The node is dropped before its recorder.
    node: HostNode<Platform>,
    _recorder: Option<Recorder>,
}

impl FamilyNode {
    /// Joins the family at `base`. The recording is written to `traces`, if it is given.
    pub(crate) fn start(
        base: &Path,
        identity: Identity,
        config: Config,
        os: impl Embedder<Platform> + Send + 'static,
        traces: Option<&Path>,
        key: &Key,
    ) -> Result<FamilyNode> {
        let vmid = identity.vmid;
        let recorder = traces
            .map(|directory| Recorder::create(&directory.join(format!("{vmid}.{TRACE_EXTENSION}"))))
            .transpose()
            .context("cannot record")?;
        let streams = key.listen(base, vmid)?;
        let platform = TracedPal::new(streams, vmid, recorder.as_ref());
        let node = HostNode::over(platform, identity, config, Box::new(os))?;
        Ok(FamilyNode {
            node,
            _recorder: recorder,
        })
    }
}

impl Deref for FamilyNode {
    type Target = HostNode<Platform>;
    fn deref(&self) -> &Self::Target {
        &self.node
    }
}

/// The file extension of one process's recording.
const TRACE_EXTENSION: &str = "pcapng";

/// Merges the recordings in the directory to one, and prints its counts.
pub(crate) fn merge_traces(directory: &Path, to: &Path) -> Result<()> {
    let parts: Vec<PathBuf> = read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    let merged = merge(&parts, to).with_context(|| format!("cannot write {}", to.display()))?;
    println!(
        "{}: {} frames of {} processes, {} of them seen by both sides",
        to.display(),
        merged.frames,
        parts.len(),
        merged.seen_twice
    );
    if merged.lost > 0 {
        println!(
            "note: {} frames were not recorded, as the files were not written fast enough",
            merged.lost
        );
    }
    Ok(())
}
