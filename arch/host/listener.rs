//! The socket at which a member listens, and its file.

use std::format;
use std::io::{Error, Result};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, bind, listen, shutdown};

use super::creator::Creator;
use super::socket_file::{Base, device_and_inode, explain, new_socket, remove_stale, umask_error};
use super::stream::HostStream;
use crate::Vmid;

/// The greatest number of connections that wait to be accepted. The system's own limit
/// (`somaxconn`) is 4096.
const BACKLOG: i32 = 4096;

/// The owner's right to connect to a socket, in its file's mode.
const CONNECT: u32 = 0o200;

/// A listening socket and its file.
#[derive(Debug)]
pub(super) struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode, which identify the file.
    file: (u64, u64),
    creator: Creator,
}

impl Listener {
    pub(super) fn new(base: &Base, vmid: Vmid) -> Result<Listener> {
        let path = base.path(vmid);
        let failed = |error: Errno| explain(&error.into(), "cannot listen at", &path);
        let address = base.address(vmid).map_err(failed)?;
        let socket = new_socket().map_err(failed)?;
        // The file gets the mode of the socket, so it is never open to other users.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        match bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => {
                let _lock = base.lock(FlockOperation::LockExclusive).map_err(failed)?;
                remove_stale(&path, &address)?;
                bind(&socket, &address).map_err(failed)?;
            }
            other => other.map_err(failed)?,
        }
        let found = std::fs::symlink_metadata(&path)
            .map_err(|error| explain(&error, "cannot find", &path))?;
        let file = device_and_inode(&found);
        let listener = Listener {
            socket,
            path,
            file,
            creator: Creator::this(),
        };
        if found.mode() & CONNECT != CONNECT {
            return Err(umask_error(
                &listener.path,
                found.mode(),
                "no process could connect",
            ));
        }
        if !base.contains_socket(&listener.path, file) {
            return Err(Error::other(format!(
                "{} is in another directory than a moment ago: take one that nobody replaces",
                listener.path.display()
            )));
        }
        listen(&listener.socket, BACKLOG)
            .map_err(|error| explain(&error.into(), "cannot listen at", &listener.path))?;
        Ok(listener)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file unless another process has replaced it, and ends the connections that were
    /// not accepted: a forked process has a copy of the socket, which would keep it open. The copy
    /// itself only closes its descriptor.
    pub(super) fn close(&self) {
        if !self.creator.is_this() {
            return;
        }
        if std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| device_and_inode(&found) == self.file)
        {
            let _ = std::fs::remove_file(&self.path);
        }
        // No further connection is possible.
        let _ = shutdown(&self.socket, Shutdown::Both);
        while let Ok(stream) = accept_with(&self.socket, SocketFlags::CLOEXEC) {
            drop(HostStream::new(stream));
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}
