//! The metadata of a pid.

use super::signals::is_wrong_owner;
use crate::error::{Errno, Error, Invalid, Resource};
use crate::node::rpc::{ReplyData, error_by};
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::wire::{Answer, Message, MetaCode};
use crate::{Pid, Vmid};

/// # Metadata
impl<P: Pal> Node<'_, P> {
    /// Returns the user ID and the group ID of a process anywhere in the family, in this order. Blocks for the answer of
    /// that process.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if there is no such pid, [`Error::Refused`] with the error of its
    /// process; else as [every call](Node#errors-of-every-call).
    pub fn credentials(&self, pid: Pid, wait: Wait<'_>) -> Result<(u32, u32), Error> {
        self.credentials_in(pid, wait)
    }

    /// Reads the path of a process's executable, working directory or root directory, anywhere in the family. Blocks for
    /// the answer of that process. Returns the path's length in bytes; the path is at the start of `path`, without its NUL.
    ///
    /// # Errors
    /// As [`Node::credentials`]; [`Error::Invalid`] if `what` is no path or the path is longer than
    /// the buffer ([`PATH_MAX`](crate::PATH_MAX) bytes are always enough); [`Error::Full`] at the
    /// limit of such calls at once.
    pub fn path_of(
        &self,
        pid: Pid,
        what: MetaCode,
        path: &mut [u8],
        wait: Wait<'_>,
    ) -> Result<usize, Error> {
        self.path_of_in(pid, what, path, wait)
    }

    /// Requests metadata of a pid; the data is at the start of `data`. Returns its length.
    #[cfg(feature = "capi")]
    pub(crate) fn metadata(
        &self,
        pid: Pid,
        what: MetaCode,
        data: &mut [u8],
        wait: Wait<'_>,
    ) -> Result<usize, Error> {
        self.metadata_in(pid, what, data, wait)
    }
}

calls! {
    fn credentials_in(&self, pid: Pid, wait: Wait<'_>) -> Result<(u32, u32), Error> {
        self.check_running()?;
        let mut data = [0; 8];
        let what = MetaCode::Credentials;
        let length = wait!(self.metadata_in(pid, what, &mut data, wait))?;
        if length != data.len() {
            return Err(Error::Invalid(Invalid::Answer));
        }
        let number = |bytes: Option<&[u8; 4]>| bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes));
        Ok((number(data.first_chunk()), number(data.last_chunk())))
    }

    fn path_of_in(
        &self,
        pid: Pid,
        what: MetaCode,
        path: &mut [u8],
        wait: Wait<'_>,
    ) -> Result<usize, Error> {
        self.check_running()?;
        if what == MetaCode::Credentials {
            return Err(Error::Invalid(Invalid::Metadata));
        }
        let length = wait!(self.metadata_in(pid, what, path, wait))?;
        match path.get(..length).and_then(|path| path.split_last()) {
            Some((0, path)) if !path.contains(&0) => Ok(path.len()),
            _ => Err(Error::Invalid(Invalid::PathLength)),
        }
    }

    fn metadata_in(
        &self,
        pid: Pid,
        what: MetaCode,
        data: &mut [u8],
        wait: Wait<'_>,
    ) -> Result<usize, Error> {
        let wait = self.begin(wait);
        let known = self.known_owner(pid.get());
        if let Some(owner) = known {
            let length = wait!(self.metadata_at(owner, pid, what, data, wait));
            if !is_wrong_owner(&length) {
                return length;
            }
        }
        let owner = wait!(self.other_owner(pid.get(), known, wait))?;
        wait!(self.metadata_at(owner, pid, what, data, wait))
    }

    fn metadata_at(
        &self,
        owner: Vmid,
        pid: Pid,
        what: MetaCode,
        data: &mut [u8],
        wait: Wait<'_>,
    ) -> Result<usize, Error> {
        let mut data = ReplyData {
            bytes: data,
            length: 0,
        };
        let message = Message::PidGetMeta {
            pid: pid.get(),
            code: what,
        };
        wait!(self.send_short_limits(owner, wait))?;
        let answer = self.call_for_data(owner, &message, &mut data, wait);
        match wait!(answer)? {
            Answer::Meta(Ok(_)) => Ok(data.length),
            // The answer is longer than the frames that this process accepts.
            Answer::Meta(Err(Errno::EMSGSIZE)) => Err(Error::Full(Resource::FrameLength)),
            Answer::Meta(Err(errno)) => Err(error_by(Some(owner), errno)),
            _ => Err(Error::Invalid(Invalid::Answer)),
        }
    }
}
