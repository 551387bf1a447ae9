//! The socket files at which members listen, `{base}.{vmid}`: their paths, and the removal of those that dead processes left.

use std::ffi::{OsStr, OsString};
use std::format;
use std::fs::{DirBuilder, Metadata};
use std::io::{Error, ErrorKind, Result};
use std::mem::take;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::string::String;
use std::sync::Mutex;
use std::vec::Vec;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, open, openat, statat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::Uid;

use super::creator::Creator;
use super::errors::exhaustion_advice;
use crate::Vmid;
use crate::invariant::Count;

/// The greatest length of a Unix socket's path, in bytes.
const PATH_LIMIT: usize = 107;
/// The length of a dot and the longest VMID, in bytes.
const SUFFIX_LENGTH: usize = 11;

/// The paths of a family's socket files. They differ in the VMID at their end.
#[derive(Debug)]
pub(super) struct Base {
    path: PathBuf,
    /// The directory of the sockets, as it was found at the start, wherever `path` leads later.
    directory: OwnedFd,
    /// Members whose connections have ended, and whose socket files were still in use then. If there are too many, the
    /// oldest is dropped.
    ended: Mutex<Vec<Vmid>>,
    creator: Creator,
}

/// The greatest number of members in [`Base::ended`]: the kernel may close the connections of a process that dies before
/// its listening socket, and a process that was cut off may go on for a while.
const MAX_ENDED: usize = 64;

impl Base {
    /// Checks that every member's address fits into a socket address, so that no peer is found
    /// unreachable later. Makes the directory if it is missing.
    pub(super) fn new(base: &Path) -> Result<Base> {
        let length = base.as_os_str().len();
        if length.saturating_add(SUFFIX_LENGTH) > PATH_LIMIT {
            let most = PATH_LIMIT.saturating_sub(SUFFIX_LENGTH);
            return Err(invalid(format!(
                "{} has {length} bytes, too many for a Unix socket's path: take one of at most {most}",
                base.display()
            )));
        }
        let bytes = base.as_os_str().as_bytes();
        // The path is split as the kernel does it: `Path` would drop a dot at the end.
        let (directory, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
            Some(0) => bytes.split_at(1),
            Some(slash) => (
                bytes.get(..slash).unwrap_or(b"/"),
                bytes.get(slash.plus(1)..).unwrap_or(b""),
            ),
            None => (&b"."[..], bytes),
        };
        if matches!(name, b"" | b"." | b"..") {
            return Err(invalid(format!(
                "{} does not end in a file name: take a directory and a name for the family in it",
                base.display()
            )));
        }
        if bytes.contains(&0) {
            return Err(invalid(format!(
                "{:?} has a zero byte in it",
                base.display()
            )));
        }
        let directory = Path::new(OsStr::from_bytes(directory));
        let was_there = directory.exists();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| explain(&error, "cannot make the directory", directory))?;
        if !was_there {
            let made = std::fs::metadata(directory)?.mode();
            if made & 0o700 != 0o700 {
                let _ = std::fs::remove_dir(directory);
                return Err(umask_error(directory, made, "nobody could listen in it"));
            }
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = open(directory, flags, Mode::empty())
            .map_err(|error| explain(&error.into(), "cannot open the directory", directory))?;
        // The absolute path leads to the same directory after the process has changed its current
        // directory. It is used if it is short enough.
        let path = std::path::absolute(base)
            .ok()
            .filter(|path| path.as_os_str().len().saturating_add(SUFFIX_LENGTH) <= PATH_LIMIT)
            .unwrap_or_else(|| base.to_path_buf());
        Ok(Base {
            path,
            directory: opened,
            ended: Mutex::new(Vec::with_capacity(MAX_ENDED)),
            creator: Creator::this(),
        })
    }

    /// Returns true if the directory belongs to this user and no other user can add or remove files
    /// in it.
    pub(super) fn directory_is_private(&self, user: Uid) -> bool {
        fstat(&self.directory)
            .is_ok_and(|found| found.st_uid == user.as_raw() && found.st_mode & 0o022 == 0)
    }

