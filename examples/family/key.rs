//! Secure streams for the family, if requested. Each child gets the key from its parent on its
//! standard input, a pipe that no other process has, since others can read its command line.

use std::io;
use std::path::Path;

use libos_ipc::Vmid;
use libos_ipc::host::{Addresses, Host};

#[cfg(not(feature = "secure"))]
pub(crate) use plain::*;
#[cfg(feature = "secure")]
pub(crate) use secure::*;

/// Listens at the address of a member. `base` is a path, or an address on a network as [`Addresses`] reads it. The
/// first process has checked that the user allows plain streams there.
fn listen(base: &Path, vmid: Vmid) -> io::Result<Host> {
    let addresses: Addresses = base.to_string_lossy().parse()?;
    Host::listen_at(&addresses, vmid)
}

#[cfg(feature = "secure")]
mod secure {
    use std::io::{self, Read, Write, stdin};
    use std::path::Path;
    use std::sync::Arc;

    use anyhow::{Context, Result, anyhow};
    use libos_ipc::Vmid;
    use libos_ipc::host::{self, SecureHost};
    use libos_ipc::pal::secure::{FamilyKey, SecurePal};

    /// The streams of a process.
    pub(crate) type Streams = SecureHost;

    /// The key of the family, if it has one.
    #[derive(Clone)]
    pub(crate) struct Key(Option<FamilyKey>);

    impl Key {
        /// Generates the key of a new family, if its streams are `secure`.
        pub(crate) fn generate(secure: bool) -> Result<Key> {
            let key = secure.then(|| FamilyKey::generate(host::random));
            let no_random_numbers = |_| anyhow!("the system gives no random numbers");
            Ok(Key(key.transpose().map_err(no_random_numbers)?))
        }

        /// Reads the key that this process's parent sends.
        pub(crate) fn from_parent(secure: bool) -> Result<Key> {
            if !secure {
                return Ok(Key(None));
            }
            let mut bytes = [0; FamilyKey::LENGTH];
            let read = stdin().lock().read_exact(&mut bytes);
            read.context("the parent gave no key")?;
            Ok(Key(Some(FamilyKey::from_secret_bytes(&mut bytes))))
        }

        pub(crate) fn is_set(&self) -> bool {
            self.0.is_some()
        }

        /// Sends the key to a child.
        pub(crate) fn send(&self, to: &mut impl Write) -> io::Result<()> {
            match &self.0 {
                Some(key) => to.write_all(key.secret_bytes()),
                None => Ok(()),
            }
        }

        /// Listens at the address of a member.
        pub(crate) fn listen(&self, base: &Path, vmid: Vmid) -> io::Result<Streams> {
            let host = super::listen(base, vmid)?;
            Ok(Arc::new(match &self.0 {
                Some(key) => SecurePal::new(host, vmid, key.clone(), host::random),
                None => SecurePal::plain(host.allow_plain(), vmid),
            }))
        }
    }
}

#[cfg(not(feature = "secure"))]
mod plain {
    use std::io::{self, Write};
    use std::path::Path;

    use anyhow::{Result, ensure};
    use libos_ipc::Vmid;

    pub(crate) use libos_ipc::host::Host as Streams;

    /// A program that is built without the feature has no key.
    #[derive(Clone)]
    pub(crate) struct Key;

    #[allow(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "the signatures are those of `secure::Key`"
    )]
    impl Key {
        pub(crate) fn generate(secure: bool) -> Result<Key> {
            ensure!(
                !secure,
                "built without secure streams: cargo run --features secure --example family -- --secure"
            );
            Ok(Key)
        }

        pub(crate) fn from_parent(secure: bool) -> Result<Key> {
            Key::generate(secure)
        }

        pub(crate) fn is_set(&self) -> bool {
            false
        }

        pub(crate) fn send(&self, _: &mut impl Write) -> io::Result<()> {
            Ok(())
        }

        pub(crate) fn listen(&self, base: &Path, vmid: Vmid) -> io::Result<Streams> {
            Ok(super::listen(base, vmid)?.allow_plain())
        }
    }
}
