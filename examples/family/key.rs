//! Whether the family's streams are secure. If so, each child gets the key from its parent: on its
//! standard input, a pipe that nobody else has, for others can read its command line.

pub(crate) use kind::*;

#[cfg(feature = "secure")]
mod kind {
    use std::io::{self, Read, Write, stdin};
    use std::path::Path;

    use anyhow::{Context, Result, anyhow};
    use libos_ipc::host::{self, SecureHost};
    use libos_ipc::pal::secure::FamilyKey;
    use libos_ipc::{Config, Embedder, Identity};

    /// A member of the family.
    pub(crate) type HostNode = host::HostNode<SecureHost>;

    /// The key of the family, if it has one.
    #[derive(Clone)]
    pub(crate) struct Key(Option<FamilyKey>);

    impl Key {
        /// A new family's.
        pub(crate) fn fresh(secure: bool) -> Result<Key> {
            let key = secure.then(|| FamilyKey::generate(host::random));
            let no_random = |_| anyhow!("the system gives no random numbers");
            Ok(Key(key.transpose().map_err(no_random)?))
        }

        /// The one that this process's parent gives to it.
        pub(crate) fn from_parent(secure: bool) -> Result<Key> {
            if !secure {
                return Ok(Key(None));
            }
            let mut bytes = [0; FamilyKey::LENGTH];
            let read = stdin().lock().read_exact(&mut bytes);
            read.context("the parent gave no key")?;
            Ok(Key(Some(FamilyKey::from_secret_bytes(&mut bytes))))
        }

        pub(crate) fn is_there(&self) -> bool {
            self.0.is_some()
        }

        /// Gives it to a child.
        pub(crate) fn give(&self, to: &mut impl Write) -> io::Result<()> {
            match &self.0 {
                Some(key) => to.write_all(key.secret_bytes()),
                None => Ok(()),
            }
        }

        /// Becomes a member.
        pub(crate) fn start(
            &self,
            base: &Path,
            identity: Identity,
            config: Config,
            os: Box<dyn Embedder<SecureHost> + Send>,
        ) -> io::Result<HostNode> {
            HostNode::start_secure_with(base, identity, config, self.0.clone(), os)
        }
    }
}

#[cfg(not(feature = "secure"))]
mod kind {
    use std::io::{self, Write};
    use std::path::Path;

    use anyhow::{Result, ensure};
    use libos_ipc::host::Host;
    use libos_ipc::{Config, Embedder, Identity};

    pub(crate) use libos_ipc::host::HostNode;

    /// There is none in a program that is built without the feature.
    #[derive(Clone)]
    pub(crate) struct Key;

    #[allow(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "as it is with a key"
    )]
    impl Key {
        pub(crate) fn fresh(secure: bool) -> Result<Key> {
            ensure!(
                !secure,
                "built without secure streams: cargo run --features secure --example family -- --secure"
            );
            Ok(Key)
        }

        pub(crate) fn from_parent(secure: bool) -> Result<Key> {
            Key::fresh(secure)
        }

        pub(crate) fn is_there(&self) -> bool {
            false
        }

        pub(crate) fn give(&self, _: &mut impl Write) -> io::Result<()> {
            Ok(())
        }

        pub(crate) fn start(
            &self,
            base: &Path,
            identity: Identity,
            config: Config,
            os: Box<dyn Embedder<Host> + Send>,
        ) -> io::Result<HostNode> {
            HostNode::start_with(base, identity, config, os)
        }
    }
}
