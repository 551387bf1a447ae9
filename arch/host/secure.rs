//! Members of a family with a key.

use std::boxed::Box;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::{Addresses, Host, HostNode};
use crate::node::NoEmbedder;
use crate::pal::OutOfResources;
use crate::pal::secure::{FamilyKey, SecurePal, SecureStatistics};
use crate::{Config, Embedder, Identity};

/// The host with secure streams.
pub type SecureHost = Arc<SecurePal<Host>>;

/// Fills the buffer with the kernel's random numbers, for keys and handshakes.
///
/// # Errors
/// [`OutOfResources`] if the kernel fails to provide them.
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
    /// Like [`HostNode::start`], for the family with that key: all streams are secure.
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

    /// Like [`HostNode::start_secure`], with the embedder's library OS. Without a key the streams
    /// are plain, as with [`HostNode::start_with`]: for a program that chooses at run time.
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

    /// Like [`HostNode::start_secure_with`] with a key, at one of those addresses: Unix sockets, TCP, or the sockets
    /// of virtual machines.
    ///
    /// # Errors
    /// As [`Host::listen_at`] and [`HostNode::over`].
    pub fn start_secure_at(
        addresses: &Addresses,
        identity: Identity,
        config: Config,
        key: FamilyKey,
        embedder: Box<dyn Embedder<SecureHost> + Send>,
    ) -> io::Result<Self> {
        let host = Host::listen_at(addresses, identity.vmid)?;
        let pal = SecurePal::new(host, identity.vmid, key, random);
        Self::over(Arc::new(pal), identity, config, embedder)
    }

    /// Returns the counters of secure streams: handshakes, and the reasons of ends.
    pub fn secure_statistics(&self) -> SecureStatistics {
        self.pal.statistics()
    }
}
