//! What each process of this program stands on: the host, with secure streams and recorded if that was
//! asked for. What is recorded is what they say before it is encrypted.

use std::fs::read_dir;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use libos_ipc::host::HostNode;
use libos_ipc::host::trace::{Recorder, TracedPal, merge};
use libos_ipc::{Config, Embedder, Identity};

use crate::key::{Key, Streams};

/// The platform.
pub(crate) type Platform = TracedPal<Streams>;

/// A member, with its recording.
pub(crate) struct FamilyNode {
    // The node goes before its recorder does.
    node: HostNode<Platform>,
    _recorder: Option<Recorder>,
}

impl FamilyNode {
    /// Joins the family at `base`. The recording goes to `traces`, if it is wanted.
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
            .map(|directory| Recorder::create(&directory.join(format!("{vmid}.{PART}"))))
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

/// How the recording of one process is called, after its VMID.
const PART: &str = "pcapng";

/// Makes one recording of all those in the directory, and says what is in it.
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
