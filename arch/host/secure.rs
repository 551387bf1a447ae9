//! Members of a family with a key.

use std::boxed::Box;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::{Host, HostNode};
use crate::node::NoEmbedder;
use crate::pal::OutOfResources;
use crate::pal::secure::{FamilyKey, SecurePal, SecureStatistics};
use crate::{Config, Embedder, Identity};

/// The host with secure streams.
pub type SecureHost = Arc<SecurePal<Host>>;

/// The kernel's random numbers, for keys and handshakes.
///
/// # Errors
/// If it gives none.
pub fn random(mut buffer: &mut [u8]) -> Result<(), OutOfResources> {
    while !buffer.is_empty() {
        match getrandom(&mut *buffer, GetRandomFlags::empty()) {
            Ok(count) => buffer = buffer.get_mut(count..).ok_or(OutOfResources)?,
            Err(Errno::INTR) => {}
            Err(_) => return Err(OutOfResources),
        }
    }
    Ok(())
}

impl HostNode<SecureHost> {
    /// As [`HostNode::start`], for the family that has that key: all streams are secure.
    ///
    /// # Errors
    /// As [`HostNode::start`].
    pub fn start_secure(
        base: &Path,
        identity: Identity,
        config: Config,
        key: FamilyKey,
    ) -> io::Result<Self> {
        Self::start_secure_with(base, identity, config, Some(key), Box::new(NoEmbedder))
    }

    /// As [`HostNode::start_secure`], with what the library OS provides. Without a key nothing is
    /// secure, and all is as with [`HostNode::start_with`]: for a program that finds out when it runs.
    ///
    /// # Errors
    /// As [`HostNode::start`].
    pub fn start_secure_with(
        base: &Path,
        identity: Identity,
        config: Config,
        key: Option<FamilyKey>,
        embedder: Box<dyn Embedder<SecureHost> + Send>,
    ) -> io::Result<Self> {
        let host = Host::listen(base, identity.vmid)?;
        let pal = match key {
            Some(key) => SecurePal::new(host, identity.vmid, key, random),
            None => SecurePal::plain(host, identity.vmid),
        };
        Self::over(Arc::new(pal), identity, config, embedder)
    }

    /// What was counted of the streams: handshakes, and why any ended.
    pub fn secure_statistics(&self) -> SecureStatistics {
        self.pal.statistics()
    }
}