    /// Returns true if that socket file is in the directory. It is not if the path leads to another
    /// directory by now.
    pub(super) fn contains_socket(&self, path: &Path, file: (u64, u64)) -> bool {
        let name = path.file_name().unwrap_or_default();
        statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|found| (found.st_dev, found.st_ino) == file)
    }

    /// Returns the path of the member's socket file.
    pub(super) fn path(&self, vmid: Vmid) -> PathBuf {
        let mut path =
            OsString::with_capacity(self.path.as_os_str().len().saturating_add(SUFFIX_LENGTH));
        path.push(&self.path);
        path.push(format!(".{vmid}"));
        PathBuf::from(path)
    }

    /// Opens a stream to the member.
    pub(super) fn connect(&self, vmid: Vmid) -> rustix::io::Result<OwnedFd> {
        let address = self.address(vmid)?;
        let socket = new_socket()?;
        loop {
            match connect(&socket, &address) {
                Ok(()) => return Ok(socket),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets one process at a time replace or remove a socket file that a dead process left: between the check that the
    /// process is dead and the removal, no other process can put its own socket in that place. The lock ends with the
    /// descriptor.
    pub(super) fn lock(&self, operation: FlockOperation) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(&self.directory, ".", flags, Mode::empty())?;
        flock(&directory, operation)?;
        Ok(directory)
    }

    /// Removes the socket file of a member whose connection has ended, now if the process is dead, or else at a later call.
    pub(super) fn clean_up_after(&self, vmid: Vmid) {
        let Ok(mut ended) = self.ended.lock() else {
            return;
        };
        if !ended.contains(&vmid) {
            if ended.len() >= MAX_ENDED {
                ended.remove(0);
            }
            ended.push(vmid);
        }
        ended.retain(|vmid| !self.remove_left_over(*vmid));
    }

    /// Removes the socket file of a process, if the process is dead. Returns false if the caller has to try again: the
    /// process may be about to die. It does not block.
    fn remove_left_over(&self, vmid: Vmid) -> bool {
        let path = self.path(vmid);
        let Ok(address) = self.address(vmid) else {
            return true;
        };
        if !path.exists() {
            return true;
        }
        let Ok(_lock) = self.lock(FlockOperation::NonBlockingLockExclusive) else {
            return false;
        };
        remove_stale(&path, &address).is_ok()
    }

    /// Returns the address of the member's socket.
    pub(super) fn address(&self, vmid: Vmid) -> rustix::io::Result<SocketAddrUnix> {
        SocketAddrUnix::new(self.path(vmid))
    }
}

impl Drop for Base {
    /// Tries once more to remove what dead members left.
    fn drop(&mut self) {
        if self.creator.is_this() {
            let ended = self.ended.get_mut().map_or_else(|_| Vec::new(), take);
            for vmid in ended {
                self.remove_left_over(vmid);
            }
        }
    }
}

/// Makes a socket of the kind that connects members.
pub(super) fn new_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Returns the device and the inode, which identify a file.
pub(super) fn device_and_inode(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Removes a socket file that a dead process left; an error if a live process has it.
pub(super) fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<()> {
    let Ok(before) = std::fs::symlink_metadata(path) else {
        return Ok(()); // Its owner removed it just now.
    };
    if !before.file_type().is_socket() {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "{} exists and is no socket: remove it or take another base path",
                path.display()
            ),
        ));
    }
    // A datagram socket can't connect to a stream socket. The error is `CONNREFUSED` if no process has that socket, and
    // another one if a process has it, even before it listens. No process notices the attempt.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
        .map_err(|error| explain(&error.into(), "cannot listen at", path))?;
    match connect(&probe, address) {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::CONNREFUSED) => {
            let now = std::fs::symlink_metadata(path);
            if now.is_ok_and(|now| device_and_inode(&now) == device_and_inode(&before)) {
                std::fs::remove_file(path)
                    .map_err(|error| explain(&error, "cannot remove the left-over socket", path))?;
            }
            Ok(())
        }
        _ => Err(Error::new(
            ErrorKind::AddrInUse,
            format!(
                "{} is served by a live process: end it, or take another VMID or base path",
                path.display()
            ),
        )),
    }
}

/// Makes the error of a umask that removes a necessary right of a new file or directory.
pub(super) fn umask_error(path: &Path, mode: u32, so: &str) -> Error {
    let mode = mode & 0o777;
    Error::new(
        ErrorKind::PermissionDenied,
        format!(
            "{} was made with mode {mode:03o}, so {so}: the umask of this process must leave its own \
             user's rights (077 does)",
            path.display()
        ),
    )
}

fn invalid(why: String) -> Error {
    Error::new(ErrorKind::InvalidInput, why)
}

/// Makes the error of a call about that path, with advice.
pub(super) fn explain(error: &Error, what: &str, path: &Path) -> Error {
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    let advice = match number {
        Some(Errno::ADDRINUSE) => {
            ": another process listens there; end it, or take another VMID or base path"
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            ": this user may not write there; take a directory of its own, such as $XDG_RUNTIME_DIR"
        }
        Some(Errno::ROFS) => ": the file system is read-only; take a directory that can be written",
        Some(Errno::NOSPC | Errno::DQUOT) => {
            ": the file system is full; free some of it, or take a base path on another one"
        }
        Some(Errno::NOENT) => {
            ": the directory is gone, or is of a file system without files; take another base path"
        }
        Some(Errno::NOTDIR | Errno::EXIST) => {
            ": a file has the name of the directory; remove it, or take another base path"
        }
        Some(error) => exhaustion_advice(error),
        None => "",
    };
    Error::new(
        error.kind(),
        format!("{what} {}: {error}{advice}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn refusal_of_a_socket_by_the_host_comes_with_advice() {
        for (errno, advice) in [
            (Errno::MFILE, "raise its limit"),
            (Errno::NFILE, "fs.file-max"),
            (Errno::NOMEM, "memory"),
            (Errno::NOBUFS, "memory"),
            (Errno::ACCESS, "a directory of its own"),
            (Errno::PERM, "a directory of its own"),
            (Errno::ROFS, "read-only"),
            (Errno::NOSPC, "free some"),
            (Errno::DQUOT, "free some"),
            (Errno::NOTDIR, "remove it"),
            (Errno::NOENT, "take another base path"),
            (Errno::ADDRINUSE, "another VMID or base path"),
        ] {
            let text =
                explain(&errno.into(), "cannot listen at", Path::new("/run/f.1")).to_string();
            assert!(text.starts_with("cannot listen at /run/f.1: "), "{text}");
            assert!(text.contains(advice), "{errno:?}: {text}");
        }
    }
}
