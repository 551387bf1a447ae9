//! A node with its memory and its worker thread, for a program on this host.
#![allow(unsafe_code)]

use std::boxed::Box;
use std::format;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit, forget};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Host;
use super::creator::Creator;
use crate::node::NoEmbedder;
use crate::pal::Pal;
use crate::{Config, Driving, Embedder, Identity, Node};

/// The time for which a node that is dropped waits until its peers have read what was sent to them.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(500);

/// A [`Node`] on this host: its memory is allocated once, at the start, and its worker runs in a
/// thread of its own. All is released when it is dropped. `P` is the host, or a wrapper of it.
pub struct HostNode<P: Pal + 'static = Host> {
    node: ManuallyDrop<Arc<OwnedNode<P>>>,
    worker: Option<JoinHandle<()>>,
    creator: Creator,
}

/// A node with the memory and the embedder that it borrows.
struct OwnedNode<P: Pal + 'static> {
    node: ManuallyDrop<Node<'static, P>>,
    memory: *mut [MaybeUninit<u8>],
    embedder: *mut LibraryOs<P>,
}

/// The node's embedder, which lives as long as the node.
type LibraryOs<P> = dyn Embedder<P> + Send;

// SAFETY: the pointers are only used to free their targets, by the thread that drops the last
// reference; they may be freed in any thread.
unsafe impl<P: Pal> Send for OwnedNode<P> {}
// SAFETY: as above; everything else in it is shared as a `Node` may be.
unsafe impl<P: Pal> Sync for OwnedNode<P> {}

impl<P: Pal> Drop for OwnedNode<P> {
    fn drop(&mut self) {
        // SAFETY: the node is dropped once, here, and not used after; memory and embedder came from
        // `Box::into_raw` and their only user, the node, is gone.
        unsafe {
            ManuallyDrop::drop(&mut self.node);
            drop(Box::from_raw(self.memory));
            drop(Box::from_raw(self.embedder));
        }
    }
}

impl HostNode {
    /// Starts the process `identity` of the family at `base`: listens at the Unix stream socket
    /// `{base}.{vmid}` and connects to the other members at theirs.
    ///
    /// # Errors
    /// As [`Host::listen`]; and if the configuration is inconsistent, or the system can't start a
    /// thread.
    pub fn start(base: &Path, identity: Identity, config: Config) -> io::Result<HostNode> {
        Self::start_with(base, identity, config, Box::new(NoEmbedder))
    }

    /// Like [`HostNode::start`], with the embedder's library OS.
    ///
    /// # Errors
    /// As [`HostNode::start`].
    pub fn start_with(
        base: &Path,
        identity: Identity,
        config: Config,
        embedder: Box<dyn Embedder<Host> + Send>,
    ) -> io::Result<HostNode> {
        let host = Host::listen(base, identity.vmid)?;
        Self::over(host, identity, config, embedder)
    }
}

impl<P: Pal> HostNode<P> {
    /// Like [`HostNode::start_with`], on a platform that listens already.
    ///
    /// # Errors
    /// If the configuration is inconsistent, or the system can't start a thread.
    pub fn over(
        pal: P,
        identity: Identity,
        config: Config,
        embedder: Box<dyn Embedder<P> + Send>,
    ) -> io::Result<HostNode<P>> {
        let bytes = Node::<P>::memory(&identity, &config).total();
        let memory = Box::into_raw(Box::<[u8]>::new_uninit_slice(bytes));
        // SAFETY: fresh from `into_raw`, so valid and exclusively owned here; it is freed only
        // after the node that borrows it was dropped (`OwnedNode::drop`), and no reference that a node
        // returns outlives it.
        let node = match Node::new(pal, identity, config, unsafe { &mut *memory }) {
            Ok(node) => node,
            Err(error) => {
                // SAFETY: the node was not made, so the memory is not borrowed any more.
                drop(unsafe { Box::from_raw(memory) });
                return Err(io::Error::other(format!("node of {identity:?}: {error}")));
            }
        };
        let embedder = Box::into_raw(embedder);
        // SAFETY: as with the memory; it is only ever used through this shared reference.
        let node = node.with_embedder(unsafe { &*embedder });
        let node = Arc::new(OwnedNode {
            node: ManuallyDrop::new(node),
            memory,
            embedder,
        });
        let worker = match config.driving {
            Driving::Caller => None,
            Driving::Worker => {
                let node = Arc::clone(&node);
                Some(
                    thread::Builder::new()
                        .name(format!("ipc worker {}", identity.vmid))
                        .spawn(move || node.node.work())?,
                )
            }
        };
        Ok(HostNode {
            node: ManuallyDrop::new(node),
            worker,
            creator: Creator::this(),
        })
    }
}

impl<P: Pal> Deref for HostNode<P> {
    type Target = Node<'static, P>;
    fn deref(&self) -> &Self::Target {
        &self.node.node
    }
}

impl<P: Pal> Drop for HostNode<P> {
    /// Leaves the family and releases all. A forked process has a copy of the node, whose sockets
    /// belong to the creator, and no worker: it prints that on standard error, and changes nothing.
    fn drop(&mut self) {
        if !self.creator.is_this() {
            let text = format!(
                "libos-ipc: process {} drops its copy of the node {} that process {} made: a forked \
                 process must not use it, and nothing was done\n",
                Creator::this().pid(),
                self.identity().vmid,
                self.creator.pid()
            );
            // This avoids `std`'s handle, whose lock may have been held when this process was
            // forked.
            let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
            forget(self.worker.take());
            return;
        }
        self.shut_down(SHUTDOWN_LIMIT);
        if let Some(worker) = self.worker.take() {
            // A worker that panicked has printed a message already.
            let _ = worker.join();
        }
        // SAFETY: it is dropped once, here, and not used after.
        unsafe { ManuallyDrop::drop(&mut self.node) };
    }
}
